"""A paired bootstrap over test examples: the uncertainty that comes from the choice of test set.

Intervals over orders and seeds are conditional on the test sets. This one is conditional on the
trained models instead, and is over test sets like these.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from l2kd_ray.analysis.estimate import LEVEL, Estimate
from l2kd_ray.analysis.matrix import FloatArray

_REPEATS = 2000


@dataclass(frozen=True)
class ExampleScores:
    """A task's test examples, each with the score of both sides: the same examples, in one order.

    Where several models stand on a side (orders, seeds), an example's score is their mean.
    """

    scores: FloatArray
    against: FloatArray
    clusters: Sequence[Hashable] | None = None
    """Cluster of each example, such as the dialogue of a turn; None: each its own cluster."""

    def __post_init__(self) -> None:
        sizes = {len(self.scores), len(self.against), len(self.clusters or self.scores)}
        if len(sizes) > 1 or 0 in sizes:
            raise ValueError(
                f"examples: {len(self.scores)} scores against {len(self.against)}"
                f" in {len(self.clusters or self.scores)} clusters; expected one of each an example"
            )


def bootstrap(
    tasks: Mapping[str, ExampleScores],
    *,
    repeats: int = _REPEATS,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Mean over tasks of the mean over examples of `against - scores`, with its interval.

    With multi-task as `against` it is the gap. Examples are drawn anew in pairs (Efron & Tibshirani
    1993; paired as in Koehn 2004), whole clusters at a time, each task by itself; percentile
    interval. A metric that is no mean over examples (corpus BLEU) is
    replaced by the mean of its examples' scores. No interval where a task has one cluster only.
    """
    if not tasks:
        raise ValueError("bootstrap: no task; expected the examples of at least one")
    stream = np.random.default_rng(seed)
    value, drawn, bounded = 0.0, np.zeros(repeats), True
    for _, task in sorted(tasks.items()):
        difference = np.asarray(task.against, dtype=float) - np.asarray(task.scores, dtype=float)
        totals, sizes = _by_cluster(difference, task.clusters)
        value += float(difference.mean()) / len(tasks)
        drawn += _means(totals, sizes, repeats, stream) / len(tasks)
        bounded &= len(sizes) > 1
    if not bounded:
        return Estimate(value)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def _by_cluster(
    values: FloatArray, clusters: Sequence[Hashable] | None
) -> tuple[FloatArray, FloatArray]:
    """Sum and number of the values of each cluster."""
    if clusters is None:
        return values, np.ones(len(values))
    number: dict[Hashable, int] = {}
    index = [number.setdefault(cluster, len(number)) for cluster in clusters]
    totals = np.bincount(index, weights=values).astype(float)
    return totals, np.bincount(index).astype(float)


def _means(
    totals: FloatArray, sizes: FloatArray, repeats: int, stream: np.random.Generator
) -> FloatArray:
    """The mean over examples of each drawing of as many clusters as there are."""
    count = len(sizes)
    found = np.empty(repeats)
    at_once = max(1, 4_000_000 // count)
    for start in range(0, repeats, at_once):
        rows = min(at_once, repeats - start)
        drawn = stream.integers(count, size=(rows, count))
        found[start : start + rows] = totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return found
