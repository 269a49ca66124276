"""A method of one's own: L2KD that begins to distil only after some tasks.

Before a student has learned anything, a teacher of the same architecture and settings is LAMOL's
student of that task, so the first task is distilled from a twin. Learning the first tasks from the
labels alone asks how much of L2KD's effect that twin has; `after: 0` is L2KD itself.

    methods: [lamol, l2kd, ./examples/late_distillation.py:late_l2kd]
    late_l2kd: {after: 1}
"""

from pydantic import Field

from l2kd_ray.core.randomness import Seed
from l2kd_ray.families.language.builder import LanguageBuilder, Student
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section


class LateOptions(Section):
    """The key `late_l2kd` of a study file."""

    after: int = Field(1, ge=0)
    """Number of tasks that are learned without a teacher."""


@method(options=LateOptions)
def late_l2kd(
    build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed
) -> Learn:
    """LAMOL for the first `after` tasks, L2KD (Chuang, Su, Chen 2020) for those that follow."""
    replay = build.replay(previous, former, task, seed)
    distil = len(former) >= build.options.after
    return build.learn(previous, task, seed, replay=replay, distil=distil)
