"""The tables of docs/results.md, recomputed from the scores that lie beside this file.

    python docs/evidence/tables.py            # write them into the page
    python docs/evidence/tables.py --check    # exit code 1 if the page says anything else

In the page a table stands between `<!-- table: NAME KIND -->` and `<!-- end -->`; the file
NAME_scores.parquet is the `scores.parquet` of a study. Kinds: `gaps` (points below multi-task, by
method), `scores` (final scores), `pairs` (differences of gaps, paired by order and seed),
`forgotten` (forgetting, and how far above that of LAMOL and of L2KD, paired too), and `means` (mean
gaps of several studies, NAME+NAME); `controlled` (scores of several studies, and how far above the
student without a teacher);
`screened` (dev scores of a search, with the gaps on test). Two are of NAME.parquet, first students
of streams and of the screen: `ranked` (what their scores rise with) and `predicted` (what their
teachers' certainty said of them).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from l2kd_ray.analysis import Design
from l2kd_ray.analysis.design import ArmId
from l2kd_ray.analysis.findings import Findings, find
from l2kd_ray.analysis.paired import compare_methods
from l2kd_ray.analysis.tradeoff import tradeoff
from l2kd_ray.names import MULTITASK, SINGLE
from l2kd_ray.report.blocks import PROBABILITY, signed, text
from l2kd_ray.report.labels import interval_label, method_label, setting_label, task_labels

HERE = Path(__file__).parent
PAGES = (
    *(HERE.parent / name for name in ("results.md", "l2kd_study.md", "divergences_study.md")),
    HERE.parents[1] / "README.md",
)
_BLOCK = re.compile(r"(<!-- table: ([\w+]+) (\w+) -->).*?(<!-- end -->)", re.DOTALL)


@cache
def findings(name: str) -> Findings:
    scores = pd.read_parquet(HERE / f"{name}_scores.parquet")
    orders = tuple(sorted(set(scores["order"]) - {""}))
    seeds = tuple(sorted(set(scores["seed"])))
    return find(scores, design=Design("all", orders, seeds) if orders else None)


def gaps(found: Findings) -> pd.DataFrame:
    """Points below multi-task: mean with its interval over seeds, by task, and over orders."""
    rows = found.arms.merge(found.orders, on=["method", "setting"], how="left")
    return pd.DataFrame(
        {
            "method": _names(rows),
            "mean gap": _with_interval(rows, "gap/abs", "gap/low", "gap/high"),
            **{label: _points(rows[f"gap/{t}"]) for t, label in task_labels(found.tasks).items()},
            "std over orders": _points(rows["std_order"]),
            "best order": _points(rows["best"]),
            "worst order": _points(rows["worst"]),
            "forgetting": _points(-rows["cl/bwt"]),
        }
    )


def scores(found: Findings) -> pd.DataFrame:
    """Final scores of the references and of each method; of teachers where there are any."""
    rows = pd.concat([found.references, found.arms], ignore_index=True)
    columns = [name for name in rows if str(name).startswith("score/")]
    labels = task_labels(found.tasks)
    table = {labels[name.split("/")[1]]: _points(rows[name]) for name in columns}
    table["mean"] = _points(rows["cl/avg"])
    if rows["teacher/avg"].notna().any():
        table["its teachers"] = _points(rows["teacher/avg"])
    return pd.DataFrame({"method": _names(rows), **table})


def pairs(found: Findings) -> pd.DataFrame:
    """Differences of the mean gaps, simultaneous intervals; p by t, adjusted for all pairs."""
    rows = found.comparisons
    against = rows[["against", "against/setting"]].set_axis(["method", "setting"], axis=1)
    return pd.DataFrame(
        {
            "first": _names(rows),
            "second": _names(against),
            "gap of the first minus the second's": _with_interval(
                rows, "difference", "low", "high"
            ),
            "adjusted p": [text(float(p), PROBABILITY) for p in rows["p_adjusted"]],
        }
    )


def forgotten(found: Findings) -> pd.DataFrame:
    """Mean score on a task just learned, and how much of it is lost when the stream ends; then how
    much more than by LAMOL and by L2KD, paired by order and seed, each interval by itself."""
    lost = found.scope.results.assign(**{"gap/abs": -found.scope.results["cl/bwt"]})
    arms = list(zip(found.arms["method"], found.arms["setting"], strict=True))
    learned = tradeoff(found.trials).set_index(["method", "setting"])["learned"]
    table = {
        "method": _names(found.arms),
        "just learned": [text(float(learned[arm])) for arm in arms],
        "forgetting": _points(-found.arms["cl/bwt"]),
    }
    for base in [arm for arm in arms if arm[0] in ("lamol", "l2kd")]:
        table[f"beside {base[0]}"] = [
            "" if arm == base else _above(found, base, arm, lost) for arm in arms
        ]
    return pd.DataFrame(table)


def screened(found: Findings) -> pd.DataFrame:
    """Mean dev score of each setting of a search, in brackets its gap on test: a row for a value of
    the first setting, a column for values of the others."""
    rows = found.gap[found.gap["setting"] != "{}"]
    settings = [json.loads(setting) for setting in rows["setting"]]
    row = next(iter(settings[0]))
    numbers = zip(settings, rows["dev"], rows["gap/abs"], strict=True)
    cells = [
        (setting.pop(row), setting_label(json.dumps(setting)), f"{text(dev)} ({text(gap)})")
        for setting, dev, gap in numbers
    ]
    table = pd.DataFrame(cells, columns=[row, "column", "cell"])
    return table.pivot(index=row, columns="column", values="cell").reset_index()


def means(*studies: Findings) -> pd.DataFrame:
    """The mean gaps of several studies, a column each, in the sequence of the first; and how far
    each task alone is below all together."""
    columns = {}
    for one in studies:
        column = gaps(one).set_index("method")["mean gap"]
        scores = one.references.set_index("method")["cl/avg"]
        column[method_label(SINGLE)] = text(float(scores[MULTITASK] - scores[SINGLE]))
        columns[", ".join(task_labels(one.tasks).values())] = column
    return pd.concat(columns, axis=1).reset_index()


def controlled(*names: str) -> pd.DataFrame:
    """Mean scores of several studies, a column each; in brackets, points above the control: the
    student of the same setting without a teacher (`kd.weight: 0`). The interval is of that
    difference by itself, paired by order and seed."""
    columns = {}
    for name in names:
        found = findings(name)
        rows = found.gap[~found.gap["reference"]].reset_index(drop=True)
        teachers = rows["teacher/avg"].dropna().unique()
        arms = list(zip(rows["method"], rows["setting"], strict=True))
        free = rows["teacher/avg"].isna()
        controls = {_apart_from_weight(arms[i][1]): arms[i] for i in rows.index[free]}
        cells = dict(zip(_names(rows), _points(rows["cl/avg"]), strict=True))
        for label, arm, taught in zip(cells, arms, ~free, strict=True):
            control = controls.get(_apart_from_weight(arm[1]))
            if taught and control:
                cells[label] += f" ({_above(found, arm, control)})"
        if len(teachers) == 1:
            cells["its teachers"] = text(float(teachers[0]))
        columns[name.replace("_", "-")] = pd.Series(cells)
    return pd.concat(columns, axis=1).fillna("").rename_axis("method").reset_index()


def _apart_from_weight(setting: str) -> str:
    return json.dumps({k: v for k, v in json.loads(setting).items() if k != "kd.weight"})


def _above(found: Findings, arm: ArmId, control: ArmId, results: pd.DataFrame | None = None) -> str:
    """How far the control's gap is above the arm's, paired, with an interval; of these results."""
    results = found.scope.results if results is None else results
    pair = compare_methods(results, [arm, control], found.scope.design, pairs=[(arm, control)])
    difference, low, high = -pair[["difference", "high", "low"]].iloc[0].astype(float)
    return f"{signed(difference)}: {interval_label(low, high)}"


def ranked(name: str) -> pd.DataFrame:
    """Spearman's correlation of the screened students' shares (as `predicted` has them) with what
    is known of their teachers, for each weight."""
    rows, screened = _first_students(name)
    columns = {"best": "p", "added": "entropy added by T", "teacher_score": "teacher's score"}
    table = {}
    for weight, some in rows[screened].groupby("weight"):
        found = some[list(columns)].corrwith(some["found"], method="spearman")
        table[f"{weight:g}"] = {
            "students": str(len(some)),
            **found.map(lambda one: text(float(one), 2)),
        }
    return pd.DataFrame(table).T.rename(columns=columns).rename_axis("w").reset_index()


def predicted(name: str) -> pd.DataFrame:
    """A student's score as a share of that without a teacher: found, and predicted from the mean
    probability p of its teacher's most likely token at T, as 1 / (1 + exp(-a - b log p)), a and b
    fitted on the screen for each weight."""
    rows, screened = _first_students(name)
    rows["log p"] = np.log(rows["best"])
    for _, some in rows.groupby("weight"):
        fitted = some[screened[some.index]]

        def share(log_p: Any, a: float, b: float) -> Any:
            return 1 / (1 + np.exp(-a - b * log_p))

        how, _ = curve_fit(share, fitted["log p"], fitted["found"], p0=(2, 1))
        rows.loc[some.index, "predicted"] = share(some["log p"], *how)
    rows["error"] = (rows["found"] - rows["predicted"]).abs()
    rows["seen by the fit"] = np.where(screened, "yes", "no")
    by = ["study", "seen by the fit", "task", "weight", "temperature"]
    columns = {"p": "best", "predicted": "predicted", "found": "found", "mean error": "error"}
    shown = rows.groupby(by).mean(numeric_only=True).reset_index()
    shown = shown.sort_values(["seen by the fit", "study"], ascending=False, kind="stable")
    keys = shown[by[1:]].rename(columns={"weight": "w", "temperature": "T"})
    numbers = {name: [f"{value:.2f}" for value in shown[c]] for name, c in columns.items()}
    return keys.map(lambda one: one if isinstance(one, str) else f"{one:g}").assign(**numbers)


def _first_students(name: str) -> tuple[pd.DataFrame, pd.Series[bool]]:
    """The rows of NAME.parquet with `found`, their share; and which are of the screen, where the
    base is a mean over the seeds."""
    rows = pd.read_parquet(HERE / f"{name}.parquet")
    rows = rows.sort_values(["weight", "temperature", "task"]).reset_index(drop=True)
    screened = rows["study"].str.startswith("screen")
    bases = rows.groupby(["study", "task"])["without"].transform("mean")
    rows["found"] = rows["score"] / rows["without"].where(~screened, bases)
    return rows, screened


def _names(rows: pd.DataFrame) -> list[str]:
    labels = zip(
        map(method_label, rows["method"]), map(setting_label, rows["setting"]), strict=True
    )
    return [f"{method} ({setting})" if setting else method for method, setting in labels]


def _points(values: pd.Series[float]) -> list[str]:
    return ["" if pd.isna(value) else text(float(value)) for value in values]


def _with_interval(rows: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    numbers = zip(_points(rows[value]), rows[low], rows[high], strict=True)
    return [
        number if pd.isna(low) else f"{number} ({interval_label(low, high)})"
        for number, low, high in numbers
    ]


def markdown(frame: pd.DataFrame) -> str:
    rule = ["---", *["---:"] * (len(frame.columns) - 1)]
    rows = [list(frame.columns), rule, *frame.to_numpy().tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def renewed(page: str) -> str:
    """The page with every table recomputed."""
    of_scores: dict[str, Callable[..., pd.DataFrame]] = {
        "gaps": gaps,
        "scores": scores,
        "pairs": pairs,
        "forgotten": forgotten,
        "screened": screened,
        "means": means,
    }
    of_files: dict[str, Callable[..., pd.DataFrame]] = {
        "controlled": controlled,
        "ranked": ranked,
        "predicted": predicted,
    }

    def table(match: re.Match[str]) -> str:
        begin, names, kind, end = match.groups()
        if kind in of_files:
            rows = of_files[kind](*names.split("+"))
        else:
            rows = of_scores[kind](*map(findings, names.split("+")))
        return f"{begin}\n\n{markdown(rows)}\n{end}"

    return _BLOCK.sub(table, page)


def main(check: bool) -> int:
    changed = 0
    for file in PAGES:
        old = file.read_text("utf-8")
        new = renewed(old)
        if new != old:
            changed += 1
            print(f"{file.name}: {'not what the evidence says' if check else 'written'}")
            if not check:
                file.write_text(new, "utf-8")
    return int(check and changed > 0)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
