"""Valid intervals for a study that is read, or stopped, before it is finished.

Looks are planned: at fixed numbers of orders, each finished for every method and seed. A look's
interval has the level 1 - alpha_l, and the alphas add up to 0.05, so that all looks together hold
with at least 95 % (Bonferroni; alpha is spent in proportion to the orders done, Lan & DeMets 1983,
Kim & DeMets 1987 with rho = 1). Then a stop at any look, for any reason, leaves the interval valid.
Between two looks the interval of the former stands. A study that no look could have
stopped, and that nobody has read before, may be read at 95 % at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt

import numpy as np
from scipy.special import chdtri, stdtrit

from l2kd_ray.analysis.anova import mean_products
from l2kd_ray.analysis.estimate import LEVEL, Estimate, Moments
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import BOTH, SEED, moments
from l2kd_ray.analysis.note import Named, Note

_FIRST_LOOK = 12
"""Orders: with fewer, one hard task or order may be missing, and the spread is hardly known."""
FEWEST_WITH_A_LOOK = 2 * _FIRST_LOOK - 1
"""Planned orders from which on there is a look before the end."""
RESERVE = 0.1
"""The part of alpha that is not spent: for gaps that are skewed over orders."""
_MOST_SEEDS = 1000


def planned_looks(orders: int) -> tuple[int, ...]:
    """Numbers of finished orders to look at: all planned ones, half of them, a quarter, ...

    24 gives 12, 24; 120 gives 15, 30, 60, 120; below 23 the end is the only look.
    """
    looks = [orders]
    while ceil(looks[0] / 2) >= _FIRST_LOOK:
        looks.insert(0, ceil(looks[0] / 2))
    return tuple(looks)


def alphas(looks: Sequence[int]) -> tuple[float, ...]:
    """The alpha of each look: its share of the orders times 0.05 minus a reserve.

    An only look has all of it, as there is nothing to share it with.
    """
    before, whole = (0, *looks[:-1]), (1 - RESERVE * (len(looks) > 1)) * (1 - LEVEL)
    return tuple(whole * (k - b) / looks[-1] for b, k in zip(before, looks, strict=True))


@dataclass(frozen=True)
class Reading:
    """The orders that a study may be read from now, and the level of its intervals."""

    orders: int
    level: float | None
    """Level of the intervals; None: no interval yet."""
    first_look: int | None = None
    """Orders of the first planned look, where it is still to come."""

    def note(self, note: Note) -> Note:
        """A number's note with the look at which it is read."""
        look = None if self.level == LEVEL else self.level
        return replace(note, look=look, first_look=self.first_look)

    def adjusted(self, p: float) -> float:
        """A p-value that may be compared with 0.05, whichever look it is from; NaN at no level."""
        if self.level is None or np.isnan(p):
            return np.nan
        return min(p * (1 - LEVEL) / (1 - self.level), 1.0)


def reading(finished: int, planned: int, *, stopping: bool = False) -> Reading:
    """The reading of a study with `finished` of `planned` orders.

    A whole study is read at 95 %. Half-way, or where a stop rule might have ended it earlier
    (`stopping`), it is read as of its last planned look.
    """
    looks = planned_looks(planned)
    if finished == planned and (len(looks) == 1 or not stopping):
        return Reading(planned, LEVEL)
    spent = [(k, a) for k, a in zip(looks, alphas(looks), strict=True) if k <= finished]
    if not spent:
        return Reading(finished, None, looks[0])
    orders, alpha = spent[-1]
    return Reading(orders, 1 - alpha)


@dataclass(frozen=True)
class Seen:
    """The size of a study when its intervals were shown: by a report, or to a stop rule."""

    tasks: tuple[str, ...]
    seeds: tuple[str, ...]
    planned: int
    """Orders that the study had planned then."""
    orders: int
    """Orders that the intervals were read over."""

    @property
    def plan(self) -> tuple[object, ...]:
        return self.tasks, self.seeds, self.planned


def looked_half_way(former: Iterable[Seen], now: Seen) -> bool:
    """Whether the study was read before its end: its end is then a planned look like the others."""
    return any(one.plan == now.plan and one.orders < one.planned for one in former)


def smaller_plans(former: Iterable[Seen], now: Seen) -> list[Seen]:
    """The smaller plans that the study was read under before seeds or orders were added, by size.

    All looks of one plan hold together with 95 %. Whoever adds seeds or orders after a look may do
    so because of it, and each plan spends 5 % anew (Bonferroni).
    """
    plans = {
        one.plan: one
        for one in former
        if one.tasks == now.tasks
        and set(one.seeds) <= set(now.seeds)
        and one.planned <= now.planned
        and one.plan != now.plan
    }
    return sorted(plans.values(), key=lambda one: (len(one.seeds), one.planned))


def joint_level(plans: int) -> float:
    """The level that 95 % intervals under so many plans hold at together."""
    return max(1 - plans * (1 - LEVEL), 0.0)


@dataclass(frozen=True)
class Look:
    """The mean at a planned look."""

    orders: int
    level: float
    """The level of this look's interval; the intervals of all looks hold jointly."""
    estimate: Estimate


def at_looks(table: FloatArray, planned: int, population: int) -> list[Look]:
    """The looks that a table `[finished orders, seeds]` has reached, of `planned` orders.

    Rows are in the drawn sequence. One with a missing cell, as a trial has failed there, counts as
    finished and is left out of the mean.
    """
    looks = planned_looks(planned)
    found = []
    for k, alpha in zip(looks, alphas(looks), strict=True):
        if k > len(table):
            break
        whole = table[:k][~np.isnan(table[:k]).any(axis=1)]
        so_far = moments(whole, population) if len(whole) else moments(table[:1], 1)  # else NaN
        found.append(Look(k, 1 - alpha, so_far.estimate(level=1 - alpha)))
    return found


class Outcome(Named):
    """The result of a stop rule."""

    REACHED = "reached"
    OPEN = "open"
    """The half-width may still be reached."""
    EARLY = "before the first look"
    OUT_OF_REACH = "out of reach"
    """All planned orders would not bring the half-width below eps, with these seeds."""
    NO_ORDER_LEFT = "no order left"
    ONE_SEED = "one seed"
    """There is never an interval."""


@dataclass(frozen=True)
class Verdict:
    """The decision of a stop rule, with the numbers that it rests on."""

    outcome: Outcome
    method: str
    metric: str
    eps: float
    """The half-width asked for, in points."""
    finished: int
    """Orders finished; `planned` orders in all."""
    planned: int
    seeds: int
    look: Look | None = None
    """The first look that reached eps, else the last one; None before the first."""
    final_half_width: float = np.nan
    """Expected half-width when all planned orders have run; NaN before the first look."""
    least_half_width: float = np.nan
    """A lower bound of it, with these seeds."""
    seeds_needed: int | None = None
    """Seeds that would reach eps with all planned orders; None where unknown or above 1,000."""

    @property
    def stop(self) -> bool:
        return self.outcome is Outcome.REACHED

    @property
    def price(self) -> float:
        """Width of the interval at the end over what it would be without the rule, orders aside."""
        last = alphas(planned_looks(self.planned))[-1]
        quantiles = stdtrit(max(self.seeds - 1, 1), [1 - last / 2, (1 + LEVEL) / 2])
        return float(quantiles[0] / quantiles[1])

    @property
    def first_look(self) -> int:
        """Orders of the first planned look."""
        return planned_looks(self.planned)[0]


def stop_rule(
    table: FloatArray,
    planned: int,
    population: int,
    eps: float,
    *,
    method: str,
    metric: str = "gap/abs",
) -> Verdict:
    """`tune.stop: {half_width: eps}` for a table `[finished orders, seeds]`.

    Stops at the first planned look whose interval has a half-width of at most eps; a later call
    with more rows gives the same answer. eps is out of reach where the seeds alone would keep the
    half-width above it with all planned orders run. The seeds' part of the variance is taken at its
    5 % lower bound (chi-square), so that this is said only when it is sure.
    """
    finished, seeds = table.shape
    early = Verdict(Outcome.EARLY, method, metric, eps, finished, planned, seeds)
    if seeds < 2:
        return replace(early, outcome=Outcome.ONE_SEED)
    looks = at_looks(table, planned, population)
    if not looks:
        return early
    reached = next((look for look in looks if look.estimate.half_width <= eps), None)
    last = reached or looks[-1]
    final, least, needed = _forecast(table[: last.orders], planned, population, eps)
    if reached:
        outcome = Outcome.REACHED
    elif last.orders == planned:
        outcome = Outcome.NO_ORDER_LEFT
    else:
        outcome = Outcome.OUT_OF_REACH if least > eps else Outcome.OPEN
    return replace(
        early,
        outcome=outcome,
        look=last,
        final_half_width=final,
        least_half_width=least,
        seeds_needed=needed,
    )


def _forecast(
    table: FloatArray, planned: int, population: int, eps: float
) -> tuple[float, float, int | None]:
    """Expected half-width with all planned orders, a lower bound of it, and seeds to reach eps.

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
    alpha = alphas(planned_looks(planned))[-1]
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
            for s in range(2, _MOST_SEEDS + 1)
            if stdtrit(s - 1, 1 - alpha / 2) * sqrt(variance / s) <= eps
        ),
        None,
    )
    return float(end.half_width(1 - alpha)), t * sqrt(at_least / seeds), needed
