"""The stages of classifiers, from a study's settings: MKD and Meta-KD."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from l2kd_ray.config import ModelSpec, Part, Seed, StudyConfig, TaskKind, Training
from l2kd_ray.methods.builder import LabelBuilder
from l2kd_ray.stages.classifier import Head, Labelled, Untrained
from l2kd_ray.stages.classify import SHARED, Classify, ClassifyAll, Logits
from l2kd_ray.stages.evaluate_classifier import EvaluateClassifier
from l2kd_ray.stages.metakd import Losses, MetaDistil, MetaTeach, Prototypes

Names = tuple[str, ...]


class ClassifierBuilder(LabelBuilder):
    """Stages of encoders and BiLSTMs with a head a task, or one for all domains."""

    @property
    def training(self) -> Training:
        return super().training.model_copy(update={"patience": None})

    @classmethod
    def kinds(cls, config: StudyConfig) -> Collection[TaskKind]:
        return ("classify", "pair", "regress")

    def check(self, spec: ModelSpec) -> None:
        from l2kd_ray.models.bilstm import check_bilstm
        from l2kd_ray.models.encoders import check_encoder

        overrides = {name: value for name, value in spec.overrides.items() if name != "vocab_size"}
        if spec.arch == "bilstm":
            check_bilstm(overrides)
        elif spec.arch is not None:
            check_encoder(spec.arch, overrides)

    def initial(self, seed: Seed) -> Untrained:
        return self.untrained(self.config.student, self._heads(self.tasks), seed)

    def reference(self, name: str, task: str, seed: Seed) -> Classify:
        if name == "single":
            return self.learn(self.initial(seed), (task,), seed)
        if name == "teacher":
            return self.teacher(task, seed)
        training = self.training_of(self.config.multitask)
        tasks = self.labelled(self.tasks)
        return ClassifyAll(self.initial(seed), tasks, training, seed.train)

    def teacher(self, task: str, seed: Seed) -> Classify:
        """What the study's methods learn from: a meta-teacher where a method of Meta-KD is run."""
        if any(arm.method.startswith("metakd") for arm in self.config.arms):
            return self.meta_teacher(task, seed)
        return self.joint_teacher(task, seed)

    def joint_teacher(self, task: str, seed: Seed) -> Classify:
        """The teacher of MKD: refined on all tasks, or the task's own."""
        tasks = self.tasks if self.config.mkd.teacher == "joint" else (task,)
        return self._teach(tasks, self._heads(self.tasks), seed)

    def meta_teacher(self, task: str, seed: Seed) -> Classify:
        """The teacher of Meta-KD for a domain."""
        settings = self.config.metakd
        left_out = task if settings.leave_out else None
        domains = tuple(name for name in self.tasks if name != left_out)
        if settings.teacher == "multitask":
            return self._teach(domains, self._heads(self.tasks), seed)
        if settings.teacher == "single":
            return self._teach((task,), self._shared(), seed)
        if settings.teacher == "all":
            return self._teach(domains, self._shared(), seed, pooled=True)
        start = self.untrained(self._spec, self._shared(), seed)
        return self._once(
            ("meta", domains, seed),
            lambda: MetaTeach(
                start,
                self.labelled(domains),
                self.training_of(self.config.teaching),
                seed.train,
                pooled=True,
                scores=self.prototypes(seed) if settings.prototypes else None,
                raw=settings.raw and settings.prototypes,
                corruption=settings.corruption,
            ),
        )

    def prototypes(self, seed: Seed) -> Prototypes:
        """The scores of all domains' examples, once."""
        settings = self.config.metakd
        return self._once(
            ("prototypes", seed),
            lambda: Prototypes(
                self.untrained(self._spec, self._shared(), seed),
                self.labelled(self.tasks),
                settings.centroid,
                settings.others,
                settings.alpha,
            ),
        )

    def learn(
        self,
        start: Untrained | Classify,
        tasks: Names,
        seed: Seed,
        *,
        teachers: dict[str, Classify] | None = None,
        epochs: int | None = None,
    ) -> Classify:
        """`start` learns tasks, one a mini-batch, from labels and from the teachers by task."""
        weight, settings = self.config.kd.weight, self.config.mkd
        taught: dict[str, Any] = {}
        if teachers and weight > 0:
            said = tuple(self._logits(teachers[task], task) for task in tasks)
            taught = {"taught": said, "weight": weight, "over": settings.over}
        training = self.training
        if epochs is not None:
            training = training.model_copy(update={"epochs": epochs})
        stage = Classify(start, self.labelled(tasks), training, seed.train, **taught)
        return stage if epochs is not None else stage.in_parts(self.config.train.rungs or ())

    def distil(self, start: Untrained | MetaDistil, task: str, seed: Seed) -> MetaDistil:
        """`start` learns a domain from the study's teacher, in one stage or in two."""
        settings, kd = self.config.metakd, self.config.kd
        teacher = self.meta_teacher(task, seed)
        meta = isinstance(teacher, MetaTeach)
        # Without corruption nothing trains the teacher's transform: its features say nothing.
        transfer = settings.transfer if meta and settings.corruption else 0.0
        layers = (settings.hidden, settings.attention, transfer)
        whole = Losses(*layers, settings.prediction, kd.temperature)
        if not settings.prediction:
            whole = replace(whole, temperature=None)
        parts = [whole]
        if settings.stages == "two" and any(layers) and settings.prediction:
            last = Losses(0.0, 0.0, 0.0, settings.prediction, kd.temperature)
            parts = [Losses(*layers, 0.0, None), last]
        expertise = self._logits(teacher, task) if settings.expertise and meta else None
        scores = self.prototypes(seed) if expertise and settings.prototypes else None
        data = self._part(task)
        for losses in parts:
            start = MetaDistil(
                start, data, self.training, seed.train, teacher, losses, scores, expertise
            )
        assert isinstance(start, MetaDistil)
        return start

    def domain_student(self, seed: Seed) -> Untrained:
        """A student before any domain: one head for all of them."""
        return self.untrained(self.config.student, self._shared(), seed)

    def evaluate(self, model: Any, task: str, split: Part, seed: Seed) -> EvaluateClassifier:
        about = self.resolved.tasks[task]
        return EvaluateClassifier(
            model,
            self._data(task, split),
            about.metric,
            about.extras,
            about.seen if split == "test" else None,
            about.kind,
        )

    def untrained(self, spec: ModelSpec, heads: tuple[Head, ...], seed: Seed) -> Untrained:
        overrides = dict(sorted(spec.overrides.items()))
        return self._once(
            ("initial", spec, heads, seed.train),
            lambda: Untrained(
                source=self.resolved.models.get(spec.model or ""),
                arch=spec.arch,
                overrides=overrides,
                heads=heads,
                max_length=self.training.max_length,
                seed=seed.train,
                layers=spec.layers,
                vectors=self.resolved.models.get(spec.vectors or ""),
                trust_remote_code=spec.trust_remote_code,
            ),
        )

    @property
    def _spec(self) -> ModelSpec:
        return self.config.teacher or self.config.student

    def _teach(
        self, tasks: Names, heads: tuple[Head, ...], seed: Seed, *, pooled: bool = False
    ) -> Classify:
        training = self.training_of(self.config.teaching)
        start = self.untrained(self._spec, heads, seed)
        return self._once(
            ("teacher", tasks, heads, pooled, seed),
            lambda: Classify(start, self.labelled(tasks), training, seed.train, pooled=pooled),
        )

    def _logits(self, teacher: Classify, task: str) -> Logits:
        return self._once(("logits", teacher, task), lambda: Logits(teacher, (self._part(task),)))

    def _part(self, task: str) -> Labelled:
        """The examples that a student of Meta-KD sees."""
        (whole,) = self.labelled((task,))
        share = self.config.metakd.share
        rows = math.ceil(round(share * whole.data.rows, 6))
        if share == 1:
            return whole
        seed = self.config.data_seed
        return replace(whole, data=replace(whole.data, cap=rows, data_seed=seed, rows=rows))

    def _heads(self, tasks: Names) -> tuple[Head, ...]:
        return tuple(Head(task, self.labelled((task,))) for task in tasks)

    def _shared(self) -> tuple[Head, ...]:
        return (Head(SHARED, self.labelled(self.tasks)),)
