"""The stages of classifiers, from a study's settings: MKD and Meta-KD."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

from l2kd_ray.core.randomness import Seed
from l2kd_ray.errors import InputError
from l2kd_ray.families.builder import LabelBuilder
from l2kd_ray.families.classifiers.settings import ClassifierSettings
from l2kd_ray.families.classifiers.stages.evaluate import EvaluateClassifier
from l2kd_ray.families.classifiers.stages.learn import SHARED, Classify, ClassifyAll, Logits
from l2kd_ray.families.classifiers.stages.start import DEFAULT_LENGTH, Head, Untrained
from l2kd_ray.families.examples import Labelled
from l2kd_ray.families.method import Order
from l2kd_ray.families.settings import Settings
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.tasks.spec import Part, TaskKind


class ClassifierBuilder(LabelBuilder):
    """Stages of encoders and BiLSTMs with one head per task, or one head for all domains."""

    settings: ClassifierSettings

    @classmethod
    def kinds(cls, settings: Settings) -> Collection[TaskKind]:
        return ("classify", "pair", "regress")

    def check(self, spec: ModelSpec) -> None:
        from l2kd_ray.families.classifiers.model.bilstm import check_bilstm
        from l2kd_ray.families.classifiers.model.encoders import check_encoder

        self._check_pretrained(spec)
        overrides = {name: value for name, value in spec.overrides.items() if name != "vocab_size"}
        if spec.arch == "bilstm":
            check_bilstm(overrides)
        elif spec.arch is not None:
            check_encoder(spec.arch, overrides)

    def initial(self, seed: Seed) -> Untrained:
        return self._untrained(self.settings.student, self._heads(seed), seed)

    def reference(self, name: str, task: str, seed: Seed) -> Classify:
        if name == "single":
            return self.learn(self.initial(seed), (task,), seed)
        return ClassifyAll(
            start=self.initial(seed),
            **self._data(self.labelled(self.tasks, seed)),
            **self.training(seed, self.settings.multitask),
        )

    def check_layers(self, *, hidden: bool, attention: bool) -> None:
        """Raise InputError if hidden states or attentions of student and teacher are compared
        and cannot be."""
        from l2kd_ray.families.classifiers.model.comparison import check_encoders

        specs = self.settings.student, self.teacher_spec
        without = [spec.arch == "bilstm" for spec in specs]
        if attention and any(without):
            raise InputError(
                "a BiLSTM has no attentions that could be compared",
                key="metakd.attention",
                fix="set metakd.attention: 0",
            )
        if hidden and without[0] != without[1]:
            raise InputError(
                "the hidden states of a BiLSTM are those of words, an encoder's those of parts of "
                "words: they cannot be compared",
                key="metakd.hidden",
                fix="set metakd.hidden: 0",
            )
        if (hidden or attention) and not any(without) and specs[0] != specs[1]:
            longest = self.settings.train.max_length or DEFAULT_LENGTH
            check_encoders(*specs, self.resolved.models, attention=attention, longest=longest)

    def joint_teacher(self, tasks: Order, seed: Seed, *, same_labels: bool = False) -> Classify:
        """A teacher with one head per task, trained on `tasks`.

        `same_labels`: each head has the labels of all tasks.
        """
        heads = self._heads(seed)
        if same_labels:
            heads = tuple(Head(task, self.of_any(self.tasks, seed)) for task in self.tasks)
        return self._teacher(self._untrained(self.teacher_spec, heads, seed), tasks, seed)

    def shared_teacher(self, tasks: Order, seed: Seed, *, pooled: bool = False) -> Classify:
        """A teacher with one head for all domains."""
        return self._teacher(self.untrained_teacher(seed), tasks, seed, pooled)

    def _teacher(
        self, start: Untrained, tasks: Order, seed: Seed, pooled: bool = False
    ) -> Classify:
        data = self._data(self.of_teacher(tasks, seed), self._settings.teacher_train)
        return Classify(start=start, **data, pooled=pooled, **self.teaching(seed))

    def learn(
        self,
        start: Untrained | Classify,
        tasks: Order,
        seed: Seed,
        *,
        teachers: Mapping[str, Classify] | None = None,
        over: Literal["mean", "sum"] = "mean",
        epochs: int | None = None,
    ) -> Classify:
        """Train `start` on tasks, one per mini-batch, from labels and from the teachers by task."""
        data, taught = self._data(self.labelled(tasks, seed)), dict[str, Any]()
        if teachers is not None and (weight := self.settings.kd.weight) > 0:
            logits = tuple(Logits(teachers[each.task], (each,)) for each in data["tasks"])
            taught = {"taught": logits, "weight": weight, "over": over}
        stage = Classify(start=start, **data, **self.training(seed), **taught)
        if epochs is not None:
            how = replace(stage.optimisation, epochs=epochs, steps=None)
            return replace(stage, optimisation=how)
        return stage.in_parts(self.settings.train.rungs or ())

    def _data(self, tasks: tuple[Labelled, ...], train: Any = None) -> dict[str, Any]:
        """The fields that say what is learned: the tasks and, with a regression, its unit."""
        unit = None
        if any(task.kind == "regress" for task in tasks):
            unit = (train or self.settings.train).regression_unit
        return {"tasks": tasks, "unit": None if unit == "label" else unit}

    def domain_student(self, seed: Seed) -> Untrained:
        """An untrained student with one head for all domains."""
        return self._untrained(self.settings.student, self._shared(seed), seed)

    def untrained_teacher(self, seed: Seed) -> Untrained:
        """An untrained teacher with one head for all domains."""
        return self._untrained(self.teacher_spec, self._shared(seed), seed)

    def part(self, task: str, share: float, seed: Seed) -> Labelled:
        """A seeded random share of a task's training examples."""
        (whole,) = self.labelled((task,), seed)
        if share == 1:
            return whole
        data = whole.source.data
        part = data.drawn(seed.data, math.ceil(round(share * data.rows, 6)))
        return replace(whole, source=self.examples(part))

    def evaluate(self, model: Any, task: str, split: Part, seed: Seed) -> EvaluateClassifier:
        about = self.resolved.tasks[task]
        return EvaluateClassifier(**self._evaluation(model, task, split), task_kind=about.kind)

    def _untrained(self, spec: ModelSpec, heads: tuple[Head, ...], seed: Seed) -> Untrained:
        pretrained = self.resolved.models.get(spec.model or "")
        return self._once(
            ("initial", spec, heads, seed.train),
            lambda: Untrained(
                source=pretrained,
                arch=spec.arch,
                overrides=dict(sorted(spec.overrides.items())),
                heads=heads,
                max_length=self.settings.train.max_length,
                seed=seed.train,
                layers=spec.layers,
                vectors=self.resolved.models.get(spec.vectors or ""),
            ),
        )

    def _heads(self, seed: Seed) -> tuple[Head, ...]:
        return tuple(Head(task, self.of_any((task,), seed)) for task in self.tasks)

    def _shared(self, seed: Seed) -> tuple[Head, ...]:
        return (Head(SHARED, self.of_any(self.tasks, seed)),)
