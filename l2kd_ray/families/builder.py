"""What makes the stages of a study from its settings, whatever family its models are of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

from l2kd_ray import door
from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.stage import Stage
from l2kd_ray.families.evaluate import Evaluate
from l2kd_ray.families.examples import Examples, Labelled
from l2kd_ray.families.method import Method, Order
from l2kd_ray.families.settings import Settings
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.tasks import Task, TaskData
from l2kd_ray.tasks.spec import Part, TaskKind, TaskSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Resolved:
    """What a study's names stand for: its tasks, its pretrained models, its tokenizer's corpus."""

    tasks: Mapping[str, Task]
    models: Mapping[str, Pretrained]
    """By the `model` of a ModelSpec."""
    corpus: tuple[TaskData, ...] = ()
    data_seed: int = 0


class Builder:
    """Makes each stage of one method and setting once; fields without effect are None there.

    `method`: whose student `student` is; `owner`: the one trial that all stages belong to.
    """

    references: ClassVar[tuple[str, ...]] = ("multitask", "single")
    """What is run beside the methods: `multitask`, all tasks at once; `single`, each task alone."""

    def __init__(
        self, settings: Settings, resolved: Resolved, method: Method, owner: str | None = None
    ) -> None:
        self.settings: Any = settings.family
        self.options: Any = settings.options.get(method.section)
        self.resolved, self.method, self.owner = resolved, method, owner
        self._settings = settings
        self._made: dict[tuple[Any, ...], Any] = {}

    def owned_by(self, owner: str) -> Self:
        """A builder whose stages get keys of their own (`share: false`): nothing is shared between
        trials."""
        return type(self)(self._settings, self.resolved, self.method, owner)

    @classmethod
    def check_settings(cls, settings: Settings, method: Method) -> None:
        """Raises: InputError where these settings cannot be had by this method."""
        if method.check is not None:
            method.check(settings)

    @classmethod
    def kinds(cls, settings: Settings) -> Collection[TaskKind]:
        """The kinds of task that its models can learn; none named: all."""
        return ()

    @classmethod
    def check_models(cls, settings: Settings, models: Mapping[str, Pretrained], where: str) -> None:
        """Raises: InputError for pretrained models that do not go together."""

    @classmethod
    def corpus(
        cls, settings: Settings, tasks: Mapping[str, Task], find: Callable[[TaskSpec], Task]
    ) -> list[Task]:
        """The tasks on whose text a tokenizer is trained, where the family trains one."""
        return []

    def student(self, order: Order, seed: Seed) -> Any:
        """The method's student after the tasks of `order`; before any, the initial model."""
        if not order:
            return self.initial(seed)
        return self._once(("student", order, seed), lambda: self._step(order, seed))

    def _step(self, order: Order, seed: Seed) -> Any:
        *before, task = order
        former = tuple(before)
        student = self.method.step(self, self.student(former, seed), former, task, seed)
        return replace(student, code=self.method.code) if self.method.code else student

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

    def examples(self, data: TaskData) -> Examples:
        """The examples of a split, or of a part of one."""
        return self._once(("examples", data), lambda: Examples(data, self.owner))

    def plugin(
        self, kind: door.PluginKind, name: str, known: Mapping[str, Any]
    ) -> str | door.Plugin:
        """A built-in's name, or what a stage holds of a plug-in, with the plug-in's options.

        Raises: InputError where there is no such thing.
        """
        return door.held(kind, name, known, self._settings.options, self._settings.plugins)

    def _split(self, task: str, split: Part) -> Examples:
        return self.examples(self.resolved.tasks[task].splits[split])

    def _evaluation(self, model: Any, task: str, split: Part) -> dict[str, Any]:
        """The fields that every family's evaluation has."""
        about = self.resolved.tasks[task]
        seen = about.seen if split == "test" else None
        return {
            "model": model,
            "examples": self._split(task, split),
            "metric": about.metric,
            "extras": about.extras,
            "seen": None if seen is None else self.examples(seen),
        }

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
    def tasks(self) -> Order:
        return tuple(sorted(self.resolved.tasks))

    @property
    def teacher_spec(self) -> ModelSpec:
        spec: ModelSpec = self.settings.teacher or self.settings.student
        return spec

    def labelled(self, tasks: Sequence[str], split: Part = "train") -> tuple[Labelled, ...]:
        """The examples of tasks."""
        known = self.resolved.tasks
        return tuple(Labelled(self._split(task, split), known[task].kind) for task in tasks)
