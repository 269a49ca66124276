"""More orders or more seeds: where the next hours narrow the interval most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from l2kd_ray.analysis.estimate import Moments


@dataclass(frozen=True)
class Advice:
    """Expected half-widths, in points, after one more seed and after more orders instead."""

    now: float
    more_orders: float
    """NaN where every order has run."""
    more_seeds: float
    orders: int
    """Number of orders of a cost next to that of one more seed; 0 where every order has run."""
    seed_trials: int
    """Trials of one more seed, its references among them."""
    order_trials: int
    """Trials of so many orders."""
    seeds: int
    """Seeds that have run."""


def advise(
    variances: Mapping[str, float],
    orders: int,
    seeds: int,
    population: int,
    methods: int = 1,
    references: int = 0,
) -> Advice:
    """Compare one more seed with as many more orders as come nearest to its cost, at least one.

    A seed costs a trial for each method and order and its references; an order a trial for each
    method and seed, as the seeds' references are there. Every trial counts the same, and so do the
    multi-task model and the single-task models of a seed together.

    Args:
        variances: of `order`, `seed` and `order x seed`, as `decompose` estimates them; below 0
            counts as 0.
        references: trials of references for each seed.
    """
    cost = orders * methods + references
    extra = min(max(round(cost / (seeds * methods)), 1), population - orders)
    half = {
        (k, s): float(expected(variances, k, s, population).half_width())
        for k, s in ((orders, seeds), (orders, seeds + 1), (orders + extra, seeds))
    }
    return Advice(
        half[orders, seeds],
        half[orders + extra, seeds] if extra else np.nan,
        half[orders, seeds + 1],
        extra,
        cost,
        extra * seeds * methods,
        seeds,
    )


def expected(variances: Mapping[str, float], orders: int, seeds: int, population: int) -> Moments:
    """The mean of so many orders and seeds with its expected variance, of these components.

    Var = (1 - f) (s_o^2 + s_os^2 / S) / k + s_s^2 / S (`mean`); NaN for one seed.
    """
    names = ("order", "seed", "order x seed")
    order, seed, both = (max(variances[name], 0.0) for name in names)
    order_part = (1 - orders / population) * (order + both / seeds) / orders
    seed_part = seed / seeds if seeds > 1 else np.nan
    parts = np.asarray(order_part), np.asarray(seed_part)
    return Moments(np.asarray(0.0), *parts, orders - 1, seeds - 1)
