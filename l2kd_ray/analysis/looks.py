"""Looking at a study before it is finished, and stopping it, without fooling oneself.

Looks are planned: at fixed numbers of orders, each finished for every method and seed. A look's
interval has the level 1 - alpha_l, and the alphas add up to 0.05, so that all looks together hold
with at least 95 % (Bonferroni; alpha is spent in proportion to the orders done, Lan & DeMets 1983,
Kim & DeMets 1987 with rho = 1). Then a stop at any look, for any reason, leaves the interval valid.
Between two looks the interval of the former stands. A study that is run to its end whatever its
looks say may be read at 95 % there: nothing was decided by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from scipy.special import chdtri, stdtrit

from l2kd_ray.analysis.anova import mean_products
from l2kd_ray.analysis.assisted import assisted
from l2kd_ray.analysis.estimate import LEVEL, Estimate, Moments
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import BOTH, SEED, moments

FIRST_LOOK = 6
"""Orders: with fewer, their spread is hardly known, and tail probabilities are off by factors."""
RESERVE = 0.1
"""The part of alpha that is not spent: for gaps that are skewed over orders."""
MOST_SEEDS = 1000


def planned_looks(orders: int) -> tuple[int, ...]:
    """Numbers of finished orders to look at: all planned ones, half of them, a quarter, ...

    24 gives 6, 12, 24; 120 gives 8, 15, 30, 60, 120.
    """
    looks = [orders]
    while ceil(looks[0] / 2) >= FIRST_LOOK:
        looks.insert(0, ceil(looks[0] / 2))
    return tuple(looks)


def alphas(looks: Sequence[int], level: float = LEVEL) -> tuple[float, ...]:
    """What each look may spend of 1 - level, less a reserve: its share of the orders."""
    before, whole = (0, *looks[:-1]), (1 - RESERVE) * (1 - level)
    return tuple(whole * (k - b) / looks[-1] for b, k in zip(before, looks, strict=True))


@dataclass(frozen=True)
class Reading:
    """How a study may be read now: from so many of its orders, at this level."""

    orders: int
    level: float | None
    """None: no interval yet."""
    note: str

    def adjusted(self, p: float) -> float:
        """A p-value that may be compared with 0.05, whichever look it is from; NaN at no level."""
        if self.level is None or np.isnan(p):
            return np.nan
        return min(p * (1 - LEVEL) / (1 - self.level), 1.0)


def reading(finished: int, planned: int, *, stopping: bool = False) -> Reading:
    """The reading of a study with so many finished orders of so many planned ones.

    Whole, it is read at 95 %; half-way, and whole where a stop rule might have ended it before
    (`stopping`), by its last planned look.
    """
    if finished == planned and not stopping:
        return Reading(planned, LEVEL, "")
    looks = planned_looks(planned)
    spent = [(k, a) for k, a in zip(looks, alphas(looks), strict=True) if k <= finished]
    if not spent:
        first = f"no interval before the first planned look, at {looks[0]} orders"
        return Reading(finished, None, first)
    orders, alpha = spent[-1]
    words = f"a planned look, level {100 * (1 - alpha):.2f} %: all looks together hold at 95 %"
    return Reading(orders, 1 - alpha, words)


@dataclass(frozen=True)
class Look:
    orders: int
    level: float
    """Of this look's interval; those of all looks hold jointly."""
    estimate: Estimate


def at_looks(
    table: FloatArray,
    planned: int,
    population: int,
    *,
    note: str = "",
    orders: Sequence[str] | None = None,
    level: float = LEVEL,
) -> list[Look]:
    """The looks that a table `[finished orders, seeds]` has reached, of `planned` orders.

    Rows are in the drawn sequence; one with a missing cell, as a trial has failed there, counts as
    finished and is left out. `orders`: their names, for the model-assisted mean.
    """
    looks = planned_looks(planned)
    found = []
    for k, alpha in zip(looks, alphas(looks, level), strict=True):
        if k > len(table):
            break
        so_far = _moments(table[:k], orders[:k] if orders else None, population)
        found.append(Look(k, 1 - alpha, so_far.estimate(note, 1 - alpha)))
    return found


def _moments(table: FloatArray, orders: Sequence[str] | None, population: int) -> Moments:
    whole = np.flatnonzero(~np.isnan(table).any(axis=1))
    if not len(whole):
        return moments(table[:1], 1)  # NaN
    if orders is None or table.shape[1] < 2:
        return moments(table[whole], population)
    return assisted(table[whole], [orders[int(k)] for k in whole], population)


@dataclass(frozen=True)
class Verdict:
    """Whether to stop, and why, in words that name the method, the metric and the numbers."""

    stop: bool
    why: str
    look: Look | None
    """The last one reached."""
    reachable: bool
    """Whether all planned orders could bring the half-width below eps, with these seeds."""
    final_half_width: float
    """What is to be expected of it when all planned orders have run; NaN before the first look."""
    seeds_needed: int | None
    """How many seeds would be, all planned orders run; None where unknown or above 1,000."""


def stop_rule(
    table: FloatArray,
    planned: int,
    population: int,
    eps: float,
    *,
    method: str,
    metric: str = "gap/abs",
    orders: Sequence[str] | None = None,
    level: float = LEVEL,
) -> Verdict:
    """`tune.stop: {half_width: eps}` for a table `[finished orders, seeds]`.

    Stops at the first planned look whose interval has a half-width of at most eps; a later call
    with more rows gives the same answer. eps is out of reach where the seeds alone, were all
    planned orders run, keep the half-width above it: with the seeds' part of the variance taken at
    its 5 % lower bound (chi-square), so that it is said only when it is sure.
    """
    what = f"{metric} of {method}"
    if table.shape[1] < 2:
        why = f"{what}: one seed has no interval, so half_width {eps:g} is never reached"
        return Verdict(False, f"{why}; add seeds", None, False, np.nan, None)
    looks = at_looks(table, planned, population, orders=orders, level=level)
    reached = next((look for look in looks if look.estimate.half_width <= eps), None)
    if not looks:
        first = planned_looks(planned)[0]
        why = f"{what}: {len(table)} of the {first} orders of the first look are finished"
        return Verdict(False, why, None, True, np.nan, None)
    last = reached or looks[-1]
    final, least, needed = _forecast(table[: last.orders], planned, population, eps, level)
    width = f"half-width {last.estimate.half_width:.3g} after {last.orders} of {planned} orders"
    if reached:
        why = f"{what}: {width}, at most {eps:g}"
        return Verdict(True, why, reached, True, final, needed)
    if last.orders == planned:
        why = f"{what}: {width}, above {eps:g}, and no planned order is left"
        return Verdict(False, why + _more_seeds(needed, table), last, False, final, needed)
    if least > eps:
        why = f"{what}: {width}; {eps:g} is out of reach with {table.shape[1]} seeds: all"
        why += f" {planned} orders would leave about {final:.3g}, and hardly less than {least:.3g}"
        return Verdict(False, why + _more_seeds(needed, table), last, False, final, needed)
    why = f"{what}: {width}, above {eps:g}; all {planned} orders would leave about {final:.3g}"
    return Verdict(False, why, last, True, final, needed)


def _more_seeds(needed: int | None, table: FloatArray) -> str:
    known = needed is not None and needed > table.shape[1]
    return f"; about {needed} seeds would do" if known else "; add seeds"


def _forecast(
    table: FloatArray, planned: int, population: int, eps: float, level: float
) -> tuple[float, float, int | None]:
    """With all planned orders run: expected half-width, a lower bound of it, seeds that reach eps.

    The seeds' part at its unbiased estimate, (MS_S - (1 - f) MS_OS) / k (`anova`). Where planned
    orders are a sample themselves, their own part is left out of the bound and of the seeds.
    """
    table = table[~np.isnan(table).any(axis=1)]
    k, seeds = table.shape
    squares = mean_products(table, table)
    variance = max(float(squares[SEED] - (1 - k / population) * squares[BOTH]) / k, 0.0)
    found = moments(table, population)
    shrink = 0.0
    if k < population:
        shrink = (k / planned) * (1 - planned / population) / (1 - k / population)
    alpha = alphas(planned_looks(planned), level)[-1]
    end = Moments(
        found.mean,
        found.order * shrink,
        np.asarray(variance / seeds),
        planned - 1,
        seeds - 1,
    )
    at_least = variance * (seeds - 1) / float(chdtri(seeds - 1, 0.05))
    t = float(stdtrit(seeds - 1, 1 - alpha / 2))
    needed = next(
        (
            s
            for s in range(2, MOST_SEEDS + 1)
            if stdtrit(s - 1, 1 - alpha / 2) * sqrt(variance / s) <= eps
        ),
        None,
    )
    return float(end.half_width(1 - alpha)), t * sqrt(at_least / seeds), needed
