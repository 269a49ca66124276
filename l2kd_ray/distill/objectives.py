"""What a student is trained to do at each supervised position, and what it needs of a teacher.

Shapes: R rows (sequences) of a batch, P supervised positions of all rows, V vocabulary. `row` [P]
says whose a position is. An objective gives a loss *sum* and a *count* for each row; instance
weights, and the division by the count of the global batch, belong to the training loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Positions:
    """The supervised positions of a batch.

    target [P]: the token to predict; row [P]: its row; is_answer [P]: the target is `<ans>`;
    distilled [P]: a teacher speaks here (samples of the new task, never replay).
    """

    target: Tensor
    row: Tensor
    is_answer: Tensor
    distilled: Tensor
    rows: int

    def to(self, device: str) -> Positions:
        tensors = self.target, self.row, self.is_answer, self.distilled
        target, row, is_answer, distilled = (tensor.to(device) for tensor in tensors)
        return Positions(target, row, is_answer, distilled, self.rows)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax(z)[target], a position each. logits [P, V], target [P] -> [P]."""
    return F.cross_entropy(logits, target, reduction="none")


def word_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)), a position each (L2KD's Word-KD).

    student, teacher [P, V] -> [P]. The gradient in z_student is T (p_student - p_teacher); the
    teacher gets none. Source: Chuang et al. 2020; T^2 from Hinton et al. 2015.
    """
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
    return temperature**2 * divergence


@dataclass(frozen=True)
class SoftTargets:
    """`w * KD + (1 - w) * CE` where a teacher speaks, CE elsewhere; w = 0 is LAMOL's own loss.

    `answer_weight` is the class weight of `<ans>` in CE; `weigh_kd` lets it weigh KD too. The
    count is the sum of the positions' weights, so that a mean over it is torch's weighted mean.
    Between 0 and 1 the two are mixed position by position, under one common count.
    """

    temperature: float = 1.0
    weight: float = 0.0
    answer_weight: float = 1.0
    weigh_kd: bool = False

    @property
    def requires(self) -> frozenset[str]:
        """The teacher outputs needed."""
        return frozenset({"logits"}) if self.weight > 0 else frozenset()

    def weights(self, positions: Positions) -> tuple[Tensor, Tensor]:
        """The weights of KD [P] and of CE [P] at each position."""
        of_class = torch.where(positions.is_answer, self.answer_weight, 1.0)
        share = positions.distilled * self.weight
        kd = share * of_class if self.weigh_kd else share
        return kd, (1.0 - share) * of_class

    def count(self, positions: Positions) -> Tensor:
        """[R]: what each row's sum is divided by in a mean; known before any forward pass."""
        kd, ce = self.weights(positions)
        return _by_row(kd + ce, positions)

    def sum(self, logits: Tensor, teacher_logits: Tensor | None, positions: Positions) -> Tensor:
        """[R]: each row's loss sum. logits [P, V]; teacher_logits [P where distilled, V]."""
        kd, ce = self.weights(positions)
        loss = logits.new_zeros(positions.target.shape)
        if self.weight < 1.0 or not bool(positions.distilled.all()):
            loss = loss + ce * cross_entropy(logits, positions.target)
        if teacher_logits is not None and self.weight > 0:
            where = positions.distilled.nonzero().squeeze(-1)
            divergence = word_kd(logits[where], teacher_logits, self.temperature)
            loss = loss.index_add(0, where, kd[where] * divergence)
        return _by_row(loss, positions)


def _by_row(values: Tensor, positions: Positions) -> Tensor:
    return values.new_zeros(positions.rows).index_add(0, positions.row, values)
