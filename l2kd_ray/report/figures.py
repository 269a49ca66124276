"""The figures of a report, each from the frames of `analysis`.

Methods differ by colour *and* marker. Every figure is drawn on matplotlib's own `Figure`, without
pyplot, so that nothing global is touched and no display is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from math import ceil
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.report.blocks import NOTHING, signed, text
from l2kd_ray.report.labels import interval_label, method_label, order_labels, row_labels, short
from l2kd_ray.report.style import INK, LINE, MUTED, PAPER, RC, SERIES, LineStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.2
"""Inches: 374 px, so that a phone shows a figure whole and its text no smaller than drawn."""
MOST_NAMED_ORDERS = 24
"""Orders that a strip plot names one by one; above, they are ranked without names."""

TERMS = dict(zip(("qa", "lm", "kd", "replay"), SERIES, strict=False))
"""Terms of a training's loss, and their colours."""

ROOM = 1.6
"""Longest axis of components, in lengths of the longest bar; intervals may end outside."""

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under the report's style, whatever style the process has."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return inner


def new_figure(height: float, **grid: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(**grid)


@styled
def gap_by_method(table: pd.DataFrame, rows: pd.DataFrame, look: Mapping[str, LineStyle]) -> Figure:
    """A row a method: its mean gap with interval, its orders as ticks, the numbers beside it.

    `table` holds the rows of `compare` to show; `rows` are complete rows of `results`.
    """
    figure, axes = new_figure(0.62 + 0.44 * len(table))
    names = [name.replace(" (", "\n(") for name in row_labels(table)]
    for y, (_, row) in enumerate(table.iterrows()):
        of_method = rows[(rows["method"] == row["method"]) & (rows["setting"] == row["setting"])]
        orders = of_method.groupby("order")["gap/abs"].mean()
        style = look[row["method"]]
        _ticks(axes, orders, y, style)
        if pd.notna(row["gap/low"]):
            for colour, width in ((PAPER, 5.0), (style.colour, 2.6)):
                axes.plot([row["gap/low"], row["gap/high"]], [y, y], color=colour, lw=width)
        axes.plot(
            row["gap/abs"], y, style.marker, color=style.colour, ms=8, mec=PAPER, mew=1.2, zorder=3
        )
        interval = interval_label(row["gap/low"], row["gap/high"])
        words = text(float(row["gap/abs"])) + ("" if interval == NOTHING else f"  ({interval})")
        beside(axes, y, words)
    zero_line(axes)
    name_rows(axes, names, "points below multi-task (lower is better)")
    return figure


@styled
def gap_by_order(table: pd.DataFrame, rows: pd.DataFrame, look: Mapping[str, LineStyle]) -> Figure:
    """The gap of every order with its interval, by method, orders sorted from easy to hard.

    Up to `MOST_NAMED_ORDERS` each order has its named row, and with several seeds each seed its
    small dot; above, orders go by rank along the x axis. Intervals do not widen the picture.

    Args:
        table: method, order, gap, low, high. rows: of `results`, for the single seeds.
    """
    means = table.groupby("order")["gap"].mean().sort_values(kind="stable")
    named = len(means) <= MOST_NAMED_ORDERS
    methods = list(table.groupby("method")["gap"].mean().sort_values(kind="stable").index)
    lane = 0.13 if len(means) <= 12 else 0.07  # inches a method of an order
    row = max(lane * len(methods) + 0.08, 0.22)
    figure, axes = new_figure(0.8 + row * len(means) if named else 3.4)
    position = {order: k if named else k + 1 for k, order in enumerate(means.index)}
    lines: list[tuple[pd.DataFrame, FloatArray, LineStyle]] = []
    for k, method in enumerate(methods):
        aside = lane / row * (k - (len(methods) - 1) / 2) if named else 0.0
        style, own = look[method], table[table["method"] == method]
        along = own["order"].map(position).to_numpy(dtype=float) + aside
        single = rows[rows["method"] == method]
        if named and single["seed"].nunique() > 1:
            dots = single["order"].map(position).to_numpy(dtype=float) + aside
            axes.plot(single["gap/abs"], dots, ls="none", marker=style.marker, color=style.colour,
                      alpha=0.35, ms=3, mec="none")  # fmt: skip
        points = (own["gap"], along) if named else (along, own["gap"])
        axes.plot(
            *points, ls="none", marker=style.marker, color=style.colour, ms=6 if named else 4,
            mec=PAPER, mew=0.7, label=method_label(method), zorder=3,
        )  # fmt: skip
        lines.append((own, along, style))
    zero_line(axes, vertical=named)
    axes.autoscale(False)
    for own, along, style in lines:
        draw, thick = (axes.hlines, 1.6) if named else (axes.vlines, 1.0)
        draw(along, own["low"], own["high"], color=style.colour, lw=thick, alpha=0.55, zorder=2)
    _name_orders(axes, list(means.index), named=named)
    _name_methods(figure, axes)
    return figure


def _name_orders(axes: Axes, orders: Sequence[str], *, named: bool) -> None:
    if not named:
        axes.set_xlim(0, len(orders) + 1)
        axes.set_xlabel(f"the {len(orders)} orders, from easy to hard")
        axes.set_ylabel("points below multi-task")
        axes.grid(True, axis="y")
        axes.grid(False, axis="x")
        return
    labels, _ = order_labels(orders)
    axes.hlines(np.arange(len(orders) - 1) + 0.5, *axes.get_xlim(), color=LINE, lw=0.6, zorder=0)
    name_rows(axes, list(labels.values()), "points below multi-task (lower is better)")


@styled
def forgetting(lost: pd.Series[float], rows: pd.DataFrame, look: Mapping[str, LineStyle]) -> Figure:
    """Mean forgetting by method, the orders of `rows` as ticks."""
    methods = [str(method) for method in lost.index]
    figure, axes = new_figure(0.55 + 0.3 * len(methods))
    for y, (method, mean) in enumerate(zip(methods, lost, strict=True)):
        style = look[method]
        orders = rows[rows["method"] == method].groupby("order")["cl/forgetting_max"].mean()
        _ticks(axes, orders, y, style)
        axes.plot(mean, y, style.marker, color=style.colour, ms=8, mec=PAPER, mew=1.2)
        beside(axes, y, text(float(mean)))
    zero_line(axes, label="")
    names = [method_label(method) for method in methods]
    name_rows(axes, names, "points lost since each task's best (lower is better)")
    return figure


@styled
def first_task(paths: Mapping[str, FloatArray], look: Mapping[str, LineStyle]) -> Figure:
    """The score on the first task after each task, `paths[method]` of shape `[n]`."""
    line, margin = 0.16, 0.5  # inches: of a method's name, and below the axes
    height = max(2.3, margin + line * len(paths))
    figure, axes = new_figure(height)
    for method, path in paths.items():
        style = look[method]
        axes.plot(
            np.arange(1, len(path) + 1), path, "-", marker=style.marker, color=style.colour, ms=5,
            lw=1.6, mec=PAPER, mew=0.6,
        )  # fmt: skip
    n = len(next(iter(paths.values())))
    axes.set_xticks(range(1, n + 1))
    axes.set(xlabel="tasks learned so far", ylabel="score on the first task")
    axes.tick_params(axis="y", colors=MUTED)
    axes.grid(True, axis="y")
    axes.grid(False, axis="x")
    low, high = axes.get_ylim()
    ends = {method: float(path[-1]) for method, path in paths.items() if np.isfinite(path[-1])}
    apart = _apart(list(ends.values()), (high - low) * line / (height - margin), low, high)
    for (method, end), y in zip(ends.items(), apart, strict=True):
        axes.annotate(
            method_label(method), (n, end), (1.02, y), textcoords=axes.get_yaxis_transform(),
            va="center", color=look[method].colour, annotation_clip=False,
        )  # fmt: skip
    return figure


@styled
def gap_by_setting(table: pd.DataFrame, key: str, look: Mapping[str, LineStyle]) -> Figure:
    """The gap against one searched setting, a marker a setting; the selected ones are ringed."""
    figure, axes = new_figure(2.9)
    values = table[key]
    number = pd.api.types.is_numeric_dtype(values)
    names = sorted(values.dropna().unique())
    spread = not number or len(names) <= 8  # few values: one column each, evenly spaced
    at = {value: k for k, value in enumerate(names)} if spread else {v: v for v in names}
    for method, rows in table.groupby("method"):
        style = look[str(method)]
        x = rows[key].map(at).to_numpy(dtype=float)
        mean = rows.assign(x=x).groupby("x")["gap/abs"].mean()
        if spread:
            axes.plot(mean.index, mean, "-", color=style.colour, lw=1.2, alpha=0.5)
        axes.plot(
            x, rows["gap/abs"], ls="none", marker=style.marker, color=style.colour, ms=6, mec=PAPER,
            mew=0.6, label=method_label(str(method)),
        )  # fmt: skip
        chosen = rows["selected"].to_numpy(dtype=bool)
        axes.plot(x[chosen], rows["gap/abs"][chosen], "o", ms=13, mfc="none", mec=INK, mew=1.1)
    if spread:
        axes.set_xticks(range(len(names)), [short(name) for name in names])
        axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_xlabel(key)
    axes.set_ylabel("points below multi-task")
    axes.grid(True, axis="y")
    axes.grid(False, axis="x")
    _name_methods(figure, axes)
    return figure


@styled
def tradeoff(table: pd.DataFrame, look: Mapping[str, LineStyle], kept: str) -> Figure:
    """Kept (what it is: `kept`) against learned, a marker a setting, a line a method; `table` comes
    from `analysis.tradeoff`."""
    figure, axes = new_figure(3.2)
    for method, own in table.groupby("method"):
        style, rows = look[str(method)], own.sort_values("learned")
        axes.plot(
            rows["learned"], rows["kept"], "-", marker=style.marker, color=style.colour, lw=1.1,
            ms=7, mec=PAPER, mew=0.7, label=method_label(str(method)),
        )  # fmt: skip
    best = table[table["front"]]
    axes.plot(best["learned"], best["kept"], "o", ms=13, mfc="none", mec=INK, mew=1.1)
    axes.margins(0.08)
    axes.set(xlabel="score on a task just learned", ylabel=kept)
    axes.grid(True, axis="both")
    _name_methods(figure, axes)
    return figure


@styled
def training_curves(curves: pd.DataFrame, look: Mapping[str, LineStyle]) -> Figure:
    """A panel a method: its loss along the stream, a dotted line where a task begins; below the
    loss the terms that it is the sum of."""
    methods, legend = list(dict.fromkeys(curves["method"])), dict[str, Any]()
    figure, grid = new_figure(0.4 + 1.15 * len(methods), nrows=len(methods), squeeze=False)
    for axes, method in zip(grid.flat, methods, strict=True):
        own, begin = curves[curves["method"] == method], 0.0
        for (_, task), part in own[own["role"] == "student"].groupby(["i", "task"], sort=True):
            axes.axvline(begin, color=MUTED, lw=0.8, ls=":")
            axes.annotate(
                str(task), (begin, 1), (3, -3), ("data", "axes fraction"), "offset points",
                va="top", fontsize=8, color=MUTED,
            )  # fmt: skip
            taught = own[(own["role"] == "teacher") & (own["task"] == task)]
            axes.plot(begin + taught["step"], taught["loss"], color=MUTED, lw=1, ls=(0, (4, 2)))
            shown = [name for name in TERMS if name in part and part[name].notna().any()]
            if shown:
                areas = axes.stackplot(
                    begin + part["step"], *(part[name] for name in shown), alpha=0.35, lw=0,
                    colors=[TERMS[name] for name in shown],
                )  # fmt: skip
                legend |= dict(zip(shown, areas, strict=True))
            axes.plot(begin + part["step"], part["loss"], color=look[method].colour, lw=1.4)
            begin += float(part["step"].max())
        axes.set(title=method_label(method), ylabel="loss", xlim=(0, begin or 1))
        axes.set_ylim(0, max(1.4 * float(own["loss"].quantile(0.99)), 1e-9))
        axes.grid(True, axis="y")
        axes.grid(False, axis="x")
    grid[-1, 0].set_xlabel("step")
    if legend:
        figure.legend(legend.values(), legend, loc="outside upper right", ncols=4, fontsize=8)
    return figure


@styled
def differences(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A row a pair of methods: the difference of their gaps with its interval, around 0.

    `table` comes from `compare_methods`. Filled: the interval leaves 0 out.
    """
    figure, axes = new_figure(0.75 + 0.3 * len(table))
    for y, (_, row) in enumerate(table.iterrows()):
        low, high = float(row["low"]), float(row["high"])
        if np.isfinite(low):
            axes.plot([low, high], [y, y], color=INK, lw=2)
        fill = INK if low > 0 or high < 0 else PAPER
        axes.plot(row["difference"], y, "o", ms=6.5, mfc=fill, mec=INK, mew=1.2, zorder=3)
        interval = interval_label(low, high)
        words = signed(float(row["difference"]))
        beside(axes, y, words if interval == NOTHING else f"{words}  ({interval})")
    zero_line(axes, label="the same gap", share=0.05)
    name_rows(axes, names, "points of gap: first minus second")
    return figure


@styled
def components(table: pd.DataFrame, look: Mapping[str, LineStyle]) -> Figure:
    """A panel a method, a bar a component: its standard deviation in points, with interval.

    `table` comes from `decompose`, by method. An interval that ends outside has an arrow.
    """
    methods = list(dict.fromkeys(table["method"]))
    rows = len(table)
    figure, grid = new_figure(
        0.5 + 0.21 * rows + 0.3 * len(methods), nrows=len(methods), sharex=True, squeeze=False
    )
    longest = max(float(table["std"].max()), 1e-9) * ROOM
    longest = min(longest, max(float(table["high"].max()), longest / ROOM) * 1.02)
    for axes, method in zip(grid.flat, methods, strict=True):
        own = table[table["method"] == method]
        style = look[method]
        for y, (_, row) in enumerate(own.iterrows()):
            axes.barh(y, row["std"], height=0.55, color=style.colour, alpha=0.35)
            axes.plot([row["std"]] * 2, [y - 0.275, y + 0.275], color=style.colour, lw=2)
            axes.plot([row["low"], min(row["high"], longest)], [y, y], color=INK, lw=1.2)
            if row["high"] > longest:
                axes.plot(longest, y, ">", color=INK, ms=4, clip_on=False)
            beside(axes, y, text(float(row["std"]), 2))
        axes.set_yticks(range(len(own)), own["component"])
        axes.set(ylim=(len(own) - 0.4, -0.6), xlim=(0, longest), title=method_label(method))
        axes.spines["left"].set_visible(False)
    grid[-1, 0].set_xlabel("standard deviation of the gap, points")
    return figure


def beside(axes: Axes, y: float, words: str) -> None:
    """The number of a row, right of the picture."""
    axes.annotate(
        words, (1, y), (6, 0), ("axes fraction", "data"), "offset points", va="center",
        annotation_clip=False,
    )  # fmt: skip


def _name_methods(figure: Figure, axes: Axes) -> None:
    """A legend above the axes, of at most four columns, as many as the figure is wide enough for.
    Lines after the first make the figure higher and leave the axes as they are."""
    handles, names = axes.get_legend_handles_labels()
    for columns in (4, 3, 2, 1):
        legend = figure.legend(handles, names, loc="outside upper left", ncols=columns)
        box = legend.get_window_extent()
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    lines = ceil(len(names) / columns)
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi * (1 - 1 / lines))


def _ticks(axes: Axes, orders: pd.Series[float], y: float, style: LineStyle) -> None:
    """Each order's value as a thin tick at height `y`, fainter where they are many."""
    alpha = 0.45 if len(orders) <= MOST_NAMED_ORDERS else 0.2
    axes.plot(orders, np.full(len(orders), y), "|", color=style.colour, alpha=alpha, ms=11)


def name_rows(axes: Axes, names: Sequence[str], label: str) -> None:
    """Write the rows' names from the top down, and below them what the x axis shows."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.spines["left"].set_visible(False)


def zero_line(
    axes: Axes, *, vertical: bool = True, label: str = "multi-task", share: float = 0.03
) -> None:
    """A line at 0, such as the bound of every gap, with a share of the axis free on either side."""
    low, high = axes.get_xlim() if vertical else axes.get_ylim()
    room = share * (max(high, 0) - min(low, 0))
    (axes.set_xlim if vertical else axes.set_ylim)(min(low, -room), max(high, room))
    (axes.axvline if vertical else axes.axhline)(0, color=MUTED, lw=1, ls=(0, (4, 2)), zorder=1)
    if label and vertical:
        axes.annotate(
            label, (0, 1), (0, 3), ("data", "axes fraction"), "offset points", ha="center",
            va="bottom", fontsize=9, color=MUTED, annotation_clip=False,
        )  # fmt: skip
    elif label:
        axes.annotate(
            label, (1, 0), (-2, 3), ("axes fraction", "data"), "offset points", ha="right",
            fontsize=9, color=MUTED,
        )  # fmt: skip


def _apart(values: Sequence[float], distance: float, low: float, high: float) -> FloatArray:
    """The values moved so that labels at them stand at least `distance` apart, order kept, by the
    least squares of the moves, between `low` and `high` if these hold them all."""
    order = np.argsort(values, kind="stable")
    steps = distance * np.arange(len(values))
    moved = np.empty(len(values))
    fitted = isotonic_regression(np.asarray(values)[order] - steps).x
    moved[order] = fitted.clip(low, high - distance * (len(values) - 1)) + steps
    return moved
