"""The objective of Structural KD (Wang et al. 2021), for all factorisations.

    L_KD = log Z_s(x) - sum_{u in U_s} mu_t(u) score_s(u)                                     (1)
    L_KD = - sum_{u in U_s} mu_t(u) log P_s(u)          for a locally normalised student      (2)

with U_s the student's substructures and mu_t(u) their marginals under the teacher: the one equation
of `cross_entropy`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from l2kd_ray.distill.cross_entropy import structural_cross_entropy
from l2kd_ray.distill.structured.structure import Parts, Structure


def negative_log_likelihood(student: Structure, gold: Tensor) -> Tensor:
    """[B]: -log P_s(gold); gold is encoded as `argmax` does."""
    return student.log_partition() - student.score(gold)


@dataclass(frozen=True)
class StructuralKD:
    """T^2 H(P_t, P_s), both tempered: the gradient keeps its size as T grows (Hinton et al. 2015).

    `project` is the case (`projections`), and does the teacher's inference. Scope `global`
    tempers teacher and student before inference: exact at every temperature.
    Scope `local`, the released code's, tempers the teacher's marginals after inference, and a
    view of the student's marginals, too. They then belong to no distribution over structures, and
    for a chain or tree student (1) is unbounded below; it is there to reproduce, with the released
    code's clamp at 0.
    """

    project: Callable[[Any, float], Parts]
    temperature: float = 1.0
    scope: Literal["global", "local"] = "global"
    view: Callable[[Any], Structure] | None = None
    """The view of the student that is compared, instead of the student itself (`baselines`)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, and must be above 0")
        if self.scope not in ("global", "local"):
            raise ValueError(f"scope is {self.scope!r}, and must be 'global' or 'local'")

    @torch.no_grad()
    def targets(self, teacher: Any) -> Parts:
        """The teacher's marginals of the student's substructures, at the temperature."""
        if self.scope == "local":
            return self.project(teacher, self.temperature)
        return self.project(teacher.temper(self.temperature), 1.0)

    def loss(self, student: Structure, targets: Parts) -> Tensor:
        """[B]: the loss of each sentence."""
        view = self.view or (lambda model: model)
        if self.scope == "local":
            tempered = view(student).temper(self.temperature)
        else:
            tempered = view(student.temper(self.temperature))
        scores, log_z = tempered.potentials(), tempered.log_partition()
        loss = self.temperature**2 * structural_cross_entropy(targets, scores, log_z)
        return loss.clamp(min=0.0) if self.scope == "local" else loss


def annealed_weight(epoch: float, rate: float) -> float:
    """lambda, the weight of L_KD: 1 at first, 0 from epoch 100 / rate on."""
    return max(0.0, 1.0 - rate * epoch / 100.0)
