"""The stages of a study, from its settings: fields that do not matter are normalised away here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from l2kd_ray.config import Distillation, ModelSpec, Seed, Split, StudyConfig, with_settings
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.stages.evaluate import Evaluate
from l2kd_ray.stages.learn import Learn, Multitask
from l2kd_ray.stages.replay import Replay
from l2kd_ray.stages.start import Initial, Tokenizer
from l2kd_ray.tasks import Task, TaskData

Order = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Resolved:
    """What a study's names stand for: its tasks, its pretrained models, its tokenizer's corpus."""

    tasks: Mapping[str, Task]
    models: Mapping[str, Pretrained]
    """By the `model` of a ModelSpec."""
    corpus: tuple[TaskData, ...]


class Builder:
    """Makes each stage of one setting of a study once."""

    def __init__(self, config: StudyConfig, resolved: Resolved, owner: str | None = None) -> None:
        self.config, self.resolved, self.owner = config, resolved, owner
        self._students: dict[tuple[Method, Order, Seed], Initial | Learn] = {}
        self._made: dict[tuple[Any, ...], Any] = {}

    def owned_by(self, owner: str) -> Builder:
        """A builder whose stages nobody else's are equal to."""
        return Builder(self.config, self.resolved, owner)

    def with_settings(self, settings: Mapping[str, Any]) -> Builder:
        return Builder(with_settings(self.config, settings), self.resolved) if settings else self

    def student(self, method: Method, order: Order, seed: Seed) -> Initial | Learn:
        """The student of `method` after the tasks of `order`; before any, the initial model."""
        place = (method, order, seed)
        if place not in self._students:
            self._students[place] = method(self, order, seed) if order else self.initial(seed)
        return self._students[place]

    def initial(self, seed: Seed) -> Initial:
        return self._initial(self.config.student, seed)

    def teacher(self, task: str, seed: Seed) -> Learn:
        """The teacher of a task: what LAMOL makes of a first task (L2KD, section 3)."""
        spec = self.config.teacher or self.config.student
        return self._once(
            ("teacher", task, seed), lambda: self.learn(self._initial(spec, seed), task, seed)
        )

    def single(self, task: str, seed: Seed) -> Learn:
        """The student's architecture trained on one task alone: the single-task reference."""
        return self._once(
            ("single", task, seed), lambda: self.learn(self.initial(seed), task, seed)
        )

    def multitask(self, seed: Seed) -> Multitask:
        """All tasks at once by the QA loss; one budget and setting, whatever is searched."""
        own = self.config.multitask.model_dump(exclude_none=True)
        training = self.config.train.model_copy(
            update={**own, "lm_weight": 0.0, "answer_weight": 1.0}
        )
        tasks = tuple(self._data(task, "train") for task in sorted(self.resolved.tasks))
        return Multitask(self.initial(seed), tasks, training, seed.train)

    def learn(
        self,
        start: Initial | Learn,
        task: str,
        seed: Seed,
        *,
        lm_weight: float | None = None,
        replay: Replay | None = None,
        teacher: Learn | None = None,
        kd: Distillation | None = None,
    ) -> Learn:
        """`start` learns a task. What has no effect (a teacher at weight 0) is None."""
        training = self.config.train
        if lm_weight is not None:
            training = training.model_copy(update={"lm_weight": lm_weight})
        if training.lm_weight == 0:
            training = training.model_copy(
                update={"answer_weight": 1.0}
            )  # `<ans>` is never a target
        distils = teacher is not None and kd is not None and kd.weight > 0
        return Learn(
            start,
            (self._data(task, "train"),),
            training,
            seed.train,
            replay=replay,
            replay_weight=self.config.replay.weight if replay is not None else None,
            teacher=teacher if distils else None,
            distillation=kd if distils else None,
        )

    def replay(self, model: Initial | Learn, former: Order, task: str, seed: Seed) -> Replay | None:
        """Pseudo-samples of the former tasks, `ratio` of the new task's size, in equal shares.

        `ceil(ratio * |D|)` rounded down to a multiple of the number of tasks (LAMOL).
        """
        wanted = math.ceil(self.config.replay.ratio * self._data(task, "train").rows)
        per_task = wanted // len(former) if former else 0
        if per_task == 0:
            return None
        settings = self.config.replay
        draws = settings.top_k > 1
        place = ("replay", model, per_task, seed.replay)
        return self._once(
            place,
            lambda: Replay(
                model,
                tuple(sorted(former)),
                per_task,
                settings.top_k,
                settings.temperature if draws else None,
                self.config.train.max_length,
                seed.replay if draws else None,
            ),
        )

    def evaluate(self, model: Initial | Learn, task: str, split: Split) -> Evaluate:
        metric = self.resolved.tasks[task].metric
        tokens = self.config.evaluate.max_new_tokens
        return self._once(
            ("evaluate", model, task, split),
            lambda: Evaluate(model, self._data(task, split), metric, tokens),
        )

    def _initial(self, spec: ModelSpec, seed: Seed) -> Initial:
        pretrained = self.resolved.models.get(spec.model or "")
        return self._once(
            ("initial", spec, seed),
            lambda: Initial(
                source=pretrained,
                arch=spec.arch,
                overrides=dict(sorted(spec.overrides.items())),
                tokenizer=self._tokenizer(),
                seed=None if pretrained else seed.train,
                trust_remote_code=spec.trust_remote_code,
            ),
        )

    def _tokenizer(self) -> Tokenizer:
        """The student's own, or a trained one; the teacher reads and writes the same."""
        source = self.resolved.models.get(self.config.student.model or "")
        prompts = tuple(sorted(self.resolved.tasks)) if self.config.task_prompt == "token" else None
        return self._once(
            ("tokenizer",),
            lambda: Tokenizer(
                source=source,
                corpus=() if source else self.resolved.corpus,
                vocab_size=None if source else self.config.tokenizer.vocab_size,
                prompts=prompts,
                owner=self.owner,
            ),
        )

    def _data(self, task: str, split: Split) -> TaskData:
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


Method = Callable[[Builder, Order, Seed], Learn]
