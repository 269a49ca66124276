"""A trial: one method, one setting, one task order, one seed, as a path of stages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.stage import Stage, ancestry
from l2kd_ray.families.evaluate import Measure
from l2kd_ray.families.method import Order
from l2kd_ray.names import REFERENCES
from l2kd_ray.study.orders import order_id
from l2kd_ray.study.search import Setting, setting_id
from l2kd_ray.tasks.spec import Split


@dataclass(frozen=True)
class Cell:
    """A cell R[i, j] of the score matrix on a split, and the stage that computes it."""

    i: int
    j: int
    task: str
    split: Split
    stage: Measure


@dataclass(frozen=True)
class Trial:
    """One method with one setting, one task order and one seed.

    `steps[i]` are the evaluations after the i-th task of the order (0: of the untrained model).
    References and methods that learn all tasks at once have no order and one step.
    """

    method: str
    setting: Setting
    order: Order
    seed: Seed
    steps: tuple[tuple[Cell, ...], ...]
    teachers: tuple[Cell, ...] = ()
    """The evaluations of its teachers, each on the task that it taught; empty if there are none."""
    retention: tuple[Cell, ...] = ()
    """The measures of retention after the i-th task (`j` is 0); empty if there are none."""

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits, the same in every run of the study."""
        body = [self.method, dict(self.setting), list(self.order), str(self.seed)]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def names(self) -> tuple[str, str, str, str]:
        """Method, setting (JSON), order (`a>b>c`) and seed, as in the result files."""
        return self.method, setting_id(self.setting), order_id(self.order), str(self.seed)

    @property
    def arm(self) -> tuple[str, str]:
        """Method and setting (JSON)."""
        return self.names[:2]

    @property
    def is_reference(self) -> bool:
        return self.method in REFERENCES

    @property
    def cells(self) -> Iterator[Cell]:
        return chain(*self.steps, self.teachers, self.retention)

    def stages(self) -> dict[Stage, str]:
        """Every stage of the trial with its role: `teacher` if it is one, else its kind."""
        roles: dict[Stage, str] = {}
        waiting: list[tuple[Stage, str]] = [(cell.stage, cell.stage.kind) for cell in self.cells]
        while waiting:
            stage, role = waiting.pop()
            if stage not in roles:
                waiting += [(source, self._role(name, source)) for name, source in stage.inputs()]
            # A stage that is read through several fields is a teacher if one of them makes it one.
            if roles.get(stage) != "teacher":
                roles[stage] = role
        return roles

    def cannot_finish(self, failed: Collection[str]) -> bool:
        """True if one of its stages is among those that failed (keys)."""
        return bool(failed) and any(stage.key in failed for stage in self.stages())

    def _role(self, field: str, stage: Stage) -> str:
        """The role of a stage that is read through a field.

        A teacher is a `learn` stage that a student learns from, or that the reference `single`
        measures.
        """
        teaches = field.endswith("teacher") or self.method == "single"
        return "teacher" if teaches and stage.kind == "learn" else stage.kind


def by_arm(trials: Iterable[Trial]) -> dict[tuple[str, str], list[Trial]]:
    """The trials of each method and setting."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.arm, []).append(trial)
    return groups


def stages_of(trials: Iterable[Trial]) -> set[Stage]:
    """Every stage of some trials."""
    return set(ancestry(cell.stage for trial in trials for cell in trial.cells))
