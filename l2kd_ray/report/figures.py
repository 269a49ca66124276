"""The figures of a report, each from the frames of `analysis`.

Methods differ by colour *and* marker. Every figure is drawn on matplotlib's own `Figure`, without
pyplot, so that nothing global is touched and no display is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import pandas as pd

from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.report.blocks import NOTHING, text
from l2kd_ray.report.labels import interval_label, method_label, order_labels, row_labels, short
from l2kd_ray.report.style import INK, LINE, MUTED, PAPER, RC, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.4
"""Inches; about 530 px on the page at full size."""
MOST_NAMED_ORDERS = 24
"""Orders that a strip plot names one by one; above, they are ranked without names."""

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
def gap_by_method(table: pd.DataFrame, rows: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """A row a method: its mean gap with interval, its orders as ticks, the numbers beside it.

    `table` holds the rows of `compare` to show; `rows` are complete rows of `results`.
    """
    figure, axes = new_figure(0.62 + 0.44 * len(table))
    names = row_labels(table)
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
        axes.annotate(
            words, (1, y), (6, 0), ("axes fraction", "data"), "offset points", va="center",
            annotation_clip=False,
        )  # fmt: skip
    _zero_line(axes)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("points below multi-task (lower is better)")
    axes.spines["left"].set_visible(False)
    return figure


@styled
def gap_by_order(rows: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """Strip plot: the gap of every order, by method, orders sorted from easy to hard.

    Up to `MOST_NAMED_ORDERS` each order has its named row, and with several seeds each seed its
    small dot; above, orders go by rank along the x axis.
    """
    gaps = rows.groupby(["order", "method"])["gap/abs"].mean().unstack()
    gaps = gaps.loc[gaps.mean(axis=1).sort_values(kind="stable").index]
    named = len(gaps) <= MOST_NAMED_ORDERS
    figure, axes = new_figure(0.8 + 0.26 * len(gaps) if named else 3.6)
    place = {order: k if named else k + 1 for k, order in enumerate(gaps.index)}

    def points(along: FloatArray, values: FloatArray, **style: Any) -> None:
        axes.plot(*((values, along) if named else (along, values)), ls="none", **style)

    if named:
        ends = gaps.min(axis=1), gaps.max(axis=1)
        axes.hlines(range(len(gaps)), *ends, color=LINE, lw=1, zorder=1)
    for method in gaps.mean().sort_values(kind="stable").index:
        style = look[method]
        own = rows[rows["method"] == method]
        if named and own["seed"].nunique() > 1:
            points(
                own["order"].map(place).to_numpy(dtype=float), own["gap/abs"].to_numpy(dtype=float),
                marker=style.marker, color=style.colour, alpha=0.3, ms=3, mec="none",
            )  # fmt: skip
        points(
            np.array(list(place.values()), dtype=float), gaps[method].to_numpy(dtype=float),
            marker=style.marker, color=style.colour, ms=6 if named else 4.2, mec=PAPER, mew=0.7,
            label=method_label(method), zorder=3,
        )  # fmt: skip
    _zero_line(axes, vertical=named)
    if named:
        labels, _ = order_labels(gaps.index)
        axes.set_yticks(range(len(gaps)), [labels[order] for order in gaps.index])
        axes.set_ylim(len(gaps) - 0.5, -0.5)
        axes.set_xlabel("points below multi-task (lower is better)")
        axes.spines["left"].set_visible(False)
    else:
        axes.set_xlim(0, len(gaps) + 1)
        axes.set_xlabel(f"the {len(gaps)} orders, from easy to hard")
        axes.set_ylabel("points below multi-task")
        axes.grid(True, axis="y")
        axes.grid(False, axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@styled
def forgetting(
    rows: pd.DataFrame, first_task: Mapping[str, FloatArray], look: Mapping[str, Look]
) -> Figure:
    """Left, mean forgetting of each method and of each of its orders; right, what becomes of the
    first task: its score after each task, `first_task[method]` of shape `[n]`, mean over orders."""
    mean = rows.groupby("method")["cl/forgetting_max"].mean()
    methods = [str(method) for method in mean.sort_values(kind="stable").index]
    figure, (left, right) = new_figure(
        max(2.3, 0.7 + 0.4 * len(methods)), ncols=2, width_ratios=[1, 1.05]
    )
    ends = []
    for y, method in enumerate(methods):
        style = look[method]
        orders = rows[rows["method"] == method].groupby("order")["cl/forgetting_max"].mean()
        _ticks(left, orders, y, style)
        left.plot(orders.mean(), y, style.marker, color=style.colour, ms=8, mec=PAPER, mew=1.2)
        left.annotate(
            text(float(orders.mean())), (1, y), (6, 0), ("axes fraction", "data"), "offset points",
            va="center", annotation_clip=False,
        )  # fmt: skip
        path = first_task[method]
        right.plot(
            np.arange(1, len(path) + 1), path, "-", marker=style.marker, color=style.colour, ms=5,
            lw=1.6, mec=PAPER, mew=0.6,
        )  # fmt: skip
        ends.append(path[-1])
    _zero_line(left, label="")
    left.set_yticks(range(len(methods)), [method_label(method) for method in methods])
    left.set_ylim(len(methods) - 0.5, -0.5)
    left.set(title="Forgetting", xlabel="points lost since each task's best")
    left.spines["left"].set_visible(False)
    n = len(next(iter(first_task.values())))
    right.set_xticks(range(1, n + 1))
    right.set(title="Score on the first task", xlabel="tasks learned so far")
    right.tick_params(axis="y", colors=MUTED)
    right.grid(True, axis="y")
    right.grid(False, axis="x")
    low, high = right.get_ylim()
    for method, beside, end in zip(methods, _apart(ends, (high - low) * 0.085), ends, strict=True):
        if np.isfinite(end):
            right.annotate(
                method_label(method), (n, end), (1.03, beside),
                textcoords=right.get_yaxis_transform(), va="center", color=look[method].colour,
                annotation_clip=False,
            )  # fmt: skip
    return figure


@styled
def gap_by_setting(table: pd.DataFrame, key: str, look: Mapping[str, Look]) -> Figure:
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
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _ticks(axes: Axes, orders: pd.Series[float], y: float, style: Look) -> None:
    """Each order's value as a thin tick at height `y`, fainter where they are many."""
    alpha = 0.45 if len(orders) <= MOST_NAMED_ORDERS else 0.2
    axes.plot(orders, np.full(len(orders), y), "|", color=style.colour, alpha=alpha, ms=11)


def _zero_line(axes: Axes, *, vertical: bool = True, label: str = "multi-task") -> None:
    """The bound, which every gap is measured from, always inside the picture."""
    low, high = axes.get_xlim() if vertical else axes.get_ylim()
    room = 0.03 * (max(high, 0) - min(low, 0))
    (axes.set_xlim if vertical else axes.set_ylim)(min(low, -room), max(high, room))
    (axes.axvline if vertical else axes.axhline)(0, color=MUTED, lw=1, ls=(0, (4, 2)), zorder=1)
    if label and vertical:
        axes.annotate(
            label, (0, 1), (0, 3), ("data", "axes fraction"), "offset points", ha="center",
            va="bottom", fontsize=7.5, color=MUTED, annotation_clip=False,
        )  # fmt: skip
    elif label:
        axes.annotate(
            label, (1, 0), (-2, 3), ("axes fraction", "data"), "offset points", ha="right",
            fontsize=7.5, color=MUTED,
        )  # fmt: skip


def _apart(values: Sequence[float], distance: float) -> list[float]:
    """The values moved so that labels at them stand at least `distance` apart, order kept."""
    order = np.argsort(values)
    moved = np.array(values, dtype=float)[order]
    for k in range(1, len(moved)):
        moved[k] = max(moved[k], moved[k - 1] + distance)
    moved -= np.nanmean(moved - np.array(values, dtype=float)[order])
    back = np.empty_like(moved)
    back[order] = moved
    return [float(value) for value in back]
