"""Heat maps: score matrices, and grids of two settings.

A cell's strength is the opacity of one colour, not a ramp of colours, and never above a half: its
number stays legible in the text's own colour on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.report.blocks import text
from l2kd_ray.report.figures import new_figure, styled
from l2kd_ray.report.labels import method_label, short
from l2kd_ray.report.style import INK, SERIES, Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def score_matrices(
    matrices: Mapping[str, FloatArray], columns: Sequence[str], rows: Sequence[str]
) -> Figure:
    """R as small heat maps, one a method: row i after the i-th task, column j its j-th task.

    Args:
        matrices: by method, `[n + 1, n]` in points; NaN cells stay empty.
        columns: n labels of tasks. rows: n + 1 labels of models, the untrained first.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    n = len(columns)
    untrained = any(np.isfinite(R[0]).any() for R in matrices.values())
    shown = {method: R if untrained else R[1:] for method, R in matrices.items()}
    across = min(len(shown), 3 if n <= 4 else 2)
    down = -(-len(shown) // across)
    cell = 0.3
    height = down * (0.75 + cell * (n + 1))
    figure, grid = new_figure(height, nrows=down, ncols=across, squeeze=False, sharey=True)
    figure.set_layout_engine("constrained", h_pad=0.09)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, (method, R) in zip(grid.flat, shown.items(), strict=False):
        labels = rows[-len(R) :]
        for (i, j), score in np.ndenumerate(R):
            box: dict[str, Any] = {"xy": (j - 0.47, i - 0.45), "width": 0.94, "height": 0.9}
            if np.isfinite(score):
                fill = to_rgba(SERIES[0], 0.04 + 0.5 * float(np.clip(score / 100, 0, 1)))
                axes.add_patch(Rectangle(**box, fc=fill, ec="none"))
            if i - untrained == j:
                axes.add_patch(Rectangle(**box, fc="none", ec=INK, lw=0.8))
            axes.text(j, i, text(float(score)), ha="center", va="center", fontsize=7.5)
        axes.set(xlim=(-0.5, n - 0.5), ylim=(len(R) - 0.5, -0.5), title=method_label(method))
        axes.set_xticks(range(n), columns)
        axes.set_yticks(range(len(R)), labels)
        axes.tick_params(labelsize=7.5)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return figure


@styled
def gap_by_two_settings(
    table: pd.DataFrame, keys: tuple[str, str], look: Mapping[str, Look]
) -> Figure:
    """A grid of two settings as heat maps, one a method: mean gap a cell, the selected outlined."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    across, down = (sorted(table[key].dropna().unique()) for key in keys)
    methods = sorted(table["method"].unique())
    worst = max(float(table["gap/abs"].max()), 1e-9)
    figure, grid = new_figure(
        0.9 + 0.36 * len(down), ncols=len(methods), squeeze=False, sharey=True
    )
    for axes, method in zip(grid.flat, methods, strict=True):
        for _, row in table[table["method"] == method].iterrows():
            if pd.isna(row[keys[0]]) or pd.isna(row[keys[1]]):
                continue
            x, y = across.index(row[keys[0]]), down.index(row[keys[1]])
            share = 0.0 if pd.isna(row["gap/abs"]) else np.clip(row["gap/abs"] / worst, 0, 1)
            box: dict[str, Any] = {"xy": (x - 0.48, y - 0.46), "width": 0.96, "height": 0.92}
            fill = to_rgba(look[method].colour, 0.04 + 0.5 * float(share))
            edge, weight = (INK, "bold") if row["selected"] else ("none", "normal")
            axes.add_patch(Rectangle(**box, fc=fill, ec=edge, lw=1.6))
            axes.text(x, y, text(float(row["gap/abs"])), ha="center", va="center", weight=weight)
        axes.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(down) - 0.5, -0.5))
        axes.set(title=method_label(method), xlabel=keys[0])
        axes.set_xticks(range(len(across)), [short(value) for value in across])
        axes.set_yticks(range(len(down)), [short(value) for value in down])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    grid[0, 0].set_ylabel(keys[1])
    return figure
