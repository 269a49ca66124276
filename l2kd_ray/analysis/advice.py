"""More orders or more seeds: where the next hours narrow the interval most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from l2kd_ray.analysis.estimate import LEVEL, Moments


@dataclass(frozen=True)
class Advice:
    """What the same cost buys: expected half-widths, in points."""

    now: float
    more_orders: float
    """NaN where every order has run."""
    more_seeds: float
    orders: int
    """How many more orders the cost of one more seed would pay for."""
    words: str


def advise(
    variances: Mapping[str, float],
    orders: int,
    seeds: int,
    population: int,
    *,
    order_cost: float = 1.0,
    seed_cost: float | None = None,
    level: float = LEVEL,
) -> Advice:
    """Compare one more seed with as many more orders as it costs.

    Args:
        variances: of `order`, `seed` and `order x seed`, as `decompose` estimates them; below 0
            counts as 0. The expected half-width follows from Var = (1 - f) (s_o^2 + s_os^2 / S) / k
            + s_s^2 / S (`mean`).
        order_cost: of one more order on the present seeds, in any unit.
        seed_cost: of one more seed on the present orders; by default order_cost x orders / seeds,
            each instance costing the same.
    """
    price = seed_cost if seed_cost is not None else order_cost * orders / seeds
    if not (price > 0 and order_cost > 0):
        raise ValueError(f"advise: costs {order_cost} and {price}; expected numbers above 0")
    extra = min(max(int(price / order_cost), 1), population - orders)

    def expected(k: int, s: int) -> float:
        order, seed, both = (
            max(variances[name], 0.0) for name in ("order", "seed", "order x seed")
        )
        order_part = (1 - k / population) * (order + both / s) / k
        parts = Moments(np.asarray(0.0), np.asarray(order_part), np.asarray(seed / s), k - 1, s - 1)
        return float(parts.half_width(level)) if s > 1 else np.nan

    now, with_seed = expected(orders, seeds), expected(orders, seeds + 1)
    with_orders = expected(orders + extra, seeds) if extra else np.nan
    if not extra:
        words = "More seeds: every order in it has run, and only seeds can narrow the interval"
        words += f" (one more: about {with_seed:.2g} points either side"
    else:
        first = "orders" if with_orders < with_seed else "seeds"
        words = f"More {first}: for the cost of one more seed, about {with_seed:.2g} points either"
        words += f" side with the seed, {with_orders:.2g} with {extra} more orders ("
    words += f"{'' if words.endswith('(') else '; '}now {now:.2g})."
    return Advice(now, with_orders, with_seed, extra, words)
