"""Structural KD (Wang, Jiang, Yan, et al., ACL 2021) of one task, or of a stream of tasks."""

from __future__ import annotations

from l2kd_ray.core.randomness import Seed
from l2kd_ray.families.method import Order, method
from l2kd_ray.families.structures.builder import StructureBuilder
from l2kd_ray.families.structures.stages.learn import LearnStructure
from l2kd_ray.families.structures.stages.start import UntrainedStructure


@method(family="structures", teacher=StructureBuilder.teacher)
def structkd(
    build: StructureBuilder,
    previous: UntrainedStructure | LearnStructure,
    former: Order,
    task: str,
    seed: Seed,
) -> LearnStructure:
    """Learns a task from gold structures and the scores of its own teacher.

    With `kd.weight` 0 it is finetuning, and for one task the student without distillation.
    """
    return build.learn(previous, task, seed, distil=True)
