"""The base of all builders, which make the stages of a study from its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeVar

from l2kd_ray import door
from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.stage import Stage
from l2kd_ray.families.evaluate import Evaluate, Measure
from l2kd_ray.families.examples import Examples, Labelled
from l2kd_ray.families.method import Method, Order
from l2kd_ray.families.settings import Settings, TrainOverrides
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.tasks import Task, TaskData
from l2kd_ray.tasks.spec import Part, TaskKind, TaskSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Resolved:
    """The resolved names of a study: its tasks, pretrained models and tokenizer corpus."""

    tasks: Mapping[str, Task]
    models: Mapping[str, Pretrained]
    """The pretrained models, by the `model` of their ModelSpec."""
    corpus: tuple[TaskData, ...] = ()
    held_out: Mapping[str, Task] = field(default_factory=dict)
    """Tasks that are only evaluated (`retention.tasks`)."""
    texts: TaskData | None = None
    """General text (`retention.texts`)."""
    lm_eval: Any = None
    """The section `retention.lm_eval`."""


class Builder:
    """Makes each stage of one method and setting once; stage fields without effect are None.

    `method`: the method whose student is built; `owner`: the only trial that the stages belong to
    (`share: false`), or None.
    """

    references: ClassVar[tuple[str, ...]] = ("multitask", "single")
    """The references run beside the methods: `multitask`, on all tasks; `single`, on one task
    each."""

    retains: ClassVar[bool] = False
    """True if the family has the measures of `retention`."""

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

    def check_settings(self) -> None:
        """Raise InputError if the method cannot be run with these settings, tasks and models."""
        if self.method.check is not None:
            self.method.check(self)

    @classmethod
    def kinds(cls, settings: Settings) -> Collection[TaskKind]:
        """The kinds of task that the family's models can learn; empty for all kinds."""
        return ()

    @classmethod
    def check_models(cls, settings: Settings, models: Mapping[str, Pretrained], where: str) -> None:
        """Raise InputError if the pretrained models are not whole, or cannot be combined."""
        for key, spec in (
            ("student", settings.family.student),
            ("teacher", settings.family.teacher),
        ):
            if spec is not None and spec.model is not None:
                models[spec.model].check_files(where=where, key=f"{key}.model")

    @classmethod
    def corpus(
        cls, settings: Settings, tasks: Mapping[str, Task], find: Callable[[TaskSpec], Task]
    ) -> list[Task]:
        """The tasks on whose text a tokenizer is trained; empty if the family trains none."""
        return []

    def student(self, order: Order, seed: Seed) -> Any:
        """The method's student after the tasks of `order`; the initial model if `order` is
        empty."""
        if not order:
            return self.initial(seed)
        return self._once(("student", order, seed), lambda: self._step(order, seed))

    def _step(self, order: Order, seed: Seed) -> Any:
        *before, task = order
        former = tuple(before)
        student = self.method.step(self, self.student(former, seed), former, task, seed)
        return replace(student, code=self.method.code) if self.method.code else student

    def check(self, spec: ModelSpec) -> None:
        """Raise an exception, InputError where its cause is known, if the model is of no use."""
        raise NotImplementedError

    def initial(self, seed: Seed) -> Stage:
        """The student before any training."""
        raise NotImplementedError

    def taught_by(self, task: str, seed: Seed) -> Any:
        """The model that teaches the method's student a task; None if none does."""
        teacher = self.method.teacher
        if teacher is None or self.settings.kd.weight == 0:
            return None
        return teacher(self, task, seed)

    def reference(self, name: str, task: str, seed: Seed) -> Stage:
        """The model that the reference `name` evaluates on `task`."""
        raise NotImplementedError

    def evaluate(self, model: Any, task: str, split: Part, seed: Seed) -> Evaluate:
        """The stage that evaluates a model on a split of a task."""
        raise NotImplementedError

    def retained(self, model: Any, learned: str | None, seed: Seed) -> Mapping[str, Measure]:
        """The measures of what a model has kept (`retention`), by name.

        `learned`: the task that it has just learned.
        """
        raise NotImplementedError

    def examples(self, data: TaskData) -> Examples:
        """The stage that holds the examples of a split, or of a part of one."""
        return self._once(("examples", data), lambda: Examples(data, self.owner))

    def plugin(
        self, kind: door.PluginKind, name: str, known: Mapping[str, Any]
    ) -> str | door.Plugin:
        """The name of a built-in, or the `Plugin` (with its options) that a stage holds.

        Raises: InputError if there is neither.
        """
        return door.held(kind, name, known, self._settings.options, self._settings.plugins)

    def train_examples(self, task: str, seed: Seed) -> Examples:
        """The training examples of a task: where a cap cuts them, those that the seed draws."""
        return self.examples(self.resolved.tasks[task].splits["train"].drawn(seed.data))

    def teacher_examples(self, task: str, seed: Seed) -> Examples:
        """The training examples of a task that its teacher sees (`teaching.max_train`)."""
        data, most = self.resolved.tasks[task].splits["train"], self.settings.teaching.max_train
        return self.examples(data.drawn(seed.data, most))

    def _evaluation(self, model: Any, task: str, split: Part) -> dict[str, Any]:
        """The fields of `Evaluate`, which the evaluations of all families share."""
        about = self.resolved.tasks.get(task) or self.resolved.held_out[task]
        seen = about.seen if split == "test" else None
        return {
            "model": model,
            "examples": self.examples(about.splits[split]),
            "metric": about.metric,
            "extras": about.extras,
            "seen": None if seen is None else self.examples(seen),
        }

    def _once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """The value made before for `key`, or `make()`, which is kept.

        Trials share most of their stages, and building one resolves its whole path; without this
        memo a plan would rebuild every path for every trial. It saves time only: stages are equal
        by their content keys.
        """
        # By its section, so that an equal model under another key is seen to be read.
        key = tuple(id(item) if isinstance(item, ModelSpec) else item for item in key)
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


class LabelBuilder(Builder):
    """The base for classifiers, taggers and parsers, whose models have heads for tasks' labels.

    Their teachers may be other models than their students.
    """

    @property
    def tasks(self) -> Order:
        return tuple(sorted(self.resolved.tasks))

    @property
    def teacher_spec(self) -> ModelSpec:
        spec: ModelSpec = self.settings.teacher or self.settings.student
        return spec

    def _check_pretrained(self, spec: ModelSpec) -> None:
        """Raise InputError for a pretrained model that is no encoder, or cannot be used."""
        from l2kd_ray.models.loading import check_pretrained_encoder

        if spec.model is not None:
            check_pretrained_encoder(self.resolved.models[spec.model], spec.layers)

    def labelled(self, tasks: Sequence[str], seed: Seed) -> tuple[Labelled, ...]:
        """The training examples of some tasks, in the order of `tasks`."""
        return tuple(self._labelled(task, self.train_examples(task, seed)) for task in tasks)

    def of_teacher(self, tasks: Sequence[str], seed: Seed) -> tuple[Labelled, ...]:
        """The training examples of some tasks that their teachers see."""
        return tuple(self._labelled(task, self.teacher_examples(task, seed)) for task in tasks)

    def of_any(self, tasks: Sequence[str], seed: Seed) -> tuple[Labelled, ...]:
        """The training examples that a task's student or its teacher sees: one set holds the other.

        Labels and words are collected from them, so that both models have the same.
        """
        pairs = zip(self.labelled(tasks, seed), self.of_teacher(tasks, seed), strict=True)
        return tuple(max(pair, key=lambda one: one.source.rows) for pair in pairs)

    def training(
        self, seed: Seed, overrides: TrainOverrides | None = None, train: Any = None
    ) -> dict[str, Any]:
        """The fields that configure a training stage, by default a student's."""
        train = train or self.settings.train
        return {
            "optimisation": train.optimisation(overrides),
            "precision": train.precision,
            "seed": seed.train,
        }

    def teaching(self, seed: Seed) -> dict[str, Any]:
        """The fields that configure a teacher's training stage."""
        return self.training(seed, self.settings.teaching, self._settings.teacher_train)

    def _labelled(self, task: str, source: Examples) -> Labelled:
        return Labelled(source, self.resolved.tasks[task].kind)
