"""The sections on the stream itself: the score matrix, forgetting and transfer."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from l2kd_ray.analysis.findings import Findings
from l2kd_ray.names import SEPARATOR
from l2kd_ray.report import figures, heatmaps
from l2kd_ray.report.blocks import Block, Picture, Prose, ReportSection, Table, text
from l2kd_ray.report.labels import ARROW, method_label, ordinal, row_labels, task_labels
from l2kd_ray.report.style import LineStyle


def matrix_section(found: Findings) -> list[ReportSection]:
    """R of each method: of the only order, else the mean over orders by position in the order."""
    rows = found.used
    if rows.empty:
        return []
    n = len(found.tasks)
    if rows["order"].nunique() > 1:
        columns = [ordinal(k) for k in range(1, n + 1)]
        caption = (
            "Mean over orders and seeds **by position in the order**: a row is the student after "
            "its i-th task, a column its j-th task, whichever task that was."
        )
    else:
        columns = [
            task_labels(found.tasks)[task] for task in rows["order"].iloc[0].split(SEPARATOR)
        ]
        caption = (
            f"Order {ARROW.join(columns)}, mean over seeds: a row is the student after a task."
        )
    means = found.mean_matrices(rows)
    words = "; ".join(
        f"{method_label(method)} ends at {', '.join(text(float(score)) for score in R[-1])}"
        for method, R in means.items()
    )
    picture = Picture(
        "score_matrices",
        f"Score matrices R, a heat map a method. Tasks by their position in the order: {words}.",
        f"{caption} Outlined: the task just learned; to the right of it, tasks still to come.",
        heatmaps.score_matrices(means, columns, ["untrained", *(f"after {c}" for c in columns)]),
    )
    return [ReportSection("Score matrix", (picture,))]


def forgetting_section(found: Findings, look: Mapping[str, LineStyle]) -> list[ReportSection]:
    arms = found.arms[found.arms["n_orders"] > 0].reset_index(drop=True)
    if arms.empty:
        return []
    columns = {
        "ACC": "cl/avg",
        "Incremental": "cl/incremental",
        "Forgetting (max)": "cl/forgetting_max",
        "Forgetting (first)": "cl/forgetting_first",
        "BWT": "cl/bwt",
        "FWT": "cl/fwt",
        "Intransigence": "cl/intransigence",
    }
    frame = pd.DataFrame({"Method": row_labels(arms)})
    for shown, name in columns.items():
        frame[shown] = arms[name].astype(float)
    caption = (
        "Continual-learning metrics in points, mean over orders and seeds. Lower is better for "
        "forgetting and intransigence, higher for the others. Incremental: the mean score on the "
        "tasks seen so far, averaged over the stream."
    )
    blocks: list[Block] = [Table("forgetting", caption, frame)]
    rows = found.used.dropna(subset=["cl/forgetting_max"])
    if len(found.tasks) == 1:
        blocks.append(Prose("A stream of one task has nothing to forget or to transfer."))
    elif len(rows):
        blocks = [*_pictures(found, rows, look), *blocks]
    return [ReportSection("Forgetting and transfer", tuple(blocks))]


def _pictures(found: Findings, rows: pd.DataFrame, look: Mapping[str, LineStyle]) -> list[Block]:
    arms = found.arms[found.arms["method"].isin(rows["method"])]
    lost = arms.set_index("method")["cl/forgetting_max"].sort_values(kind="stable")
    first = {method: R[1:, 0] for method, R in found.mean_matrices(rows).items()}
    each = "; ".join(f"{method_label(str(m))} {text(float(points))}" for m, points in lost.items())
    paths = "; ".join(
        f"{method_label(m)} from {text(float(path[0]))} to {text(float(path[-1]))}"
        for m, path in first.items()
    )
    return [
        Picture(
            "forgetting",
            f"Mean forgetting in points, by method: {each}.",
            "Points lost between each task's best and its final score. Thin ticks: single orders.",
            figures.forgetting(lost, rows, look),
        ),
        Picture(
            "first_task",
            f"Score on the first task, from when it is learned to the end, by method: {paths}.",
            "The score on whichever task came first, while later ones are learned.",
            figures.first_task(first, look),
        ),
    ]
