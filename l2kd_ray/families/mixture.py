"""A mixture of tasks as MT-DNN and MKD draw it: each mini-batch holds one task.

An epoch holds each task's batches once, ceil(N_t / B) of them, in one shuffled order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from l2kd_ray.core.randomness import generator
from l2kd_ray.core.stage import Optimisation
from l2kd_ray.families.settings import Precision


@dataclass(frozen=True)
class TaskBatch:
    """Examples of one task, by their indices."""

    task: str
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Mixture:
    """The batches of some tasks, as a function of (seed, epoch): a training can resume
    at any step.

    `sizes`: the number of examples of each task. A task has the same batches in every mixture, and
    alone.
    """

    sizes: Mapping[str, int]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return sum(math.ceil(size / self.batch_size) for size in self.sizes.values())

    def epoch(self, number: int) -> list[TaskBatch]:
        """The batches of one epoch, in training order."""
        tasks = sorted(self.sizes)  # independent of the order in which a study lists them
        batches = [batch for task in tasks for batch in self._of(task, number)]
        order = generator(self.seed, "mixture", *tasks, number).permutation(len(batches))
        return [batches[index] for index in order]

    def batches(self, first_step: int) -> Iterator[TaskBatch]:
        """The batches from a step (counted from 0) on, epoch after epoch without end."""
        first, skipped = divmod(first_step, self.steps_per_epoch)
        yield from self.epoch(first)[skipped:]
        for number in count(first + 1):
            yield from self.epoch(number)

    def _of(self, task: str, number: int) -> list[TaskBatch]:
        order = generator(self.seed, "shuffle", task, number).permutation(self.sizes[task]).tolist()
        starts = range(0, len(order), self.batch_size)
        return [TaskBatch(task, tuple(order[start : start + self.batch_size])) for start in starts]


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The base of the lessons of classifiers, taggers and parsers: pools of examples.

    A pool holds the examples of one task, or of all domains; each mini-batch is from one pool.
    """

    pools: Mapping[str, Sequence[Any]]
    optimisation: Optimisation
    seed: int
    stream: str
    """Name of this training's random streams (see `core.loop.Lessons.stream`)."""
    precision: Precision = "float32"
    # The rest is the same for all of them (see `core.loop.Lessons`).
    rows_per_example = 1
    terms = ()  # the rows' losses are mixed before they are summed
    uses_all = False  # a batch trains one head

    @property
    def mixture(self) -> Mixture:
        sizes = {name: len(examples) for name, examples in self.pools.items()}
        return Mixture(sizes, self.optimisation.batch_size, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        return self.mixture.steps_per_epoch
