"""Figures of differences between methods, and of what drives the gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from l2kd_ray.report.blocks import NOTHING, signed, text
from l2kd_ray.report.figures import beside, name_rows, new_figure, styled, zero_line
from l2kd_ray.report.labels import interval_label, method_label
from l2kd_ray.report.style import INK, PAPER, Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOM = 1.6
"""Longest axis of components, in lengths of the longest bar; intervals may end outside."""


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
def components(table: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
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
