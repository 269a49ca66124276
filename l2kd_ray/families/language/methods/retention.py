"""The former student as a teacher beside the labels: LwF."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import Field

from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.stage import Context
from l2kd_ray.distill.objectives import Positions, SoftTargets
from l2kd_ray.families.language.builder import LanguageBuilder, Student
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.stages.curriculum import Teacher


class LwfOptions(Section):
    """The student before a task is its teacher on the task's own samples (LwF)."""

    weight: float = Field(1.0, ge=0)
    """Weight of the distillation, beside a cross-entropy of weight 1."""
    temperature: float = Field(2.0, gt=0)
    """T, at which former and new student are compared."""


@method(options=LwfOptions, published={"lwf.weight": 1.0, "lwf.temperature": 2.0})
def lwf(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """LwF (Li, Hoiem, ECCV 2016): CE + `weight` KL(former student || student) at T, without the
    factor T^2 of distillation, on the new task's samples."""
    options = build.options
    if not former or options.weight == 0:
        return build.learn(previous, task, seed, lm=False)
    return build.learn(
        previous,
        task,
        seed,
        lm=False,
        stage=LearnWithoutForgetting,
        objective=BesideLabels(temperature=options.temperature, unscaled=True),
        kd_weight=options.weight,
    )


@dataclass(frozen=True)
class BesideLabels(SoftTargets):
    """`CE + share * KD` at each position, divided by the count of the CE alone."""

    def weights(self, positions: Positions) -> tuple[Tensor, Tensor]:
        return positions.share, super().weights(_labels_alone(positions))[1]

    def count(self, positions: Positions, rows: int) -> Tensor:
        return super().count(_labels_alone(positions), rows)


def _labels_alone(positions: Positions) -> Positions:
    return replace(positions, share=positions.share * 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnWithoutForgetting(Learn):
    """Training in which its start teaches the new samples, with weight `kd_weight`."""

    def _teacher(self, model: CausalLM, context: Context) -> Teacher | None:
        from l2kd_ray.families.language.model.causal_lm import CausalLM
        from l2kd_ray.families.language.stages.teachers import Live

        return Live(CausalLM.load(context.files_of(self.start)))
