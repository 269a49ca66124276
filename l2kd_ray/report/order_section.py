"""The section on robustness to the order of the tasks: every order, and every position in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from l2kd_ray.analysis.findings import Findings
from l2kd_ray.analysis.scope import assisted_means
from l2kd_ray.report import figures
from l2kd_ray.report.blocks import (
    Block,
    Measured,
    Picture,
    Prose,
    ReportSection,
    Table,
    folded,
    measured,
    text,
)
from l2kd_ray.report.gap_section import each_by_itself, place_columns
from l2kd_ray.report.labels import level_label, method_label, order_labels, ordinal, row_labels
from l2kd_ray.report.sentences import CAVEATS
from l2kd_ray.report.style import LineStyle

_MOST_LISTED = 720
"""Orders that the page lists; the CSV file lists all."""


def order_section(found: Findings, look: Mapping[str, LineStyle]) -> list[ReportSection]:
    if found.by_order.empty:
        return []
    blocks: list[Block] = []
    if found.by_order["order"].nunique() > 1:
        blocks.append(_picture(found, look))
    blocks += [*_spread_table(found), *_every_order(found), *_place_table(found)]
    return [ReportSection("Robustness to task order", tuple(blocks))]


def _picture(found: Findings, look: Mapping[str, LineStyle]) -> Picture:
    table = found.by_order
    every = sorted(set(table["order"]))
    rows = found.chosen.dropna(subset=["gap/abs"])
    named = len(every) <= figures.MOST_NAMED_ORDERS
    _, legend = order_labels(every)
    caption = f"The gap of each of the {len(every)} task orders, from the easiest to the hardest."
    if table["low"].notna().any():
        level = level_label(found.scope.level)
        caption += (
            f" Lines: {level} intervals over seeds, of each order by itself, cut at the edge."
        )
    if named and rows["seed"].nunique() > 1:
        caption += " Small markers: single seeds."
    if named and legend:
        caption += f" Tasks: {legend}."
    words = "; ".join(
        f"{method_label(str(method))} from {text(float(gaps.min()))} to {text(float(gaps.max()))}"
        for method, gaps in table.groupby("method", sort=False)["gap"]
    )
    return Picture(
        "gap_by_order",
        f"Gap to multi-task of {len(every)} task orders, by method: {words}.",
        caption,
        figures.gap_by_order(table, rows, look),
    )


def _spread_table(found: Findings) -> list[Block]:
    """The spread over orders, the worst ones, and bounds for those that did not run."""
    rows = found.arms[["method", "setting"]].merge(found.orders, on=["method", "setting"])
    if rows.empty:
        return []
    labels, legend = order_labels(sorted(set(rows["worst_order"]) - {""}))
    columns: dict[str, object] = {
        "Method": row_labels(rows),
        "Orders": rows["n_orders"].astype(int),
        "Std of orders": rows["std_order"].astype(float),
        "Best": rows["best"].astype(float),
        "Worst": rows["worst"].astype(float),
        "CVaR 20 %": rows["cvar20"].astype(float),
    }
    caption = (
        "The gap over task orders, in points, seeds averaged first, on the orders that all "
        "methods have complete on every seed. Std of orders: without the noise of seeds, which the "
        "other numbers hold: it moves best and worst apart, and the more so the fewer seeds. CVaR "
        "20 %: mean of the worst fifth of the orders that ran."
    )
    if rows["beyond"].gt(0).any():
        columns |= {
            "Bound 20 %": rows["bound20"].astype(float),
            "Beyond, %": 100 * rows["beyond"].astype(float),
        }
        level = level_label(found.scope.level)
        caption += (
            f" Of all orders, those that did not run among them, with {level} confidence each: the "
            "worst fifth begins below Bound 20 % (\N{INFINITY}: too few ran to say), and at most "
            "Beyond are worse than the worst that ran."
        )
    columns |= {
        "AOPD": rows["aopd"].astype(float),
        "MOPD": rows["mopd"].astype(float),
        "Worst order that ran": [labels.get(order, order) for order in rows["worst_order"]],
    }
    caption += (
        " AOPD, MOPD: how far a task's final score differs between orders, mean and maximum over "
        f"tasks.{f' Tasks: {legend}.' if legend else ''}"
    )
    blocks: list[Block] = [Table("orders", caption, pd.DataFrame(columns))]
    notes = rows["note"].dropna()
    if len(notes):
        blocks.append(Prose(f"**{CAVEATS[notes.iloc[0]].capitalize()}.**"))
    return [*blocks, *_assisted(found)]


def _assisted(found: Findings) -> list[Block]:
    means = assisted_means(found.scope)
    if means.empty or means["value"].isna().all():
        return []
    cells = measured(means, "value", "low", "high")
    each = "; ".join(
        f"{method_label(method)} {text(cell)}"
        for method, cell in zip(means["method"], cells, strict=True)
    )
    return [
        Prose(
            f"**Mean over all {found.scope.design.possible:,} orders, model-assisted:** {each}. A "
            "model of which task comes before which predicts the orders that did not run, and "
            "those that ran correct it."
        )
    ]


def _every_order(found: Findings) -> list[Block]:
    """A row an order, its methods side by side: sort by a column to see who is hurt by which."""
    table = found.by_order
    gaps = {
        (row["order"], row["method"]): Measured(row["gap"], row["low"], row["high"])
        for row in table.to_dict("records")
    }
    hardest = table.groupby("order")["gap"].mean().sort_values(ascending=False, kind="stable")
    every = list(hardest.index[:_MOST_LISTED])
    labels, legend = order_labels(every)
    nothing = Measured(float("nan"))
    frame = pd.DataFrame({"Order": [labels[order] for order in every]})
    for method in dict.fromkeys(table["method"]):
        cells = [gaps.get((order, method), nothing) for order in every]
        frame[method_label(method)] = pd.Series(cells, dtype=object)
    frame["Seeds"] = table.groupby("order")["n_seeds"].min().reindex(every).to_numpy()
    cut = len(hardest) > len(every)
    caption = (
        f"{f'The {len(every)} hardest orders: the' if cut else 'The'} gap of every order in "
        f"points, mean over seeds; hardest first.{each_by_itself(found, table['low'])} "
        f"Press a column's name to sort by it.{f' Tasks: {legend}.' if legend else ''}"
    )
    listed = Table("by_order", caption, frame)
    return [folded(listed, f"Every order: a table of {len(every):,} rows that can be sorted")]


def _place_table(found: Findings) -> list[Block]:
    rows = found.places
    if rows.empty or len(found.tasks) < 2:
        return []
    rows = rows[rows["task"] == ""].reset_index(drop=True)
    last = rows["place"] == len(found.tasks)  # which nothing is learned after
    rows.loc[last, ["forgetting", "forgetting/low", "forgetting/high"]] = np.nan
    frame = pd.DataFrame(
        {
            "Position": [ordinal(place) for place in rows["place"].astype(int)],
            "Method": rows["method"].map(method_label),
        }
    )
    caption = (
        "By position in the order, whichever task stood there: gap, forgetting, the score right "
        f"after learning and the final one.{each_by_itself(found, rows['gap/low'])}"
    )
    table = Table("places", caption, place_columns(frame, rows))
    return [folded(table, "By position in the order")]
