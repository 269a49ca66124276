"""Summaries over runs and tasks beside the mean gap (after Agarwal et al. 2021).

They are over the orders that ran, tasks by tasks: [tasks, orders, seeds]. The seeds are the
replicates, so an interval is Student's over one number a seed. Agarwal et al. bootstrap runs within
a task; here the runs of a seed are not independent, and a bootstrap of few seeds is too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from l2kd_ray.analysis.design import ArmId
from l2kd_ray.analysis.estimate import Estimate
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import moments
from l2kd_ray.analysis.scope import Scope
from l2kd_ray.analysis.shares import BASELINE

FEWEST_SEEDS = 5
"""Below it no interval: a seed's share is far from normal."""
PROFILE = (2.0, 5.0, 10.0, 20.0)
"""Points of the performance profile."""


def interquartile_mean(values: FloatArray) -> float:
    """Mean without the lowest and the highest quarter: int(n / 4) values each."""
    cut = values.size // 4
    return float(np.sort(values, axis=None)[cut : values.size - cut].mean())


def interquartile(gaps: FloatArray, level: float) -> Estimate:
    """Interquartile mean of `[tasks, orders, seeds]`; the jackknife over seeds (Tukey 1958)."""
    seeds, value = gaps.shape[-1], interquartile_mean(gaps)
    if seeds < FEWEST_SEEDS:
        return Estimate(value)
    left_out = [interquartile_mean(np.delete(gaps, s, axis=-1)) for s in range(seeds)]
    found = _over_seeds(seeds * value - (seeds - 1) * np.array(left_out), level)
    shift = value - found.value  # the interval is around the value that is shown
    return replace(found, value=value, low=found.low + shift, high=found.high + shift)


def improvement(gaps: FloatArray, against: FloatArray, level: float) -> Estimate:
    """How likely a gap is below another's on a task and order of one seed; ties count half."""
    wins = (gaps < against) + 0.5 * (gaps == against)
    return _share(wins.mean(axis=(0, 1)), level)


def profile(gaps: FloatArray, level: float) -> list[Estimate]:
    """The share of runs and tasks with a gap of at most each of `PROFILE`."""
    return [_share((gaps <= most).mean(axis=(0, 1)), level) for most in PROFILE]


def summaries(scope: Scope, tasks: Sequence[str]) -> pd.DataFrame:
    """One row a method: `iqm`, `better` (than LAMOL, a probability), `within/<points>` (a share).

    Each with /low and /high. NaN where there is no LAMOL and for LAMOL itself.
    """
    base = next((arm for arm in scope.arms if arm[0] == BASELINE), None)

    def of(arm: ArmId) -> pd.DataFrame:
        gaps, orders = _gaps(scope, arm, tasks)
        found = {"iqm": Estimate(), "better": Estimate()}
        found |= {f"within/{most:g}": Estimate() for most in PROFILE}
        if orders:
            found["iqm"] = interquartile(gaps, scope.level)
            shares = profile(gaps, scope.level)
            found |= dict(zip(list(found)[2:], shares, strict=True))
        if base and base != arm:
            other, others = _gaps(scope, base, tasks)
            both = [order for order in orders if order in others]
            at = [orders.index(order) for order in both], [others.index(order) for order in both]
            if both:
                found["better"] = improvement(gaps[:, at[0]], other[:, at[1]], scope.level)
        row: dict[str, float] = {}
        for name, one in found.items():
            row |= {name: one.value, f"{name}/low": one.low, f"{name}/high": one.high}
        return pd.DataFrame([row])

    return scope.each(of)


def _gaps(scope: Scope, arm: ArmId, tasks: Sequence[str]) -> tuple[FloatArray, tuple[str, ...]]:
    """`[tasks, orders, seeds]` and the orders."""
    found = [scope.cells(arm, f"gap/{task}") for task in tasks]
    return np.stack([one.by_seed for one in found]), found[0].orders


def _over_seeds(values: FloatArray, level: float) -> Estimate:
    """The mean of one number a seed; no interval of few seeds, nor where they are all alike."""
    if len(values) < FEWEST_SEEDS or np.ptp(values) == 0:
        return Estimate(float(values.mean()))
    return moments(values[None], 1).estimate(level=level)


def _share(by_seed: FloatArray, level: float) -> Estimate:
    found = _over_seeds(by_seed, level)
    low, high = np.clip([found.low, found.high], 0, 1)
    return replace(found, low=float(low), high=float(high))
