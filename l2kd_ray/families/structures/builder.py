"""The stages of taggers and parsers, from a study's settings: Structural KD."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from l2kd_ray.core.randomness import Seed
from l2kd_ray.distill.structured.case_table import CASES, Case
from l2kd_ray.errors import InputError
from l2kd_ray.families.builder import LabelBuilder
from l2kd_ray.families.examples import Examples, Labelled
from l2kd_ray.families.method import Order
from l2kd_ray.families.settings import Settings, TrainOverrides
from l2kd_ray.families.structures.settings import StructureSettings
from l2kd_ray.families.structures.stages.evaluate import EvaluateStructured
from l2kd_ray.families.structures.stages.learn import (
    Dev,
    Distilling,
    LearnStructure,
    LearnStructures,
    TeacherScores,
)
from l2kd_ray.families.structures.stages.start import UntrainedStructure
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.tasks.spec import Part, TaskKind


class StructureBuilder(LabelBuilder):
    """Stages of taggers and parsers with one head per task; a study has one case."""

    settings: StructureSettings

    @property
    def case(self) -> Case:
        return CASES[self.settings.structkd.case]

    @classmethod
    def kinds(cls, settings: Settings) -> Collection[TaskKind]:
        sections: Any = settings.family
        kind: TaskKind = "tag" if CASES[sections.structkd.case].tags else "parse"
        return (kind,)

    def check_settings(self) -> None:
        super().check_settings()
        count = self.settings.structkd.unlabelled if self.settings.kd.weight else 0
        for task in self.tasks:
            data = self.resolved.tasks[task].splits["train"]
            left = data.available - data.rows
            if count > left:
                raise InputError(
                    f"{task} has fewer training sentences beyond its {data.rows} labelled ones",
                    key="structkd.unlabelled",
                    got=count,
                    expected=f"at most {left}",
                    fix="set the task's max_train, which leaves its other sentences without labels",
                )

    def check(self, spec: ModelSpec) -> None:
        from l2kd_ray.families.structures.model.structured import Architecture, check_architecture

        self._check_pretrained(spec)
        check_architecture(Architecture(head=self.case.student, body=_body(spec), **spec.overrides))

    def initial(self, seed: Seed) -> UntrainedStructure:
        return self._untrained(self.settings.student, self.case.student, seed)

    def reference(self, name: str, task: str, seed: Seed) -> LearnStructure:
        if name == "single":
            return self.learn(self.initial(seed), task, seed)
        return LearnStructures(
            start=self.initial(seed),
            tasks=self.labelled(self.tasks, seed),
            **self._training(self.tasks, seed, self.settings.multitask),
        )

    def teacher(self, task: str, seed: Seed) -> LearnStructure:
        """The teacher of a task, trained on its gold structures."""
        taught_by = self._settings.teacher_train
        return self._once(
            ("teacher", task, seed),
            lambda: LearnStructure(
                start=self._untrained(self.teacher_spec, self.case.teacher, seed),
                tasks=self.of_teacher((task,), seed),
                **self._training((task,), seed, self.settings.teaching, taught_by),
            ),
        )

    def learn(
        self,
        start: UntrainedStructure | LearnStructure,
        task: str,
        seed: Seed,
        *,
        distil: bool = False,
    ) -> LearnStructure:
        """Train `start` on a task; with `distil` also from the scores of the task's teacher."""
        return LearnStructure(
            start=start,
            tasks=self.labelled((task,), seed),
            **self._training((task,), seed),
            **(self._knowledge(task, seed) if distil else {}),
        )

    def evaluate(self, model: Any, task: str, split: Part, seed: Seed) -> EvaluateStructured:
        return EvaluateStructured(**self._evaluation(model, task, split))

    def _training(
        self, tasks: Order, seed: Seed, overrides: TrainOverrides | None = None, train: Any = None
    ) -> dict[str, Any]:
        """The fields that configure a training stage, by default a student's; the dev sets are
        those that early stopping scores."""
        train = train or self.settings.train
        return {
            **self.training(seed, overrides, train),
            "max_length": train.max_length,
            "patience": train.patience,
            "dev": () if train.patience is None else self._dev(tasks),
        }

    def _knowledge(self, task: str, seed: Seed) -> dict[str, Any]:
        """The fields of a distilling training stage; none if `kd.weight` is 0."""
        settings, kd = self.settings.structkd, self.settings.kd
        if kd.weight == 0:
            return {}
        best = settings.objective.startswith("top")
        unlabelled = self._unlabelled(task, seed)
        sources = (self.train_examples(task, seed), *unlabelled)
        return {
            "scores": tuple(TeacherScores(self.teacher(task, seed), one) for one in sources),
            "unlabelled": unlabelled,
            "distilling": Distilling(
                settings.case,
                settings.objective,
                1.0 if best else kd.temperature,
                kd.weight,
                settings.anneal,
                "global" if best else settings.scope,
                settings.k if best else None,
            ),
        }

    def _unlabelled(self, task: str, seed: Seed) -> tuple[Examples, ...]:
        """Unlabelled sentences: those that follow the task's own in the seeded draw of
        `max_train`."""
        count, data = self.settings.structkd.unlabelled, self.train_examples(task, seed).data
        if not count:
            return ()
        return (self.examples(replace(data, cap=count, skip=data.cap, rows=count)),)

    def _dev(self, tasks: Order) -> tuple[Dev, ...]:
        known = [self.resolved.tasks[task] for task in tasks]
        return tuple(
            Dev(Labelled(self.examples(task.splits["dev"]), task.kind), task.metric)
            for task in known
        )

    def _untrained(self, spec: ModelSpec, head: Any, seed: Seed) -> UntrainedStructure:
        return self._once(
            ("initial", spec, head, seed),
            lambda: UntrainedStructure(
                head=head,
                source=self.resolved.models.get(spec.model or ""),
                architecture={"body": _body(spec), **dict(sorted(spec.overrides.items()))},
                tasks=self.of_any(self.tasks, seed),
                seed=seed.train,
                vectors=self.resolved.models.get(spec.vectors or ""),
            ),
        )


def _body(spec: ModelSpec) -> Any:
    """The layers between features and heads; "none" above a pretrained encoder."""
    return spec.arch or "none"
