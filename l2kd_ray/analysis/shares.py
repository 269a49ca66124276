"""The gap as a share: of the multi-task score, and of the gap that LAMOL leaves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from l2kd_ray.analysis.design import Design, cells
from l2kd_ray.analysis.estimate import LEVEL, Estimate
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.note import Note, Undefined
from l2kd_ray.analysis.orders import implied_design, mean_gap, seed_means
from l2kd_ray.analysis.ratio import ratio

BASELINE = "lamol"
GAP = "gap/abs"


def gap_closed(
    rows: pd.DataFrame,
    baseline: pd.DataFrame,
    design: Design | None = None,
    level: float | None = LEVEL,
) -> Estimate:
    """1 - gap / gap(baseline), a fraction: the share of the baseline's gap that a method closes.

    A ratio of study means over the instances that both have complete, with Fieller's interval
    (`ratio`), paired. Undefined where the baseline's own interval holds 0, which is where Fieller's
    has no bounds. Without a design, inference is to the orders that ran.
    """
    own, other = rows.dropna(subset=[GAP]), baseline.dropna(subset=[GAP])
    instance = ["order", "seed"]
    shared = own[[*instance, GAP]].merge(other[[*instance, GAP]], on=instance)
    if shared.empty:
        return Estimate(note=Note(undefined=Undefined.NO_SHARED_INSTANCE))
    of_baseline = mean_gap(shared, f"{GAP}_y", design, level)
    if not of_baseline.bounded:
        return Estimate(note=replace(of_baseline.note, undefined=Undefined.BASELINE_UNBOUNDED))
    if of_baseline.low <= 0 <= of_baseline.high:
        return Estimate(note=Note(undefined=Undefined.BASELINE_MAY_BE_ZERO))
    if of_baseline.value < 0:
        return Estimate(note=Note(undefined=Undefined.BASELINE_ABOVE_BOUND))
    design = design or implied_design(shared)
    x, y = _tables(shared, (f"{GAP}_x", f"{GAP}_y"), design)
    population = design.population(len(x))
    open_share = ratio(x, y, population, of_baseline.note, level or LEVEL)
    if not open_share.bounded:
        return Estimate(1 - open_share.value, note=open_share.note)
    return Estimate(1 - open_share.value, 1 - open_share.high, 1 - open_share.low, of_baseline.note)


def relative_gap(
    rows: pd.DataFrame, design: Design | None = None, level: float | None = LEVEL
) -> Estimate:
    """Mean gap over mean multi-task score, a fraction, with Fieller's interval (`ratio`).

    The multi-task score differs between seeds, and the interval includes its spread.
    """
    rows = rows.dropna(subset=[GAP])
    rows = rows.assign(bound=rows[GAP] + rows["cl/avg"])
    own = mean_gap(rows, GAP, design, level)
    bound = seed_means(rows, ["bound"])["bound"].mean() if len(rows) else np.nan
    if not own.bounded:
        return Estimate(own.value / bound if bound else np.nan, note=own.note)
    design = design or implied_design(rows)
    x, y = _tables(rows, (GAP, "bound"), design)
    return ratio(x, y, design.population(len(x)), own.note, level or LEVEL)


def _tables(
    rows: pd.DataFrame, columns: tuple[str, str], design: Design
) -> tuple[FloatArray, FloatArray]:
    """Two columns as `[orders, seeds]`, at the orders that have every cell of both."""
    x, y = (cells(rows, column, design.orders, design.seeds).by_seed for column in columns)
    whole = ~np.isnan(x + y).any(axis=1)
    return x[whole], y[whole]
