"""The tree of a study's streams: orders with a common prefix share that prefix's training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from l2kd_ray.core.stage import Stage
from l2kd_ray.study.trial import Trial

State = Literal["done", "failed", "to do"]


@dataclass
class PrefixNode:
    """The student after a prefix of task orders."""

    task: str
    """The last task of the prefix; "" for the untrained student."""
    key: str
    state: State
    orders: int
    """Number of orders that begin with the prefix."""
    trials: int
    """Number of trials of the study that need this stage, of any method and setting."""
    children: dict[str, PrefixNode] = field(default_factory=dict)


def users(trials: Iterable[Trial]) -> Counter[Stage]:
    """How many of the trials need each stage."""
    return Counter(stage for trial in trials for stage in trial.stages())


def tree(
    trials: Iterable[Trial],
    needed: Mapping[Stage, int],
    finished: Collection[str],
    failed: Collection[str] = (),
) -> PrefixNode | None:
    """The tree of some trials, which share method, setting and seed; None if none has an order.

    `needed`: `users` of the whole study; `finished` and `failed`: keys of stages.
    """

    def node(task: str, model: Stage) -> PrefixNode:
        key = model.key
        state: State = "done" if key in finished else "failed" if key in failed else "to do"
        return PrefixNode(task, key, state, 0, needed.get(model, 0))

    roots: dict[str, PrefixNode] = {}
    for trial in trials:
        if trial.order:
            children = roots
            for task, step in zip(("", *trial.order), trial.steps, strict=True):
                here = children.setdefault(task, node(task, step[0].stage.model))
                here.orders += 1
                children = here.children
    return roots.get("")
