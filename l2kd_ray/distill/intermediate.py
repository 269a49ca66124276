"""Meta-distillation: what a student takes over from its teacher's layers (Pan et al., ACL 2021).

Shapes: B texts of n tokens; N_S layers of a student, d_S wide, N_T of its teacher, d_T wide, b =
N_T / N_S; A heads. A loss is the mean over what belongs to a text's own tokens: padding, which
`mask` [B, n] leaves out, never counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2kd_ray.distill.logits import soft_cross_entropy
from l2kd_ray.distill.states import Outputs


def layer_map(teacher: int, student: int) -> tuple[list[int], list[int]]:
    """The teacher's layers that the student's are compared with.

    Returns: of its N_S + 1 hidden states (the embeddings first) b l, of its attentions b l + b - 1.
    Raises: ValueError where N_S does not divide N_T.
    """
    if student < 1 or teacher % student:
        raise ValueError(
            f"{student} layers of a student do not divide {teacher} of its teacher: take one of "
            f"{[n for n in range(1, teacher + 1) if teacher % n == 0]}"
        )
    step = teacher // student
    return list(range(0, teacher + 1, step)), list(range(step - 1, teacher, step))


def hidden_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, fit: Tensor | None = None
) -> Tensor:
    """[B]: sum_l MSE(S_l W_fit, T_{b l}), l = 0 .. N_S, the embeddings first.

    student: [B, n, d_S] each; teacher: [B, n, d_T] each; fit: W_fit [d_S, d_T], None: none is
    needed, d_S = d_T. Raises: ValueError as `layer_map` does.
    """
    layers, _ = layer_map(len(teacher) - 1, len(student) - 1)
    mapped = [state if fit is None else state @ fit for state in student]
    return _squared_errors(mapped, [teacher[layer] for layer in layers], -1, mask)


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """[B]: sum_l MSE(A^S_l, A^T_{b l + b - 1}), of attentions [B, A, n, n] after the softmax.

    Raises: ValueError as `layer_map` does, or where the heads differ in number.
    """
    _, layers = layer_map(len(teacher), len(student))
    if student[0].shape[1] != teacher[0].shape[1]:
        raise ValueError(
            f"a student of {student[0].shape[1]} attention heads cannot take over those of a "
            f"teacher of {teacher[0].shape[1]}: give it as many, or weigh attention by 0"
        )
    pairs = mask.unsqueeze(1) & mask.unsqueeze(2)
    return _squared_errors(student, [teacher[layer] for layer in layers], 1, pairs)


def transfer_loss(student: Tensor, teacher: Tensor, fit: Tensor | None = None) -> Tensor:
    """[B]: MSE(h_d^S W, h_d^T) of transferable features [B, d_S] and [B, d_T].

    The teacher's are compared as they are: mapped by an untrained W they would say nothing.
    """
    mapped = student if fit is None else student @ fit
    return (mapped - teacher.detach()).square().mean(-1)


def _squared_errors(
    student: Sequence[Tensor], teacher: Sequence[Tensor], dim: int, mask: Tensor
) -> Tensor:
    """[B]: the squared errors of pairs of layers, summed over the pairs.

    Of each pair it is the mean over `dim`, and over the places left where `mask` [B, ...] holds;
    whatever stands elsewhere is not read.
    """
    each = []
    for own, other in zip(student, teacher, strict=True):
        errors = (own - other.detach()).square().mean(dim).masked_fill(~mask, 0.0)
        each.append(errors.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1))
    return torch.stack(each).sum(0)


@dataclass(frozen=True)
class MetaDistillation:
    """hidden + attention + gamma2 * TKD [+ prediction], each with its weight; 0 leaves it out.

    One stage has them all; of two, the first has no prediction and the second nothing else.
    `transfer` is gamma2. The instance weights are the training loop's.
    """

    hidden: float = 1.0
    attention: float = 1.0
    transfer: float = 0.5
    prediction: float = 1.0
    temperature: float = 2.0

    @property
    def wanted(self) -> frozenset[str]:
        """The model outputs that it reads beside the logits."""
        weights = {
            "hidden": self.hidden,
            "attentions": self.attention,
            "feature": self.transfer,
        }
        return frozenset(name for name, weight in weights.items() if weight)

    def loss(
        self,
        student: Outputs,
        teacher: Outputs,
        features: tuple[Tensor, Tensor] | None = None,
        *,
        fit: Tensor | None = None,
        transfer_fit: Tensor | None = None,
    ) -> Tensor:
        """[B]: the loss of each text.

        features: h_d of student and teacher (`DomainCorruption` on each one's own `feature`); fit
        [d_S, d_T] and transfer_fit: the maps of hidden states and of h_d.
        """
        loss = student.logits.new_zeros(len(student.logits))
        if self.hidden:
            states = hidden_loss(_of(student.hidden), _of(teacher.hidden), student.mask, fit)
            loss = loss + self.hidden * states
        if self.attention:
            attentions = _of(student.attentions), _of(teacher.attentions)
            loss = loss + self.attention * attention_loss(*attentions, student.mask)
        if self.transfer:
            if features is None:
                raise ValueError("transferable knowledge needs the features of both models")
            loss = loss + self.transfer * transfer_loss(*features, transfer_fit)
        if self.prediction:
            soft = soft_cross_entropy(student.logits, teacher.logits, self.temperature)
            loss = loss + self.prediction * soft
        return loss


def _of(wanted: list[Tensor] | None) -> list[Tensor]:
    if wanted is None:
        raise ValueError(
            "the models' outputs lack what the objective reads: pass its `wanted` to both"
        )
    return wanted
