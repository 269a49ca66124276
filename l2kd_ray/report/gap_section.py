"""The section that answers the question: the gap to multi-task, by method and task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from l2kd_ray.analysis.compare import BASELINE
from l2kd_ray.report import figures
from l2kd_ray.report.blocks import Block, Picture, Prose, Section, Table, text
from l2kd_ray.report.findings import Findings
from l2kd_ray.report.labels import interval_label, row_labels, task_labels
from l2kd_ray.report.style import Look


def gap_section(found: Findings, look: Mapping[str, Look]) -> Section:
    arms = found.arms
    blocks: list[Block] = []
    with_gap = arms[arms["gap/abs"].notna()]
    if len(with_gap):
        words = "; ".join(
            f"{name} {text(float(gap))}"
            for name, gap in zip(row_labels(with_gap), with_gap["gap/abs"], strict=True)
        )
        bar = " Bar: 95 % interval over seeds." if with_gap["gap/low"].notna().any() else ""
        blocks.append(
            Picture(
                "gap_by_method",
                f"Mean gap to multi-task in points, by method: {words}.",
                "How far below multi-task each method ends. Marker: mean over orders and seeds."
                f"{bar} Thin ticks: single orders.",
                figures.gap_by_method(with_gap, found.results[found.results["complete"]], look),
            )
        )
    if len(arms):
        blocks += [_gap_table(arms, found.tasks), *_reasons(arms)]
    else:
        blocks.append(Prose("No lifelong method has a score yet."))
    blocks.append(_score_table(pd.concat([found.references, arms], ignore_index=True)))
    return Section("Gap to multi-task", tuple(blocks))


def _gap_table(arms: pd.DataFrame, tasks: Sequence[str]) -> Table:
    labels = task_labels(tasks)
    frame = pd.DataFrame({"Method": row_labels(arms)})
    for task, label in labels.items():
        frame[label] = arms[f"gap/{task}"].astype(float)
    frame["Mean"] = arms["gap/abs"].astype(float)
    frame["95 % interval"] = [
        interval_label(*bounds) for bounds in zip(arms["gap/low"], arms["gap/high"], strict=True)
    ]
    frame["Relative, %"] = 100 * arms["gap/rel"].astype(float)
    with_baseline = BASELINE in set(arms["method"])
    if with_baseline:
        closed = 100 * arms[["closed/value", "closed/low", "closed/high"]].astype(float)
        frame["Gap closed, %"] = [
            text(value, 0) + ("" if np.isnan(value) else f" ({interval_label(low, high, 0)})")
            for value, low, high in closed.to_numpy().tolist()
        ]
    frame["Orders"] = arms["n_orders"].astype(int)
    frame["Seeds"] = arms["n_seeds"].astype(int)
    return Table(
        "gap",
        "Gap in points by task, mean over orders and seeds; lower is better, the lowest in bold. "
        "Relative: of the multi-task score."
        f"{' Gap closed: of the gap of LAMOL.' if with_baseline else ''}",
        frame,
        strong=_lowest(frame, [*labels.values(), "Mean", "Relative, %"]),
    )


def _lowest(frame: pd.DataFrame, columns: Sequence[str]) -> frozenset[tuple[int, str]]:
    """The lowest cell of each column; none of a single row, where nothing is compared."""
    if len(frame) < 2:
        return frozenset()
    return frozenset(
        (int(k), name) for name in columns for k in np.flatnonzero(frame[name] == frame[name].min())
    )


def _reasons(arms: pd.DataFrame) -> list[Block]:
    """Why an interval or a share is missing, said once for all the rows it is true of."""
    reasons: dict[str, list[str]] = {}
    with_baseline = BASELINE in set(arms["method"])
    for name, (_, row) in zip(row_labels(arms), arms.iterrows(), strict=True):
        if pd.isna(row["gap/low"]) and row["gap/note"]:
            reasons.setdefault(f"**Interval:** {row['gap/note']}", []).append(name)
        rival = with_baseline and row["method"] != BASELINE
        if rival and pd.isna(row["closed/value"]):
            reasons.setdefault(f"**Gap closed:** {row['closed/note']}", []).append(name)
    return [
        Prose(f"{reason}." if len(names) == len(arms) else f"{reason}; {', '.join(names)}.")
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
