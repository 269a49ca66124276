"""Two methods compared on the same instances, and many pairs of them.

The difference is taken on every (order, seed) that both have, averaged within a seed, and tested
over seeds: the bound, the batches and the draws of a seed are common to both and cancel.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil, log2

import numpy as np
import pandas as pd

from l2kd_ray.analysis.design import ArmId, Cells, Design, Instance, cells, finished_orders, of_arm
from l2kd_ray.analysis.estimate import LEVEL, NO_NOTE, Estimate, simultaneous
from l2kd_ray.analysis.looks import Reading, reading
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import moments
from l2kd_ray.analysis.note import NoInterval, Note, Undefined

BY_SEED = "seed/"
"""Prefix of a column with one training seed's difference."""
_EXACT_SEEDS = 16
_COLUMNS = (
    *("method", "setting", "against", "against/setting", "difference", "low", "high"),
    *("p", "p_adjusted", "p_flip", "p_flip_adjusted", "flip_seeds", "detectable", "at_most"),
    *("effect", "lower", "n_orders", "n_seeds", "note"),
)


@dataclass(frozen=True)
class Paired:
    """The difference a - b of two tables, with its tests."""

    difference: Estimate
    p: float
    """Two-sided, Student's t: below 1 - level exactly where the interval leaves 0 out."""
    p_flip: float
    """Two-sided, sign-flip: assumes no normal distribution. NaN where the orders are a sample, as
    it tests the mean over the orders that ran and no other."""
    detectable: float
    """The difference that leaves 0 out with 80 % power, were the spread the one seen."""
    effect: float
    """Hedges's g of the seeds' differences: mean over standard deviation, corrected for few."""
    lower: float
    """Share of instances where a's value is the lower one, ties counted half."""


def paired(
    a: FloatArray, b: FloatArray, population: int, note: Note = NO_NOTE, level: float = LEVEL
) -> Paired:
    """Two tables `[orders, seeds]` of the same instances, as a - b.

    With one seed there is a difference and no test.
    """
    difference = a - b
    orders, seeds = difference.shape
    lower = float(((difference < 0) + 0.5 * (difference == 0)).mean())
    by_seed = difference.mean(axis=0)
    if seeds < 2:
        note = Note(no_interval=NoInterval.ONE_SEED)
        alone = Estimate(float(difference.mean()), note=note)
        return Paired(alone, np.nan, np.nan, np.nan, np.nan, lower)
    if orders == 1 < population:
        note = replace(note, no_interval=NoInterval.ONE_ORDER)
    found = moments(difference, population)
    estimate = found.estimate(note, level)
    flip = sign_flip(by_seed) if orders == population and estimate.bounded else np.nan
    return Paired(estimate, found.p, flip, found.detectable(level), hedges(by_seed), lower)


def sign_flip(values: FloatArray, repeats: int = 100_000) -> float:
    """Two-sided p of the mean of independent values that are symmetric about 0 (Fisher 1935).

    The share of the 2^S choices of signs whose mean is as far from 0 as the one seen; so never
    below 2^(1 - S). Above 16 values of `repeats` seeded draws, the one seen among them.
    """
    count = len(values)
    if count <= _EXACT_SEEDS:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], size=(repeats, count))
        signs[0] = 1
    seen = abs(float(values.sum()))
    return float((np.abs(signs @ values) >= seen * (1 - 1e-12)).mean())


def hedges(values: FloatArray) -> float:
    """Mean over standard deviation, times 1 - 3 / (4 (S - 1) - 1) (Hedges 1981): g of pairs.

    NaN for two values, where the correction is 0, and where they are all the same.
    """
    spread = float(values.std(ddof=1))
    if len(values) < 3 or spread == 0:
        return np.nan
    return float(values.mean()) / spread * (1 - 3 / (4 * (len(values) - 1) - 1))


def holm(p: Sequence[float]) -> FloatArray:
    """p-values adjusted so that the chance of any false rejection is bounded (Holm 1979).

    The j-th smallest of m is multiplied by m - j + 1, and none is below one before it. NaN stays
    and does not count.
    """
    values = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(values))
    adjusted = np.full_like(values, np.nan)
    ascending = known[np.argsort(values[known], kind="stable")]
    steps = values[ascending] * np.arange(len(known), 0, -1)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(known) else steps
    return adjusted


def compare_methods(
    results: pd.DataFrame,
    arms: Sequence[ArmId],
    design: Design,
    failed: Collection[Instance] = (),
    *,
    stopping: bool = False,
    pairs: Sequence[tuple[ArmId, ArmId]] | None = None,
) -> pd.DataFrame:
    """One row for each pair of arms: `difference` is the gap of `method` minus that of `against`.

    `pairs`: some of them (default: all).

    Over the orders that all arms and seeds have finished (`finished_orders`), without those on
    which a trial of the pair has failed; half-way, at the last planned look (`looks.reading`), with
    p-values scaled so that they compare with 0.05. No arm is called better: that is the reader's
    judgement of sign, size and p.

    Intervals and adjusted p are simultaneous over the m rows (Bonferroni): an interval of level
    1 - 0.05 / m leaves 0 out exactly where m p is below 0.05. A step-down procedure such as Holm's
    rejects a little more, but has no two-sided intervals that say how large a difference is.

    Returns:
        method, setting, against, against/setting, difference, low, high, p, p_adjusted, p_flip,
        p_flip_adjusted (both NaN where it could not go below 0.05), flip_seeds (the fewest seeds
        with which it could; NaN where orders are a sample), detectable (the difference that such an
        interval tells from 0 with 80 % power), at_most (the largest difference, either way, that
        the interval leaves), effect, lower (share of instances where the gap of `method` is the
        smaller one), n_orders, n_seeds, note; and `seed/<training seed>`, a seed's mean difference
        over the orders.
    """
    orders = finished_orders(results, arms, design, failed)
    now = reading(len(orders), len(design.orders), stopping=stopping)
    tables = {
        arm: cells(of_arm(results, arm), "gap/abs", orders[: now.orders], design.seeds)
        for arm in arms
    }
    pairs = list(combinations(arms, 2)) if pairs is None else pairs
    rows = []
    for one, other in pairs:
        names = dict(zip(_COLUMNS, (*one, *other), strict=False))
        rows.append({**names, **_numbers(tables[one], tables[other], design, now, len(pairs))})
    seeds = dict.fromkeys(seed for table in tables.values() for seed in table.train)
    return pd.DataFrame(rows).reindex(columns=[*_COLUMNS, *(f"{BY_SEED}{seed}" for seed in seeds)])


def flip_seeds(tests: int) -> int:
    """The fewest seeds with which one of so many sign-flip tests can be below 0.05.

    The least p over S seeds is 2^(1 - S), and Bonferroni's correction multiplies it by `tests`.
    """
    return 1 + ceil(log2(tests / (1 - LEVEL)))


def _numbers(
    one: Cells, other: Cells, design: Design, now: Reading, pairs: int
) -> dict[str, object]:
    """The columns of one of so many pairs of cells of the finished orders."""
    a, b = one.by_seed, other.by_seed
    whole = np.flatnonzero(~np.isnan(a + b).any(axis=1))
    sizes = {"n_orders": len(whole), "n_seeds": a.shape[1]}
    if not len(whole):
        return {**sizes, "note": Note(undefined=Undefined.NO_FINISHED_ORDER)}
    population, left_out = design.population(len(whole)), len(a) - len(whole)
    note = now.note(Note(reach=design.reach(len(whole), left_out), left_out=left_out))
    level = simultaneous(now.level, pairs)
    found = paired(a[whole], b[whole], population, note, LEVEL if level is None else level)
    known = {} if level is None else _tests(found, now, pairs, a.shape[1])
    by_seed = (a[whole] - b[whole]).mean(axis=0)
    return {
        "difference": found.difference.value,
        **{f"{BY_SEED}{seed}": value for seed, value in zip(one.train, by_seed, strict=True)},
        **known,
        "effect": found.effect,
        "lower": found.lower,
        **sizes,
        "note": found.difference.note,
    }


def _tests(found: Paired, now: Reading, pairs: int, seeds: int) -> dict[str, float]:
    """The columns that a look is needed for."""
    difference, p, flip = found.difference, now.adjusted(found.p), now.adjusted(found.p_flip)
    needed = np.nan if np.isnan(flip) else flip_seeds(pairs)
    if not seeds >= needed:
        flip = np.nan
    return {
        "low": difference.low,
        "high": difference.high,
        "p": p,
        "p_adjusted": float(np.minimum(pairs * p, 1)),
        "p_flip": flip,
        "p_flip_adjusted": float(np.minimum(pairs * flip, 1)),
        "flip_seeds": needed,
        "detectable": found.detectable,
        "at_most": max(-difference.low, difference.high),
    }
