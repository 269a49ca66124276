"""The section that answers the question: the gap to multi-task, by method and task."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from l2kd_ray.analysis.examples import over_examples
from l2kd_ray.analysis.findings import Findings
from l2kd_ray.analysis.shares import BASELINE
from l2kd_ray.names import MULTITASK, SINGLE
from l2kd_ray.report import figures
from l2kd_ray.report.blocks import (
    Block,
    Fold,
    Picture,
    Prose,
    ReportSection,
    Table,
    measured,
    text,
)
from l2kd_ray.report.labels import (
    interval_label,
    level_label,
    method_label,
    row_labels,
    task_labels,
)
from l2kd_ray.report.sentences import note_words
from l2kd_ray.report.style import LineStyle

_REFERENCES = {
    MULTITASK: "one model of all tasks at once, which the gaps are measured from.",
    SINGLE: "a model for each task, which has seen no other.",
}


def each_by_itself(found: Findings, low: pd.Series[float]) -> str:
    """The end of a caption of a table with intervals of these lower ends below its numbers."""
    level = level_label(found.scope.level)
    return f" Below each, its {level} interval by itself." if low.notna().any() else ""


def gap_section(
    found: Findings,
    look: Mapping[str, LineStyle],
    examples: pd.DataFrame | None = None,
    distilled: str = "",
    methods: Mapping[str, str] | None = None,
) -> ReportSection:
    """`distilled`: the legend of what students are distilled by (`distilled_by`); `methods`: what
    each of them is."""
    arms = found.arms
    blocks: list[Block] = []
    with_gap = arms[arms["gap/abs"].notna()]
    done = found.scope.results[found.scope.results["complete"]]
    if len(with_gap):
        words = "; ".join(
            f"{name} {text(gap)}"
            for name, gap in zip(
                row_labels(with_gap),
                measured(with_gap, "gap/abs", "gap/low", "gap/high"),
                strict=True,
            )
        )
        known = with_gap["gap/low"].notna().any()
        bar = f" Bar: {level_label(found.scope.level)} interval." if known else ""
        blocks.append(
            Picture(
                "gap_by_method",
                f"Mean gap to multi-task in points, by method: {words}.",
                "How far below multi-task each method ends. Marker: mean over orders and seeds."
                f"{bar} Thin ticks: single orders.{distilled}",
                figures.gap_by_method(with_gap, done, look),
            )
        )
    if len(arms):
        wider = over_examples(found.scope, examples) if examples is not None else None
        table = _gap_table(found, wider)
        blocks += [table, *_reasons(arms), *_task_table(found)]
    else:
        blocks.append(Prose("No lifelong method has a score yet."))
    blocks.append(_score_table(pd.concat([found.references, arms], ignore_index=True)))
    if methods:
        told = {**methods, **_REFERENCES}
        lines = tuple(Prose(f"**{method_label(name)}**: {what}") for name, what in told.items())
        blocks.append(Fold("What the methods are", lines))
    return ReportSection("Gap to multi-task", tuple(blocks))


def _gap_table(found: Findings, wider: pd.DataFrame | None) -> Table:
    arms, labels = found.arms, task_labels(found.tasks)
    frame = pd.DataFrame({"Method": row_labels(arms)})
    frame["Mean gap"] = measured(arms, "gap/abs", "gap/low", "gap/high")
    for task, label in labels.items():
        frame[label] = arms[f"gap/{task}"].astype(float)
    frame["Relative, %"] = measured(arms, "gap/rel", "rel/low", "rel/high", 100)
    interval = ""
    if arms["gap/low"].notna().any():
        interval = f" Below a mean, its {level_label(found.scope.level)} interval by itself."
    words = (
        "Gap in points, and by task: multi-task minus the end of the stream; lower is better."
        f"{interval} Relative: of the multi-task score."
    )
    if BASELINE in set(arms["method"]):
        frame["Gap closed, %"] = measured(arms, "closed/value", "closed/low", "closed/high", 100)
        words += " Gap closed: of the gap of LAMOL."
    if arms["failed/n"].any():
        frame["Failed"] = arms["failed/n"].astype(int)
        frame["Failed as 0"] = arms["failed/gap"].astype(float)
        words += " Failed: trials; their orders are left out. Failed as 0: the gap if they score 0."
    if wider is not None and len(wider) and wider["low"].notna().any():
        both = arms.merge(wider, on=["method", "setting"], how="left")
        frame["Other examples too"] = [
            interval_label(*bounds) for bounds in zip(both["low"], both["high"], strict=True)
        ]
        words += (
            f" Other examples too: the {level_label(found.scope.level)} interval of the mean gap "
            "if the test examples had been others like these; all other intervals are for the test "
            "examples at hand."
        )
    if arms["n_orders"].any():
        frame["Orders"] = arms["n_orders"].astype(int)
    frame["Seeds"] = arms["n_seeds"].astype(int)
    return Table("gap", words, frame, digits={"Gap closed, %": 0})


def _task_table(found: Findings) -> list[Block]:
    """Gap and forgetting of each task with intervals, where there are several tasks."""
    rows = found.places
    if rows.empty or len(found.tasks) < 2:
        return []
    rows = rows[rows["place"].isna()].reset_index(drop=True)
    labels = task_labels(found.tasks)
    frame = pd.DataFrame(
        {"Task": rows["task"].map(labels), "Method": rows["method"].map(method_label)}
    )
    caption = (
        "By task: gap, forgetting, the score right after the task was learned and the final one."
        f"{each_by_itself(found, rows['gap/low'])}"
    )
    return [Fold("By task", (Table("tasks", caption, place_columns(frame, rows)),))]


def place_columns(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the measured columns of `places` to the columns that identify a row."""
    frame["Gap"] = measured(rows, "gap", "gap/low", "gap/high")
    frame["Forgetting"] = measured(rows, "forgetting", "forgetting/low", "forgetting/high")
    frame["Learned"] = rows["learned"].astype(float)
    frame["Final"] = rows["score"].astype(float)
    return frame


def _reasons(arms: pd.DataFrame) -> list[Block]:
    """The notes on intervals, each once for all rows that share it."""
    reasons: dict[str, list[str]] = {}
    with_baseline = BASELINE in set(arms["method"])
    for name, (_, row) in zip(row_labels(arms), arms.iterrows(), strict=True):
        if row["gap/note"]:
            what = "Interval" if pd.isna(row["gap/low"]) else "How far the intervals reach"
            reasons.setdefault(f"**{what}:** {note_words(row['gap/note'])}", []).append(name)
        rival = with_baseline and row["method"] != BASELINE
        if rival and pd.isna(row["closed/value"]):
            why = note_words(row["closed/note"])
            reasons.setdefault(f"**Gap closed:** {why}", []).append(name)
    return [
        Prose(f"{reason}." if len(names) == len(arms) else f"{reason} ({', '.join(names)}).")
        for reason, names in reasons.items()
    ]


def _score_table(rows: pd.DataFrame) -> Table:
    columns = [name for name in rows.columns if name.startswith("score/")]
    metric = dict(name.removeprefix("score/").rsplit("/", 1) for name in columns)
    labels = task_labels(list(metric))
    alike = len(set(metric.values())) == 1
    frame = pd.DataFrame({"Method": row_labels(rows)})
    for task, name in metric.items():
        column = labels[task] if alike else f"{labels[task]}, {name}"
        frame[column] = rows[f"score/{task}/{name}"].astype(float)
    frame["Mean (ACC)"] = rows["cl/avg"].astype(float)
    of_metric = f" ({metric[next(iter(metric))]})" if alike else ""
    return Table(
        "scores",
        f"Final scores{of_metric} on the test split, in points; higher is better. Single-task is a "
        "model trained on that task alone.",
        frame,
    )
