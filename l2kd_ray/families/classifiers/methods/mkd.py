"""MKD (Liu, Wang, Lin, Socher, Xiong, 2019): a multi-task teacher's logits, all tasks at once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2kd_ray.core.randomness import Seed
from l2kd_ray.families.classifiers.builder import ClassifierBuilder
from l2kd_ray.families.classifiers.stages.learn import Classify
from l2kd_ray.families.classifiers.stages.start import Untrained
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section


class MultiTaskOptions(Section):
    """Distillation by logit regression (MKD, Liu et al. 2019); `kd.weight` 1 has no label term."""

    teacher: Literal["joint", "single"] = "joint"
    """One teacher refined on all tasks, or each task's own."""
    student: Literal["joint", "single"] = "joint"
    """One student of all tasks, one task a mini-batch; or one a task."""
    over: Literal["mean", "sum"] = "mean"
    """The squared errors of a task's logits: their mean, or the sum."""
    finetune_epochs: int = Field(0, ge=0)
    """The joint student is then trained on each task's labels."""


def teacher(build: ClassifierBuilder, task: str, seed: Seed) -> Classify:
    """The teacher of a task: refined on all tasks, or on its own."""
    return build.joint_teacher(build.tasks if build.options.teacher == "joint" else (task,), seed)


@method(family="classifiers", options=MultiTaskOptions, orderless=True, teacher=teacher)
def mkd(
    build: ClassifierBuilder, previous: Untrained, former: Order, task: str, seed: Seed
) -> Classify:
    """The student that answers a task: of all tasks or of this one, perhaps fine-tuned on it."""
    options = build.options
    tasks = build.tasks if options.student == "joint" else (task,)
    teachers = {each: teacher(build, each, seed) for each in tasks}
    student = build.learn(previous, tasks, seed, teachers=teachers, over=options.over)
    if options.finetune_epochs:
        return build.learn(student, (task,), seed, epochs=options.finetune_epochs)
    return student
