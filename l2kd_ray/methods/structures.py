"""The stages of taggers and parsers, from a study's settings: Structural KD."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from l2kd_ray.config import Arm, InputError, ModelSpec, Part, Seed, StudyConfig, TaskKind, Training
from l2kd_ray.methods.builder import LabelBuilder
from l2kd_ray.stages.classifier import Labelled
from l2kd_ray.stages.evaluate_structured import EvaluateStructured
from l2kd_ray.stages.structured import (
    Dev,
    Distilling,
    LearnStructure,
    LearnStructures,
    TeacherScores,
    UntrainedStructure,
)
from l2kd_ray.tasks import TaskData

Names = tuple[str, ...]
_TAGGED = {"structural", "token", "posterior", "top-k", "top-wk"}
OBJECTIVES = {
    "1a": _TAGGED,
    "1b": _TAGGED - {"token"},
    "2a": _TAGGED,
    "2b": _TAGGED - {"token"},
    "3": _TAGGED,
    "4": {"structural", "posterior"},
    "tree": {"structural"},
    "projective": {"structural"},
}
"""What a student can learn in each case; where it labels words, posterior KD is structural."""
HEADS = {
    "1a": ("chain", "chain"),
    "1b": ("biaffine", "labelling"),
    "2a": ("chain", "token"),
    "2b": ("second-order", "labelling"),
    "3": ("token", "chain"),
    "4": ("spans", "token"),
    "tree": ("biaffine", "tree"),
    "projective": ("biaffine", "projective"),
}
"""What teacher and student compute in each case."""


class StructureBuilder(LabelBuilder):
    """Stages of taggers and parsers with a head a task; a study is of one case."""

    @property
    def training(self) -> Training:
        return super().training.model_copy(update={"max_length": None, "precision": "float32"})

    @classmethod
    def check_arm(cls, config: StudyConfig, arm: Arm, where: str) -> None:
        case, objective = config.structkd.case, config.structkd.objective
        if objective not in OBJECTIVES[case]:
            raise InputError(
                f"case {case} has no such baseline",
                where=where,
                key=f"methods: {arm.name}: structkd.objective",
                got=objective,
                expected=", ".join(sorted(OBJECTIVES[case])),
            )

    @classmethod
    def kinds(cls, config: StudyConfig) -> Collection[TaskKind]:
        tags: TaskKind = "tag"
        trees: TaskKind = "parse"
        return (tags if config.structkd.case in ("1a", "2a", "3", "4") else trees,)

    def check(self, spec: ModelSpec) -> None:
        from l2kd_ray.models.structured import Architecture

        Architecture(body=_body(spec), **spec.overrides)

    def initial(self, seed: Seed) -> UntrainedStructure:
        return self._untrained(self.config.student, HEADS[self.config.structkd.case][1], seed)

    def reference(self, name: str, task: str, seed: Seed) -> LearnStructure:
        if name == "single":
            return self.learn(self.initial(seed), task, seed)
        if name == "teacher":
            return self.teacher(task, seed)
        training = self.training_of(self.config.multitask)
        tasks = self.labelled(self.tasks)
        dev = self._dev(self.tasks, training)
        return LearnStructures(self.initial(seed), tasks, training, seed.train, dev=dev)

    def teacher(self, task: str, seed: Seed) -> LearnStructure:
        """The teacher of a task, from its gold structures."""
        spec, head = self.config.teacher or self.config.student, HEADS[self.config.structkd.case][0]
        training = self.training_of(self.config.teaching)
        return self._once(
            ("teacher", task, seed.train),
            lambda: LearnStructure(
                self._untrained(spec, head, seed),
                self.labelled((task,)),
                training,
                seed.train,
                dev=self._dev((task,), training),
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
        """`start` learns a task; with `distil` from the scores of the task's teacher, too."""
        training = self.training
        knowledge = self._knowledge(task, seed) if distil and self.config.kd.weight > 0 else {}
        return LearnStructure(
            start,
            self.labelled((task,)),
            training,
            seed.train,
            dev=self._dev((task,), training),
            **knowledge,
        )

    def evaluate(self, model: Any, task: str, split: Part, seed: Seed) -> EvaluateStructured:
        about = self.resolved.tasks[task]
        return EvaluateStructured(model, self._data(task, split), about.metric, about.extras, None)

    def _knowledge(self, task: str, seed: Seed) -> dict[str, Any]:
        settings, kd = self.config.structkd, self.config.kd
        best = settings.objective.startswith("top")
        unlabelled = self._unlabelled(task)
        data = (self._data(task, "train"), *unlabelled)
        return {
            "scores": tuple(self._scores(task, one, seed) for one in data),
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

    def _scores(self, task: str, data: TaskData, seed: Seed) -> TeacherScores:
        teacher = self.teacher(task, seed)
        return self._once(("scores", teacher, data), lambda: TeacherScores(teacher, data))

    def _unlabelled(self, task: str) -> tuple[TaskData, ...]:
        """The sentences that follow a task's own in the draw of its cap."""
        count, data = self.config.structkd.unlabelled, self._data(task, "train")
        if not count:
            return ()
        if data.cap is None:
            raise InputError(
                "there are no more training sentences than those with labels",
                key="structkd.unlabelled",
                got=count,
                mend="cap the labelled ones: max_train",
            )
        return (replace(data, cap=count, skip=data.cap, rows=count),)

    def _dev(self, tasks: Names, training: Training) -> tuple[Dev, ...]:
        if training.patience is None:
            return ()
        known = self.resolved.tasks
        return tuple(
            Dev(Labelled(self._data(task, "dev"), known[task].kind), known[task].metric)
            for task in tasks
        )

    def _untrained(self, spec: ModelSpec, head: Any, seed: Seed) -> UntrainedStructure:
        return self._once(
            ("initial", spec, head, seed.train),
            lambda: UntrainedStructure(
                head=head,
                source=self.resolved.models.get(spec.model or ""),
                architecture={"body": _body(spec), **dict(sorted(spec.overrides.items()))},
                tasks=self.labelled(self.tasks),
                seed=seed.train,
                vectors=self.resolved.models.get(spec.vectors or ""),
            ),
        )


def _body(spec: ModelSpec) -> Any:
    """What stands between features and heads: nothing above a pretrained encoder."""
    return spec.arch or "none"
