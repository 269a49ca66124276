"""The sections on the stream itself: robustness to its order, the score matrix, forgetting."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from l2kd_ray.report import figures, heatmaps
from l2kd_ray.report.blocks import Block, Picture, Prose, Section, Table, text
from l2kd_ray.report.findings import Findings
from l2kd_ray.report.labels import ARROW, method_label, order_labels, row_labels, task_labels
from l2kd_ray.report.style import Look


def order_section(found: Findings, look: Mapping[str, Look]) -> list[Section]:
    rows = found.chosen.dropna(subset=["gap/abs"])
    rows = rows[rows["order"] != ""]
    if rows.empty:
        return []
    every = sorted(set(rows["order"]))
    labels, legend = order_labels(every)
    orders = rows[["method", "setting"]].drop_duplicates().merge(found.orders)
    letters = f" Tasks: {legend}." if legend else ""
    blocks: list[Block] = []
    if len(every) > 1:
        named = len(every) <= figures.MOST_NAMED_ORDERS
        seeds = " Small markers: single seeds." if named and rows["seed"].nunique() > 1 else ""
        words = "; ".join(
            f"{method_label(row['method'])} from {text(row['best'])} to {text(row['worst'])}"
            for _, row in orders.iterrows()
        )
        blocks.append(
            Picture(
                "gap_by_order",
                f"Gap to multi-task of {len(every)} task orders, by method: {words}.",
                f"The gap of each of the {len(every)} task orders, from the easiest to the hardest."
                f"{seeds}{letters if named else ''}",
                figures.gap_by_order(rows, look),
            )
        )
    frame = pd.DataFrame(
        {
            "Method": [method_label(method) for method in orders["method"]],
            "Std": orders["std"].astype(float),
            "Best": orders["best"].astype(float),
            "Worst": orders["worst"].astype(float),
            "Worst order": [labels.get(order, order) for order in orders["worst_order"]],
            "CVaR 20 %": orders["cvar20"].astype(float),
            "AOPD": orders["aopd"].astype(float),
            "MOPD": orders["mopd"].astype(float),
        }
    )
    caption = (
        "The gap over task orders, in points, seeds averaged first. CVaR 20 %: mean of the worst "
        "fifth of the orders. AOPD, MOPD: how far a task's final score differs between orders, "
        f"mean and maximum over tasks.{letters}"
    )
    blocks.append(Table("orders", caption, frame))
    return [Section("Robustness to task order", tuple(blocks))]


def matrix_section(found: Findings, order: str | None) -> list[Section]:
    """R of each method: of one order where it is named or the only one, else the mean by place."""
    rows = found.chosen[found.chosen["order"] != ""]
    if order is None and rows["order"].nunique() == 1:
        order = str(rows["order"].iloc[0])
    if order is not None:
        rows = rows[rows["order"] == order]
    if rows.empty:
        return []
    n = len(found.tasks)
    if order is None:
        columns = [_ordinal(place) for place in range(1, n + 1)]
        caption = (
            "Mean over orders and seeds **by place in the order**: a row is the student after its "
            "i-th task, a column its j-th task, whichever task that was."
        )
    else:
        columns = [task_labels(found.tasks)[task] for task in order.split(">")]
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
        f"Score matrices R, a heat map a method. Tasks by their place in the order: {words}.",
        f"{caption} Outlined: the task just learned; to the right of it, tasks still to come.",
        heatmaps.score_matrices(means, columns, ["untrained", *(f"after {c}" for c in columns)]),
    )
    return [Section("Score matrix", (picture,))]


def _ordinal(place: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(place, f"{place}th")


def forgetting_section(found: Findings, look: Mapping[str, Look]) -> list[Section]:
    arms = found.arms[found.arms["n_orders"] > 0].reset_index(drop=True)
    if arms.empty:
        return []
    columns = {
        "ACC": "cl/avg",
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
        "forgetting and intransigence, higher for ACC, BWT and FWT."
    )
    blocks: list[Block] = [Table("forgetting", caption, frame)]
    rows = found.chosen.dropna(subset=["cl/forgetting_max"])
    if len(found.tasks) == 1:
        blocks.append(Prose("A stream of one task has nothing to forget or to transfer."))
    elif len(rows):
        first = {method: R[1:, 0] for method, R in found.mean_matrices(rows).items()}
        words = "; ".join(
            f"{name} {text(float(value))}"
            for name, value in zip(frame["Method"], frame["Forgetting (max)"], strict=True)
        )
        picture = Picture(
            "forgetting",
            f"Mean forgetting in points, by method: {words}.",
            "Left: points lost between each task's best and its final score; thin ticks are single "
            "orders. Right: the score on whichever task came first, while later ones are learned.",
            figures.forgetting(rows, first, look),
        )
        blocks.insert(0, picture)
    return [Section("Forgetting and transfer", tuple(blocks))]
