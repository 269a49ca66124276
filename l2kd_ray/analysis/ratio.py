"""A ratio of two means over orders and seeds, with Fieller's interval (1954).

The ratios r that are not refused: those where the mean of x - r y, a table like any other, has an
interval that holds 0. With v = order part + seed part of the variance of a mean (`mean`),

    (x - r y)^2 <= t^2 (v_xx - 2 r v_xy + r^2 v_yy),

a quadratic in r, bounded where y's own interval leaves 0 out. t is the one at the estimate.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from l2kd_ray.analysis.estimate import LEVEL, NO_NOTE, Estimate, Moments
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import covariances, known_spread
from l2kd_ray.analysis.note import NoInterval, Note, Undefined


def ratio(
    x: FloatArray, y: FloatArray, population: int, note: Note = NO_NOTE, level: float = LEVEL
) -> Estimate:
    """Mean of x over mean of y, tables `[k, S]` of the same orders and seeds.

    Without an interval for one seed, or seeds that all agree; undefined where y's interval holds 0,
    as the ratio then has no bounds.
    """
    top, bottom = float(x.mean()), float(y.mean())
    if bottom == 0:
        return Estimate(note=Note(undefined=Undefined.RATIO_TO_ZERO))
    if x.shape[1] < 2:
        return Estimate(top / bottom, note=Note(no_interval=NoInterval.ONE_SEED))
    order, seed = covariances(x, y, population)
    v = order + seed
    contrast = np.array([1.0, -top / bottom])
    if np.isnan(known_spread(contrast @ seed @ contrast)):
        return Estimate(top / bottom, note=Note(no_interval=NoInterval.SEEDS_ALIKE))
    t = _quantile(contrast @ order @ contrast, contrast @ seed @ contrast, x.shape, level)
    unbounded = Note(undefined=Undefined.RATIO_MAY_BE_TO_ZERO)
    if abs(bottom) <= _quantile(order[1, 1], seed[1, 1], x.shape, level) * sqrt(v[1, 1]):
        return Estimate(note=unbounded)
    a, b, c = bottom**2 - t**2 * v[1, 1], top * bottom - t**2 * v[0, 1], top**2 - t**2 * v[0, 0]
    if not a > 0:
        return Estimate(note=unbounded)
    root = sqrt(max(b * b - a * c, 0.0))
    return Estimate(top / bottom, (b - root) / a, (b + root) / a, note)


def _quantile(order: float, seed: float, shape: tuple[int, ...], level: float) -> float:
    parts = np.asarray(order), np.asarray(seed)
    return float(Moments(np.asarray(0.0), *parts, shape[0] - 1, shape[1] - 1).quantile(level))
