"""What makes the stages of a study from its settings, whatever family its models are of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from l2kd_ray.config import (
    Arm,
    ModelSpec,
    Part,
    Seed,
    StudyConfig,
    TaskKind,
    Training,
    TrainingOverrides,
    with_settings,
)
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.stages.base import Stage
from l2kd_ray.stages.classifier import Labelled
from l2kd_ray.stages.evaluate import Evaluate
from l2kd_ray.tasks import Task, TaskData

Order = tuple[str, ...]
T = TypeVar("T")
Method = Callable[[Any, Order, Seed], Any]
"""From a builder, an order and a seed to the student that has learnt the tasks of the order.

The path of a trial is that student for each prefix of its order. Of a method without an order it
is the student that answers the one task it is given."""


@dataclass(frozen=True)
class Resolved:
    """What a study's names stand for: its tasks, its pretrained models, its tokenizer's corpus."""

    tasks: Mapping[str, Task]
    models: Mapping[str, Pretrained]
    """By the `model` of a ModelSpec."""
    corpus: tuple[TaskData, ...]


class Builder:
    """Makes each stage of one setting of a study once; fields without effect are None there."""

    references: ClassVar[tuple[str, ...]] = ("multitask", "single")
    """What is run beside the methods: `multitask`, all tasks at once; `single`, each task alone."""

    def __init__(self, config: StudyConfig, resolved: Resolved, owner: str | None = None) -> None:
        self.config, self.resolved, self.owner = config, resolved, owner
        self._made: dict[tuple[Any, ...], Any] = {}

    @classmethod
    def check_arm(cls, config: StudyConfig, arm: Arm, where: str) -> None:
        """Raises: InputError where the settings of an arm cannot be had; `config` has them."""

    @classmethod
    def kinds(cls, config: StudyConfig) -> Collection[TaskKind]:
        """Of the tasks that its models can learn; none named: all."""
        return ()

    def owned_by(self, owner: str) -> Self:
        """A builder whose stages nobody else's are equal to."""
        return type(self)(self.config, self.resolved, owner)

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        if not settings:
            return self
        return type(self)(with_settings(self.config, settings), self.resolved)

    def student(self, method: Method, order: Order, seed: Seed) -> Any:
        """The student of `method` after the tasks of `order`; before any, the initial model."""
        if not order:
            return self.initial(seed)
        return self._once(("student", method, order, seed), lambda: method(self, order, seed))

    def check(self, spec: ModelSpec) -> None:
        """Raises: ValueError, TypeError, RuntimeError for a model that cannot be built."""
        raise NotImplementedError

    def initial(self, seed: Seed) -> Stage:
        """The student before any training."""
        raise NotImplementedError

    def reference(self, name: str, task: str, seed: Seed) -> Stage:
        """The model of a reference that answers `task`."""
        raise NotImplementedError

    def evaluate(self, model: Any, task: str, split: Part, seed: Seed) -> Evaluate:
        """The scores of a model on a task."""
        raise NotImplementedError

    def _data(self, task: str, split: Part) -> TaskData:
        return self.resolved.tasks[task].splits[split]

    def _once(self, place: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What was made before for this place, or made now."""
        place = tuple(
            item.model_dump_json() if isinstance(item, ModelSpec) else item for item in place
        )
        if place not in self._made:
            self._made[place] = make()
        made: T = self._made[place]
        return made


class LabelBuilder(Builder):
    """What classifiers, taggers and parsers share: heads for the labels of tasks, and teachers that
    are other models than students."""

    references = ("multitask", "single", "teacher")

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted(self.resolved.tasks))

    @property
    def training(self) -> Training:
        """A student's. What only language models read is at its default."""
        plain: dict[str, Any] = {"lm_weight": 0.0, "answer_weight": 1.0, "average": 0.0}
        return self.config.train.model_copy(
            update={**plain, "bucket_batches": 1, "lora": None, "rungs": None}
        )

    def training_of(self, overrides: TrainingOverrides) -> Training:
        """Of other models: teachers, the multi-task bound."""
        return self.training.model_copy(update=overrides.model_dump(exclude_none=True))

    def labelled(self, tasks: Sequence[str]) -> tuple[Labelled, ...]:
        """The training examples of tasks."""
        known = self.resolved.tasks
        return tuple(Labelled(self._data(task, "train"), known[task].kind) for task in tasks)
