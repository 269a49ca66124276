"""The section on the variance of the gap: orders, seeds, and both together."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from l2kd_ray.analysis.findings import Findings
from l2kd_ray.analysis.scope import advice, by_seed
from l2kd_ray.report import figures
from l2kd_ray.report.blocks import Block, Fold, Picture, Prose, ReportSection, Table, measured, text
from l2kd_ray.report.labels import level_label, method_label
from l2kd_ray.report.sentences import advice_words
from l2kd_ray.report.style import LineStyle

_TITLE = "What drives the gap"


def driver_section(found: Findings, look: Mapping[str, LineStyle]) -> list[ReportSection]:
    if found.gap["gap/abs"].isna().all() or not found.scope.arms:
        return []
    table = found.variance
    if table.empty:
        return [ReportSection(_TITLE, (Prose(_missing(found)),))]
    numbers = Fold("The numbers", (_table(table), _seeds(by_seed(found.scope))))
    return [
        ReportSection(_TITLE, (_picture(table, look, found.scope.level), numbers, *_advice(found)))
    ]


def _missing(found: Findings) -> str:
    """The reason why the variance cannot be split."""
    scope = found.scope
    cells = [scope.cells(arm) for arm in scope.arms]
    orders = max(len(found.orders) for found in cells)
    if not orders:
        return "Not known yet: no order is finished for all methods and seeds."
    if orders == 1:
        return (
            "With one order, the effect of orders on the gap is unknown: at least two are needed."
        )
    return (
        "With one seed, the effect of seeds on the gap cannot be separated from that of orders: at "
        "least two are needed."
    )


def _picture(table: pd.DataFrame, look: Mapping[str, LineStyle], level: float) -> Picture:
    words = "; ".join(
        f"{method_label(str(method))}: "
        + ", ".join(
            f"{name} {text(float(std), 2)}"
            for name, std in zip(own["component"], own["std"], strict=True)
        )
        for method, own in table.groupby("method", sort=False)
    )
    return Picture(
        "variance",
        f"Standard deviation of the gap by component, in points: {words}.",
        "How much of the gap's spread comes from the order of the tasks, from the seed, and from "
        f"both together. Line: {level_label(level)} interval; an arrow where it goes on.",
        figures.components(table, look),
    )


def _table(table: pd.DataFrame) -> Table:
    frame = pd.DataFrame(
        {
            "Method": table["method"].map(method_label),
            "Component": table["component"],
            "Std": measured(table, "std", "low", "high"),
            "Share of variance, %": 100 * table["share"].astype(float),
            "Degrees of freedom": table["df"].astype(float),
        }
    )
    caption = (
        "Standard deviations in points, of a method's selected setting. A repeated trial is bit "
        "for bit the same, so what order and seed do together is the residual. The std of orders "
        "is of all orders that the study speaks for. Intervals are for normal noise: where a seed "
        "now and then collapses they hold less often. Estimated below 0, a component is shown as "
        "0, and its upper bound is one-sided."
    )
    if table["low"].isna().any():
        caption += (
            " No interval: two seeds do not tell how freely orders vary in a seed, or a component "
            "is estimated so far below 0 that its interval is empty."
        )
    digits = {"Std": 2, "Share of variance, %": 0}
    return Table("variance", caption, frame, digits=digits)


def _seeds(rows: pd.DataFrame) -> Table:
    """A row for each seed, the methods side by side."""
    gaps = rows.pivot(index="seed", columns="method", values="gap")
    methods = dict.fromkeys(rows["method"])
    frame = pd.DataFrame({"Seed": gaps.index})
    for method in methods:
        frame[method_label(method)] = gaps[method].to_numpy(dtype=float)
    caption = (
        "The mean gap of each training seed in points. The intervals over seeds rest on how far "
        "these numbers spread, as if they were normal: one seed far from the others makes them "
        "wide, and not always wide enough."
    )
    return Table("by_seed", caption, frame)


def _advice(found: Findings) -> list[Block]:
    """Advice on what to run next, for each method."""
    scope = found.scope
    each = {method_label(arm[0]): advice(scope, arm) for arm in scope.arms}
    blocks: list[Block] = [
        Prose(f"**{name}:** {advice_words(known)}") for name, known in each.items() if known
    ]
    if not blocks:
        return []
    intro = "**Where the next hours narrow the interval most**, each trial at the same cost, "
    intro += "a seed with its references:"
    if scope.design.kind == "list" and len(scope.orders) < scope.design.possible:
        intro += " (the study lists its orders, so its intervals are for those)"
    return [Prose(intro), *blocks]
