"""The k tokens a teacher finds most likely, and one class for all the others.

Smaller than hidden states where the teacher is wide, and no output layer of the teacher is needed.
But it is biased, the more so the softer the teacher: what it says among the other tokens is lost,
and how much of its mass they have at a temperature is only estimated. `bias` says by how much.

Shapes: K positions, C of them in a chunk, k tokens kept, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-6
"""The least mass of the student's other tokens: what divides must not be 0."""


@dataclass(frozen=True)
class MostLikely:
    """tokens [K, k], their logits [K, k], log-sum-exp of the other logits [K]; how many others."""

    tokens: Tensor
    logits: Tensor
    rest: Tensor
    others: int

    @classmethod
    def of(cls, logits: Tensor, k: int) -> MostLikely:
        """Of a teacher's logits [K, V]. k is below V."""
        best = logits.topk(k, dim=-1)
        rest = logits.scatter(-1, best.indices, -torch.inf).logsumexp(-1)
        return cls(best.indices, best.values, rest, logits.shape[-1] - k)

    def __getitem__(self, part: slice) -> MostLikely:
        return MostLikely(self.tokens[part], self.logits[part], self.rest[part], self.others)

    def log_p(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the kept tokens [K, k] and of all others together [K, 1].

        The others' mass at a temperature is that of equally likely ones: exact at T = 1.
        """
        kept, each = self.logits / temperature, self.rest - math.log(self.others)
        rest = (each / temperature + math.log(self.others)).unsqueeze(-1)
        total = torch.cat([kept, rest], dim=-1).logsumexp(-1, keepdim=True)
        return kept - total, rest - total


def divergence(
    student: Tensor, teacher: MostLikely, weight: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """sum_p weight_p T^2 KL(teacher_p || student_p) over k + 1 classes.

    Returns its gradient in the student's logits [C, V], which it overwrites, and its value. With
    s the student's softmax at T, r the other tokens' mass and p the teacher's: the gradient is
    weight T (s_i - p_i) for a kept token, weight T s_i (1 - p_r / s_r) for another.
    """
    s = torch.softmax(student.div_(temperature), -1, out=student)
    kept = s.gather(-1, teacher.tokens)
    rest = (1 - kept.sum(-1, keepdim=True)).clamp(min=TINY)
    log_p, log_r = teacher.log_p(temperature)
    each = (log_p.exp() * (log_p - kept.clamp(min=TINY**2).log())).sum(-1)
    each += (log_r.exp() * (log_r - rest.log())).squeeze(-1)
    grad = s.mul_(1 - log_r.exp() / rest).scatter_(-1, teacher.tokens, kept - log_p.exp())
    return grad.mul_((weight * temperature).unsqueeze(-1)), (each * weight).sum() * temperature**2


def bias(
    student: Tensor, teacher: Tensor, kept: MostLikely, temperature: float
) -> Mapping[str, float]:
    """What top-k teaching does to the gradient in the student's logits, all [K, V].

    Returns: `mass`, the share of the teacher's probability at this temperature that is on the kept
    tokens; `error`, the norm of the gradient's error over that of the exact gradient, softmax of
    student / T less softmax of teacher / T; `cosine`, between the two.
    """
    p = torch.softmax(teacher / temperature, -1)
    exact = torch.softmax(student / temperature, -1) - p
    ones = student.new_full((len(student),), 1 / temperature)
    biased, _ = divergence(student.clone(), kept, ones, temperature)
    cosine = torch.cosine_similarity(exact.flatten(), biased.flatten(), dim=0)
    return {
        "mass": float(p.gather(-1, kept.tokens).sum(-1).mean()),
        "error": float((biased - exact).norm() / exact.norm()),
        "cosine": float(cosine),
    }
