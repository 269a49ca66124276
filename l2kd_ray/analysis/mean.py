"""The mean over all orders of a table `[orders, seeds]`, and its variance.

The independent replicate is the training seed, with its own teachers, multi-task bound and trie.
In a seed the orders share stages, so their noise is correlated in a way that nothing here has to
know: the orders that ran are a simple random sample of the N that there are, and the seeds are
independent, which is all that the variance below rests on.

    Var(mean) = (1 - f) S_G^2 / k + sigma_B^2 / S,    f = k / N

with S_G^2 the variance over all orders of an order's mean over the S seeds (sampling without
replacement, Cochran 1977, eq. 2.8) and sigma_B^2 the variance over seeds of a seed's mean over all
orders. The spread between the seeds' means over k orders estimates sigma_B^2 too high, by the order
x seed part (1 - f) MS_OS / k, which the order part holds already. Hence, from the mean squares,

    v = (1 - f) max(MS_O - MS_OS, 0) / (k S) + MS_S / (k S)

unbiased but for the truncation; with all orders it is the spread of the seeds' means over S.
"""

from __future__ import annotations

import numpy as np

from l2kd_ray.analysis.anova import mean_products
from l2kd_ray.analysis.estimate import Moments
from l2kd_ray.analysis.matrix import FloatArray

ORDER, SEED, BOTH = (0,), (1,), (0, 1)
_ROUNDING = 1e-20
"""Squared points."""


def moments(table: FloatArray, population: int) -> Moments:
    """The mean of tables `[..., k, S]` over all `population` orders, with its two variances.

    `population` = k: the mean is over these orders only. The seed part is NaN for S = 1 and where
    all seeds have the same mean, from which their spread is not known.
    """
    orders, seeds = table.shape[-2:]
    squares = mean_products(table, table)
    return Moments(
        table.mean(axis=(-2, -1)),
        np.maximum(_order_part(squares[ORDER], squares[BOTH], table.shape, population), 0),
        known_spread(squares[SEED] / (orders * seeds)),
        orders - 1,
        seeds - 1,
    )


def known_spread(variance: FloatArray) -> FloatArray:
    """The variance over seeds of a mean, NaN where it is 0 but for rounding."""
    found: FloatArray = np.where(variance > _ROUNDING, variance, np.nan)[()]
    return found


def covariances(x: FloatArray, y: FloatArray, population: int) -> tuple[FloatArray, FloatArray]:
    """Covariance of the means of two tables `[k, S]`: order part and seed part, each 2 x 2.

    The order part is brought to the nearest matrix that is a covariance (no eigenvalue below 0).
    """
    order, seed = np.zeros((2, 2)), np.zeros((2, 2))
    for i, j, one, two in ((0, 0, x, x), (0, 1, x, y), (1, 0, y, x), (1, 1, y, y)):
        products = mean_products(one, two)
        order[i, j] = _order_part(products[ORDER], products[BOTH], x.shape, population)
        seed[i, j] = products[SEED] / x.size
    values, vectors = np.linalg.eigh(order)
    return (vectors * np.maximum(values, 0)) @ vectors.T, seed


def _order_part(
    between: FloatArray, residual: FloatArray, shape: tuple[int, ...], population: int
) -> FloatArray:
    orders, seeds = shape[-2:]
    unseen = 1 - orders / population
    if unseen <= 0 or orders == 1:  # one order has no spread
        return np.zeros_like(between) if unseen <= 0 else np.full_like(residual, np.nan)
    return unseen * (between - residual) / (orders * seeds)
