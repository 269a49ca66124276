"""Methods and settings against each other: selection on dev, the gap table, the gap closed."""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial, sqrt

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from l2kd_ray.analysis.orders import LEVEL, Estimate, mean_gap, seed_means
from l2kd_ray.analysis.trials import METRICS, REFERENCES, results, train_seed

BASELINE = "lamol"


def select(dev: pd.DataFrame) -> pd.DataFrame:
    """The setting of each method, by the best mean dev score. Test data is never asked.

    `dev` is `results(scores, split="dev")`. Settings of a method are compared on the instances
    (order, seed) that all of them have complete; where they share none yet, each on its own, and
    `note` says so. A method's only setting is selected whatever its scores.

    Returns:
        One row for each (method, setting): method, setting, dev (mean ACC in points), selected,
        note.
    """
    rows = []
    for method, of_method in dev.groupby("method", sort=True):
        settings = list(dict.fromkeys(of_method["setting"]))
        complete = of_method[of_method["complete"]]
        compared, note = complete, ""
        if len(settings) > 1:
            compared, note = _shared_block(complete)
        means = compared.groupby("setting")["cl/avg"].mean().reindex(settings)
        best = settings[0] if len(settings) == 1 else None
        if best is None and means.notna().any():
            best = str(means.idxmax())
        if best is None:
            note = "no dev score is complete: no setting is selected"
        rows += [
            {
                "method": method,
                "setting": setting,
                "dev": means[setting],
                "selected": setting == best,
                "note": note,
            }
            for setting in settings
        ]
    return pd.DataFrame(rows)


def _shared_block(complete: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows whose instance every setting of `complete` has, else all rows and a warning."""
    instance = complete["order"] + "|" + complete["seed"]
    shared = complete.groupby(instance)["setting"].transform("nunique")
    block = complete[shared == complete["setting"].nunique()]
    if block.empty:
        return complete, "provisional: the settings share no complete instance yet"
    return block, ""


def gap_closed(rows: pd.DataFrame, baseline: pd.DataFrame) -> Estimate:
    """1 - gap / gap(baseline), a fraction: the share of the baseline's gap that a method closes.

    A ratio of study means over the instances that both have complete, with Fieller's interval
    (1954) over the seeds, paired. Undefined where the baseline's own interval holds 0, which is
    where Fieller's has no bounds.
    """
    own, other = rows.dropna(subset=["gap/abs"]), baseline.dropna(subset=["gap/abs"])
    instance = ["order", "seed"]
    paired = own[[*instance, "gap/abs"]].merge(other[[*instance, "gap/abs"]], on=instance)
    if paired.empty:
        return Estimate(note=f"no complete instance is shared with {BASELINE}")
    of_baseline = mean_gap(paired, "gap/abs_y")
    if not of_baseline.bounded:
        return Estimate(note=f"undefined, as {BASELINE} has no interval ({of_baseline.note})")
    if of_baseline.low <= 0 <= of_baseline.high:
        return Estimate(note=f"undefined, as the interval of {BASELINE}'s own gap holds 0")
    if of_baseline.value < 0:
        return Estimate(note=f"undefined, as {BASELINE} ends above multi-task")

    means = seed_means(paired, ["gap/abs_x", "gap/abs_y"]).to_numpy(dtype=float)
    x, y = means.mean(axis=0)
    t = float(stdtrit(len(means) - 1, (1 + LEVEL) / 2))
    (xx, xy), (_, yy) = t**2 * np.cov(means, rowvar=False) / len(means)
    a, b, c = y * y - yy, x * y - xy, x * x - xx
    root = sqrt(max(b * b - a * c, 0.0))
    return Estimate(1 - x / y, 1 - (b + root) / a, 1 - (b - root) / a, of_baseline.note)


def gap_table(scores: pd.DataFrame, searched: Sequence[str] = ()) -> pd.DataFrame:
    """How far below multi-task each method and setting ends; see `compare`.

    Raises:
        ValueError: `scores` is empty or is not the long form of R.
    """
    return compare(results(scores, searched), results(scores, searched, split="dev"))


def compare(test: pd.DataFrame, dev: pd.DataFrame) -> pd.DataFrame:
    """One row for each method and setting, and for the references multitask and single.

    Args:
        test: `results` of the test split, which every number is from.
        dev: `results` of the dev split, which only selection reads.

    Returns:
        method, setting, searched settings, reference (bool), selected (bool), dev, select/note,
        n_orders, n_possible (n!), n_seeds (training seeds), n_complete, n_trials; means over the
        complete trials (orders within a seed first) of `score/<task>/<metric>`, `cl/*`,
        `gap/<task>`, `gap/abs`, `gap/rel` (a ratio of study means); `gap/low`, `gap/high`,
        `gap/note`; `closed/value`, `/low`, `/high` and `/note` against LAMOL. All in points, but
        gap/rel and closed are fractions. Sorted by gap, references last.
    """
    fixed = {"method", "setting", "order", "seed", "trial", "complete"}
    numbers = [name for name in test.columns if name.startswith(("score/", "cl/", "gap/"))]
    searched = [name for name in test.columns if name not in fixed and name not in numbers]
    chosen = select(dev)
    complete = test[test["complete"]]
    selected = chosen[chosen["selected"] & (chosen["method"] == BASELINE)]
    baseline = complete.merge(selected[["method", "setting"]], on=["method", "setting"])
    tasks = [name for name in numbers if name.startswith("gap/") and name not in METRICS]
    possible = factorial(len(tasks))
    rows = []
    for (method, setting), group in test.groupby(["method", "setting"], sort=False):
        done = group[group["complete"]]
        choice = chosen[(chosen["method"] == method) & (chosen["setting"] == setting)].iloc[0]
        reference = method in REFERENCES
        mean = seed_means(done, numbers).mean()
        gap = Estimate() if reference else mean_gap(done)
        bound = (done["gap/abs"] + done["cl/avg"]).groupby(done["seed"].map(train_seed)).mean()
        closed = Estimate() if reference else Estimate(note="the baseline")
        if not reference and method != BASELINE:
            closed = gap_closed(done, baseline)
        rows.append(
            {
                "method": method,
                "setting": setting,
                **{name: group[name].iat[0] for name in searched},
                "reference": reference,
                "selected": bool(choice["selected"]),
                "dev": choice["dev"],
                "select/note": choice["note"],
                "n_orders": done.loc[done["order"] != "", "order"].nunique(),
                "n_possible": possible,
                "n_seeds": done["seed"].map(train_seed).nunique(),
                "n_complete": len(done),
                "n_trials": len(group),
                **mean,
                "gap/abs": gap.value,
                "gap/rel": gap.value / bound.mean() if bound.mean() else np.nan,
                "gap/low": gap.low,
                "gap/high": gap.high,
                "gap/note": gap.note,
                "closed/value": closed.value,
                "closed/low": closed.low,
                "closed/high": closed.high,
                "closed/note": closed.note,
            }
        )
    return pd.DataFrame(rows).sort_values(
        ["reference", "gap/abs", "method", *searched], ignore_index=True
    )
