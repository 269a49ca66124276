"""The section on precedence: the effect of an earlier task on the gap of a later one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from l2kd_ray.analysis.findings import Findings
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.precedence import (
    MOST_TASKS,
    ORDERS_A_FEATURE,
    Untold,
    enough_orders,
    feature_count,
)
from l2kd_ray.report import heatmaps
from l2kd_ray.report.blocks import (
    Block,
    Fold,
    Picture,
    Prose,
    ReportSection,
    Table,
    measured,
    signed,
)
from l2kd_ray.report.labels import level_label, method_label, order_labels, task_labels

_TITLE = "Which task hurts which"
_SAMPLE = (
    "Not all orders ran, so these are effects in a model of pairs and of the last task, fitted to "
    "those that did; where much else is at work its intervals hold less often"
)
_UNTOLD = {
    Untold.ONE_GROUP: "one of the two groups of orders did not run",
    Untold.CONFOUNDED: "the orders that ran do not tell it from others",
}


def precedence_section(found: Findings) -> list[ReportSection]:
    if found.gap["gap/abs"].isna().all() or len(found.tasks) < 2 or not found.scope.arms:
        return []
    few = _few(found)
    if found.precedence["value"].isna().all():
        few = few or "the orders that ran do not tell the effects from each other"
        return [ReportSection(_TITLE, (Prose(f"Not known: {few}."),))]
    blocks: list[Block] = [_picture(found)]
    if few:
        blocks.append(Prose(f"**Read with care:** {few}."))
    blocks += [_extremes(found), _effects(found)]
    return [ReportSection(_TITLE, tuple(blocks))]


def _few(found: Findings) -> str:
    """A clause on the orders finished and needed where they are too few; else ""."""
    scope, tasks = found.scope, len(found.tasks)
    ran = min(len(scope.cells(arm).orders) for arm in scope.arms)
    possible = scope.design.possible
    if ran >= 3 and (ran == possible or enough_orders(ran, tasks, possible)):
        return ""
    if possible < 3:
        return "two tasks have only two orders, which `Every order` shows"
    asked = min(max(math.ceil(ORDERS_A_FEATURE * feature_count(tasks)), 3), possible)
    return (
        f"{ran} of the {possible:,} orders are finished for all methods and seeds, and the effects "
        f"of {tasks} tasks on each other ask for {asked} at least"
    )


def _maps(found: Findings) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """By method `[n + 1, n]`: effects, and 1 where an effect is told from 0 after Holm."""
    tasks = found.tasks
    row_of = {task: k for k, task in enumerate([*tasks, ""])}
    column_of = {task: k for k, task in enumerate(tasks)}
    maps: dict[str, FloatArray] = {}
    sure: dict[str, FloatArray] = {}
    for name, own in found.precedence.groupby("method", sort=False):
        method = str(name)
        maps[method] = np.full((len(tasks) + 1, len(tasks)), np.nan)
        sure[method] = np.zeros_like(maps[method])
        at = own["earlier"].map(row_of).to_numpy(), own["task"].map(column_of).to_numpy()
        maps[method][at] = own["value"].to_numpy(dtype=float)
        sure[method][at] = (own["p_holm"] < 1 - found.scope.level).to_numpy(dtype=float)
    return maps, sure


def _picture(found: Findings) -> Picture:
    maps, sure = _maps(found)
    labels = task_labels(found.tasks)
    table = found.precedence.dropna(subset=["value"])
    table = table[table["earlier"] != ""]
    strongest = table.loc[table["value"].abs().groupby(table["method"], sort=False).idxmax()]
    words = "; ".join(
        f"{method_label(row['method'])}: {labels[row['earlier']]} before {labels[row['task']]} "
        f"{signed(row['value'])}"
        for row in strongest.to_dict("records")
    )
    caption = (
        "How many points the gap of a column's task is wider (+) or narrower (\N{MINUS SIGN}) when "
        "the row's task comes before it and not after, in the mean of orders; last row: when it is "
        "itself the last, against all orders. Compare the cells of a column: what comes later is "
        "forgotten less, whichever task came before it."
    )
    if _sampled(found):
        caption += f" {_SAMPLE}."
    if found.precedence["value"].isna().any():
        caption += " Empty: the orders that ran do not tell it."
    if any(marks.any() for marks in sure.values()):
        caption += (
            f" Outlined and bold: p below {1 - found.scope.level:.2g} after Holm's correction for "
            "all cells of a method."
        )
    return Picture(
        "precedence",
        f"Effects of precedence on each task's gap, in points. The largest: {words}.",
        caption,
        heatmaps.precedence(maps, sure, [labels[task] for task in found.tasks]),
    )


def _extremes(found: Findings) -> Block:
    rows = found.extremes
    if rows.empty:
        if len(found.tasks) > MOST_TASKS:
            why = (
                f"of more than {MOST_TASKS} tasks, too many orders would have to be looked through"
            )
        elif len(found.scope.cells(found.scope.arms[0]).train) < 3:
            why = "three seeds are needed at least, as an extreme is also picked for its luck"
        else:
            why = "the orders are too few"
        return Prose(f"**Best and worst of all orders:** not known, {why}.")
    labels, legend = order_labels(sorted(set(rows["order"])))
    frame = pd.DataFrame(
        {
            "Method": rows["method"].map(method_label),
            "Of all orders": rows["which"],
            "Order": rows["order"].map(labels),
            "Predicted gap": measured(rows, "value", "low", "high"),
            "By other seeds": rows["crossed"].astype(float),
            "Ran": ["yes" if ran else "no" for ran in rows["ran"]],
        }
    )
    caption = (
        "The orders predicted to be the best and the worst of all, by a model and the orders that "
        f"ran. The {level_label(found.scope.level)} interval is of the gap of the order named, and "
        "knows of the luck in being picked"
    )
    if _sampled(found):
        caption += "; another order, which did not run, may be better or worse than it"
    caption += (
        ". By other seeds: each seed's prediction of the order that the others pick."
        f"{f' Tasks: {legend}.' if legend else ''}"
    )
    return Table("extremes", caption, frame)


def _sampled(found: Findings) -> bool:
    """True if the effects of a method are a model's, as not all of its orders ran."""
    scope = found.scope
    return any(len(scope.cells(arm).orders) < scope.design.possible for arm in scope.arms)


def _effects(found: Findings) -> Block:
    rows = found.effects
    strength = rows["value"].abs()
    rows = rows.loc[strength.sort_values(ascending=False, kind="stable").index]
    labels = task_labels(found.tasks)
    words = [
        f"{labels[task]} before {labels[other]}" if other else f"{labels[task]} {effect}"
        for effect, task, other in zip(rows["effect"], rows["task"], rows["other"], strict=True)
    ]
    frame = pd.DataFrame(
        {
            "Method": [method_label(method) for method in rows["method"]],
            "Effect": words,
            "Points": measured(rows, "value", "low", "high"),
        }
    )
    caption = (
        "Mean gap over all tasks, in points. A before b: the mean of the orders with a before b "
        "less that of the others, whatever else goes with it (such as b being last). Last, first: "
        "the mean of those orders less that of all. Strongest first; "
        f"{level_label(found.scope.level)} intervals, each alone."
    )
    if _sampled(found):
        caption += f" {_SAMPLE}."
    if rows["note"].notna().any():
        frame["Why not"] = [_UNTOLD.get(note, "") for note in rows["note"]]
    return Fold(
        "Effects on the mean gap", (Table("effects", caption, frame, digits={"Points": 2}),)
    )
