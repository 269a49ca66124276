"""More orders or more seeds: where the next hours narrow the interval most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from l2kd_ray.analysis.estimate import Moments


@dataclass(frozen=True)
class Advice:
    """Expected half-widths, in points, after spending the cost of one more seed."""

    now: float
    more_orders: float
    """NaN where every order has run."""
    more_seeds: float
    orders: int
    """Number of orders that cost as much as one more seed."""


def advise(variances: Mapping[str, float], orders: int, seeds: int, population: int) -> Advice:
    """Compare one more seed with as many more orders as it costs, each trial costing the same.

    Expected half-widths follow from Var = (1 - f) (s_o^2 + s_os^2 / S) / k + s_s^2 / S (`mean`).

    Args:
        variances: of `order`, `seed` and `order x seed`, as `decompose` estimates them; below 0
            counts as 0.
    """
    extra = min(max(int(orders / seeds), 1), population - orders)

    def expected(k: int, s: int) -> float:
        names = ("order", "seed", "order x seed")
        order, seed, both = (max(variances[name], 0.0) for name in names)
        order_part = (1 - k / population) * (order + both / s) / k
        parts = Moments(np.asarray(0.0), np.asarray(order_part), np.asarray(seed / s), k - 1, s - 1)
        return float(parts.half_width()) if s > 1 else np.nan

    now, with_seed = expected(orders, seeds), expected(orders, seeds + 1)
    with_orders = expected(orders + extra, seeds) if extra else np.nan
    return Advice(now, with_orders, with_seed, extra)
