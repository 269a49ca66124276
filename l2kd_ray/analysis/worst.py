"""Bounds on the worst orders from a sample of orders.

The largest gap of a sample grows with the sample and is no bound for the orders that did not run. A
bound on a quantile is: it holds for any gaps, as orders are drawn without replacement.
"""

from __future__ import annotations

from math import ceil, comb

import numpy as np

from l2kd_ray.analysis.estimate import LEVEL
from l2kd_ray.analysis.matrix import FloatArray

_WORST_SHARE = 0.2


def cvar(values: FloatArray, share: float = _WORST_SHARE) -> float:
    """Mean of the worst (largest) `share` of the values, the last one counted in part.

    Conditional value at risk of equally likely outcomes (Rockafellar & Uryasev 2002): of 6 orders
    at 20 % the worst counts whole and the next one fifth.
    """
    if not 0 < share <= 1:
        raise ValueError(f"cvar: share is {share}; expected a fraction above 0 and up to 1")
    worst_first = np.sort(values)[::-1]
    mass = share * len(values)
    counted = ceil(mass)
    weights = np.clip(mass - np.arange(counted), 0, 1)
    return float(np.average(worst_first[:counted], weights=weights)) if counted else np.nan


def orders_beyond_worst(orders: int, population: int, level: float = LEVEL) -> int:
    """Upper bound on how many of the N orders are worse than the worst of k drawn ones.

    The sample misses the D worst orders with probability C(N - D, k) / C(N, k) (hypergeometric), so
    D or more are missed with at most 1 - level from the smallest such D on; the bound is D - 1.
    """
    _check(orders, population)
    missed = 0
    while comb(population - missed - 1, orders) > _allowed(orders, population, level):
        missed += 1
    return missed


def quantile_bound(
    values: FloatArray, population: int, share: float = _WORST_SHARE, level: float = LEVEL
) -> float:
    """An upper bound of the value that the worst `share` of the N orders begins at.

    With D = ceil(share N), it is the D-th largest of all N values that is bounded. The j-th largest
    of the k drawn is below it only if fewer than j of the D worst were drawn, with probability
    sum_{i<j} C(D, i) C(N - D, k - i) / C(N, k). The bound is the smallest of the drawn values (the
    largest j) of which that probability is at most 1 - level; infinite where even the largest drawn
    has a higher one.
    """
    drawn = len(values)
    _check(drawn, population)
    worst = ceil(share * population - 1e-9)
    missed, allowed = 0, 0
    for j in range(1, drawn + 1):
        missed += comb(worst, j - 1) * comb(population - worst, drawn - j + 1)
        if missed > _allowed(drawn, population, level):
            break
        allowed = j
    return float(np.sort(values)[::-1][allowed - 1]) if allowed else np.inf


def _allowed(drawn: int, population: int, level: float) -> float:
    """Number of samples, of all there are, that a bound may miss; with a margin for rounding."""
    return (1 - level) * comb(population, drawn) * (1 + 1e-12)


def _check(orders: int, population: int) -> None:
    if not 0 < orders <= population:
        raise ValueError(f"{orders} orders drawn of {population}; expected 1 to {population}")
