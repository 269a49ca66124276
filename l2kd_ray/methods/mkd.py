"""MKD (Liu, Wang, Lin, Socher, Xiong, 2019): a multi-task teacher's logits, all tasks at once."""

from __future__ import annotations

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.classifiers import ClassifierBuilder
from l2kd_ray.stages.classify import Classify


def mkd(build: ClassifierBuilder, task: Order, seed: Seed) -> Classify:
    """The student that answers a task: of all tasks or of this one, perhaps fine-tuned on it."""
    (name,) = task
    settings = build.config.mkd
    tasks = build.tasks if settings.student == "joint" else task
    teachers = {each: build.joint_teacher(each, seed) for each in tasks}
    student = build.learn(build.initial(seed), tasks, seed, teachers=teachers)
    if settings.finetune_epochs:
        return build.learn(student, (name,), seed, epochs=settings.finetune_epochs)
    return student
