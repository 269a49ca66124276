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
    """Distillation by logit regression (MKD, Liu et al. 2019); `kd.weight: 1` drops the label
    term."""

    teacher: Literal["joint", "single"] = "joint"
    """`joint`: one teacher refined on all tasks; `single`: one teacher per task."""
    student: Literal["joint", "single"] = "joint"
    """`joint`: one student of all tasks, one task per mini-batch; `single`: one student per
    task."""
    over: Literal["mean", "sum"] = "mean"
    """Reduction of the squared errors over a task's logits."""
    finetune_epochs: int = Field(0, ge=0)
    """Epochs of training on each task's labels after the joint training (0: none)."""


def teacher(build: ClassifierBuilder, task: str, seed: Seed) -> Classify:
    """The teacher of a task: refined on all tasks, or on this one alone."""
    return build.joint_teacher(build.tasks if build.options.teacher == "joint" else (task,), seed)


@method(family="classifiers", options=MultiTaskOptions, orderless=True, teacher=teacher)
def mkd(
    build: ClassifierBuilder, previous: Untrained, former: Order, task: str, seed: Seed
) -> Classify:
    """The student for a task: trained on all tasks or on this one, optionally fine-tuned on it."""
    options = build.options
    tasks = build.tasks if options.student == "joint" else (task,)
    teachers = {each: teacher(build, each, seed) for each in tasks}
    student = build.learn(previous, tasks, seed, teachers=teachers, over=options.over)
    if options.finetune_epochs:
        return build.learn(student, (task,), seed, epochs=options.finetune_epochs)
    return student
