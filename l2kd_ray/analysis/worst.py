"""Bounds on the worst orders from a sample of orders.

The largest gap of a sample grows with the sample and is no bound for the orders that did not run. A
bound on a quantile is: it holds for any gaps, for orders drawn in blocks as `study.orders` does.
"""

from __future__ import annotations

from math import ceil, factorial

import numpy as np
from scipy.special import bdtr

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


def orders_beyond_worst(orders: int, tasks: int, level: float = LEVEL) -> int:
    """Upper bound on how many of the N = n! orders are worse than the worst of k drawn ones.

    A draw misses the D worst orders with probability (1 - D / N)^m at most, m = `_draws`, so D or
    more are missed with at most 1 - level from the smallest such D on; the bound is D - 1.
    """
    population, draws = _population(orders, tasks), _draws(orders, tasks)
    most = ceil(population * (1 - float((1 - level) ** (1 / draws))) - 1e-9) - 1
    return min(most, population - orders)


def quantile_bound(
    values: FloatArray, tasks: int, share: float = _WORST_SHARE, level: float = LEVEL
) -> float:
    """An upper bound of the value that the worst `share` of the N = n! orders begins at.

    With D = ceil(share N), it is the D-th largest of all N values that is bounded. The j-th largest
    of those drawn is below it only if fewer than j of the D worst were drawn, with a probability of
    at most sum_{i<j} C(m, i) (D / N)^i (1 - D / N)^(m - i), m = `_draws`. The bound is the smallest
    of the drawn values (the largest j) of which that is at most 1 - level; infinite where even the
    largest drawn has a higher one.
    """
    population, draws = _population(len(values), tasks), _draws(len(values), tasks)
    worst = ceil(share * population - 1e-9)
    chances = bdtr(np.arange(draws), draws, worst / population)
    allowed = int((chances <= (1 - level) * (1 + 1e-12)).sum())
    if len(values) == population:
        allowed = worst
    return float(np.sort(values)[::-1][allowed - 1]) if allowed else np.inf


def _draws(orders: int, tasks: int) -> int:
    """How many draws with replacement so many orders of `study.orders` are worth at least.

    In whole rounds of n (n - 1) orders every pair of a first and a last task occurs equally often.
    The number of bad ones among them is a sum of independent events, and a sum far below its
    mean is likeliest where all have the same chance (Hoeffding 1956): the binomial. Of fewer, only
    those count that begin with the task that most bad orders begin with: one in each block of n.
    """
    whole = orders - orders % max(tasks * (tasks - 1), 1)
    return max(whole, orders // max(tasks, 1), 1)


def _population(orders: int, tasks: int) -> int:
    if not 0 < orders <= factorial(tasks):
        raise ValueError(f"{orders} orders drawn of {factorial(tasks)}")
    return factorial(tasks)
