"""Structural KD (Wang, Jiang, Yan, et al., ACL 2021) of one task, or of a stream of tasks."""

from __future__ import annotations

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.structures import StructureBuilder
from l2kd_ray.stages.structured import LearnStructure


def structkd(build: StructureBuilder, order: Order, seed: Seed) -> LearnStructure:
    """Learns the last task of `order` from gold structures and the scores of its own teacher.

    With `kd.weight` 0 it is finetuning, and of one task the student without distillation.
    """
    *former, task = order
    previous = build.student(structkd, tuple(former), seed)
    return build.learn(previous, task, seed, distil=True)
