"""The uncertainty that comes from the choice of test examples, beside that of orders and seeds.

An interval over orders and seeds holds for the test examples at hand. With D[s, e] the gap of seed
s on test example e (mean over orders), the mean gap over seeds and examples varies by

    v = v_seeds + v_examples - v_both

where v_seeds is the variance over seeds (`mean`), v_examples that of the mean over seeds when
examples are drawn anew, whole clusters at a time (the variance of a cluster bootstrap, Efron &
Tibshirani 1993, in closed form), and v_both the part that both hold: what a seed and an example do
together, as estimated from the spread over seeds of each example.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from l2kd_ray.analysis.design import ArmId
from l2kd_ray.analysis.estimate import LEVEL, Estimate, Moments
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import moments
from l2kd_ray.analysis.scope import Scope

LEAST_CLUSTERS = 10
"""Below it a variance over clusters is hardly known: no interval."""


@dataclass(frozen=True)
class ExampleGaps:
    """The gaps of one task on its test examples, of each training seed."""

    gaps: FloatArray
    """`[seeds, examples]`: multi-task minus the student's mean score over orders, in points."""
    clusters: Sequence[Hashable]
    """Cluster of each example, such as the dialogue of a turn."""

    def __post_init__(self) -> None:
        if self.gaps.shape[1:] != (len(self.clusters),):
            raise ValueError(
                f"examples: gaps {self.gaps.shape} in {len(self.clusters)} clusters; expected "
                "[seeds, examples] and one cluster an example"
            )


def example_variance(tasks: Mapping[str, ExampleGaps]) -> tuple[float, float]:
    """v_examples - v_both of the mean over tasks, in squared points, and degrees of freedom.

    NaN where a task has fewer than `LEAST_CLUSTERS` clusters; 0 where the estimate is below.

    Raises:
        ValueError: there is no task.
    """
    if not tasks:
        raise ValueError("example_variance: no task; expected the examples of at least one")
    total, free = 0.0, np.inf
    for task in tasks.values():
        off = _off_by_cluster(task)
        seeds, count = off.shape
        if count < LEAST_CLUSTERS:
            return np.nan, np.nan
        factor = count / (count - 1) / len(tasks) ** 2
        total += factor * float((off.mean(axis=0) ** 2).sum())
        if seeds > 1:
            total -= factor * float(off.var(axis=0, ddof=1).sum()) / seeds
        free = min(free, count - 1)
    return max(total, 0.0), free


def _off_by_cluster(task: ExampleGaps) -> FloatArray:
    """`[seeds, clusters]`: how far each cluster moves the mean over examples; they sum to 0."""
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(cluster, len(number)) for cluster in task.clusters])
    centred = task.gaps - task.gaps.mean(axis=1, keepdims=True)
    found = np.zeros((len(centred), len(number)))
    np.add.at(found.T, index, centred.T)
    return found / len(index)


def over_examples(scope: Scope, variances: pd.DataFrame) -> pd.DataFrame:
    """The mean gap over orders, seeds and test examples: method, setting, value, low, high.

    Args:
        variances: method, setting, variance and df of `example_variance`.
    """
    known = {(row.method, row.setting): row for row in variances.itertuples()}

    def of(arm: ArmId) -> pd.DataFrame:
        estimate, level = Estimate(), scope.reading.level
        found = scope.cells(arm)
        if arm in known and len(found.orders) and level:
            mean = moments(found.by_seed, scope.design.population(len(found.orders)))
            row = known[arm]
            estimate = with_examples(mean, row.variance, row.df, level)
        numbers = [estimate.value, estimate.low, estimate.high]
        return pd.DataFrame([numbers], columns=["value", "low", "high"])

    return scope.each(of)


def with_examples(mean: Moments, variance: float, df: float, level: float = LEVEL) -> Estimate:
    """A mean over orders and seeds as one over test examples too.

    Their degrees of freedom make the quantile smaller, but not the interval: it is never narrower
    than the one without them.
    """
    free = df if float(mean.order) == 0 else min(df, mean.order_df)
    both = Moments(mean.mean, mean.order + variance, mean.seed, free, mean.seed_df)
    found, alone = both.estimate(level=level), mean.estimate(level=level)
    return alone if alone.half_width > found.half_width else found
