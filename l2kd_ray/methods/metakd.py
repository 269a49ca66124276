"""Meta-KD (Pan, Wang, Qiu, et al., ACL 2021): a teacher across domains, a student a domain."""

from __future__ import annotations

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.classifiers import ClassifierBuilder
from l2kd_ray.stages.metakd import MetaDistil


def metakd(build: ClassifierBuilder, task: Order, seed: Seed) -> MetaDistil:
    """The student of one domain."""
    return build.distil(build.domain_student(seed), task[0], seed)


def metakd_stream(build: ClassifierBuilder, order: Order, seed: Seed) -> MetaDistil:
    """One student of all domains, which come one after another: L2KD's stream, with the
    meta-teacher in place of a teacher a task, and its expertise weights."""
    *former, task = order
    start = build.domain_student(seed)
    if former:
        start = build.student(metakd_stream, tuple(former), seed)
    return build.distil(start, task, seed)
