"""Heat maps: score matrices, effects of precedence, and grids of two settings.

A cell's strength is the opacity of one colour, not a ramp of colours, and never above `STRONGEST`:
its number stays legible in the text's own colour on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.report.blocks import signed, text
from l2kd_ray.report.figures import WIDTH, new_figure, styled
from l2kd_ray.report.labels import method_label, short
from l2kd_ray.report.style import INK, SERIES, LineStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PALEST, STRONGEST = 0.04, 0.4


@styled
def score_matrices(
    matrices: Mapping[str, FloatArray], columns: Sequence[str], rows: Sequence[str]
) -> Figure:
    """R as small heat maps, one a method: row i after the i-th task, column j its j-th task.

    Args:
        matrices: by method, `[n + 1, n]` in points; NaN cells stay empty.
        columns: n labels of tasks. rows: n + 1 labels of models, the untrained first.
    """
    n = len(columns)
    untrained = any(np.isfinite(R[0]).any() for R in matrices.values())
    shown = {method: R if untrained else R[1:] for method, R in matrices.items()}
    across = min(len(shown), 3 if n <= 4 else 2 if n <= 6 else 1)
    figure, grid = _panels(len(shown), across, 0.75 + 0.3 * (n + 1) + _room(columns, across))
    for axes, (method, R) in zip(grid.flat, shown.items(), strict=False):
        labels = rows[-len(R) :]
        for (i, j), score in np.ndenumerate(R):
            if np.isfinite(score):
                _box(axes, j, i, (0.94, 0.9), fc=_shade(SERIES[0], score / 100), ec="none")
            if i - untrained == j:
                _box(axes, j, i, (0.94, 0.9), fc="none", ec=INK, lw=0.8)
            axes.text(j, i, text(float(score)), ha="center", va="center", fontsize=9)
        _finish(axes, method, n, labels)
        _name_columns(axes, columns, across)
    return figure


@styled
def precedence(
    maps: Mapping[str, FloatArray], sure: Mapping[str, FloatArray], tasks: Sequence[str]
) -> Figure:
    """Effects of an earlier task (row) on the gap of a task (column); the last row is the effect of
    being last. A wider gap is orange with a plus, a narrower one blue with a minus.

    Args:
        maps: by method, `[n + 1, n]` in points; NaN cells stay empty.
        sure: of the same shape, 1 where an effect is told from 0: outlined and bold.
    """
    n = len(tasks)
    across = min(len(maps), 2 if n <= 5 else 1)
    figure, grid = _panels(len(maps), across, 0.75 + 0.27 * (n + 1) + _room(tasks, across))
    most = max((float(np.nanmax(np.abs(R), initial=0)) for R in maps.values()), default=0) or 1.0
    for axes, (method, effects) in zip(grid.flat, maps.items(), strict=False):
        for (i, j), effect in np.ndenumerate(effects):
            if not np.isfinite(effect):
                continue
            known = sure[method][i, j] > 0
            colour = _shade(SERIES[1] if effect > 0 else SERIES[0], abs(effect) / most)
            _box(axes, j, i, (0.92, 0.88), fc=colour, ec=INK if known else "none", lw=1)
            words = signed(float(effect), int(abs(effect) < 9.95))
            weight = "bold" if known else "normal"
            axes.text(j, i, words, ha="center", va="center", fontsize=9, weight=weight)
        _finish(axes, method, n, [*(f"{task} before" for task in tasks), "being last"])
        _name_columns(axes, tasks, across)
    return figure


@styled
def gap_by_two_settings(
    table: pd.DataFrame, keys: tuple[str, str], look: Mapping[str, LineStyle]
) -> Figure:
    """A grid of two settings as heat maps, one a method: mean gap a cell, the selected outlined."""
    across, down = (sorted(table[key].dropna().unique()) for key in keys)
    methods = sorted(table["method"].unique())
    worst = max(float(table["gap/abs"].max()), 1e-9)
    side = min(len(methods), 2 if len(across) <= 5 else 1)
    figure, grid = _panels(len(methods), side, 0.9 + 0.36 * len(down))
    for axes, method in zip(grid.flat, methods, strict=False):
        for _, row in table[table["method"] == method].iterrows():
            if pd.isna(row[keys[0]]) or pd.isna(row[keys[1]]):
                continue
            x, y = across.index(row[keys[0]]), down.index(row[keys[1]])
            share = 0.0 if pd.isna(row["gap/abs"]) else row["gap/abs"] / worst
            fill = _shade(look[method].colour, share)
            edge, weight = (INK, "bold") if row["selected"] else ("none", "normal")
            _box(axes, x, y, (0.96, 0.92), fc=fill, ec=edge, lw=1.6)
            axes.text(x, y, text(float(row["gap/abs"])), ha="center", va="center", weight=weight)
        _finish(axes, method, len(across), [short(value) for value in down], labelsize=10)
        axes.set_xlabel(keys[0])
        axes.set_xticks(range(len(across)), [short(value) for value in across])
    for axes in grid[:, 0]:
        axes.set_ylabel(keys[1])
    return figure


def _panels(count: int, across: int, height: float) -> tuple[Figure, Any]:
    """A grid of `count` panels, each `height` inches high; cells left over are hidden."""
    down = -(-count // across)
    figure, grid = new_figure(down * height, nrows=down, ncols=across, squeeze=False, sharey=True)
    figure.set_layout_engine("constrained", h_pad=0.09)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


def _box(axes: Axes, x: int, y: int, size: tuple[float, float], **patch: Any) -> None:
    """Draw the box of a cell, `size` (width, height) of it."""
    from matplotlib.patches import Rectangle

    width, height = size
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, **patch))


def _finish(
    axes: Axes, method: str, columns: int, rows: Sequence[str], labelsize: float = 9
) -> None:
    """Set a panel's title, its limits and the names of its rows."""
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(len(rows) - 0.5, -0.5), title=method_label(method))
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(labelsize=labelsize)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _name_columns(axes: Axes, names: Sequence[str], across: int) -> None:
    """Write names below the columns, upright where they would overlap."""
    axes.set_xticks(range(len(names)), names, rotation=90 if _room(names, across) else 0)


def _room(names: Sequence[str], across: int) -> float:
    """Inches that upright names need below their columns; 0 where names are not upright."""
    longest = max(map(len, names)) * 0.075
    return longest if longest > 0.7 * WIDTH / across / len(names) else 0.0


def _shade(colour: str, share: float) -> tuple[str, float]:
    """A colour with the opacity of a share of the strongest."""
    return colour, _PALEST + (STRONGEST - _PALEST) * float(np.clip(share, 0, 1))
