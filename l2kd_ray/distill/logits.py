"""Losses on the logits of a classifier: one per example.

Shapes: B examples, C outputs of a task's head (1 for a regression).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.distill.cross_entropy import structural_cross_entropy

Reduction = Literal["mean", "sum"]


def label_loss(logits: Tensor, target: Tensor) -> Tensor:
    """[B]: cross-entropy of logits [B, C] with classes [B]; (z - y)^2 with numbers where C = 1."""
    if logits.shape[-1] == 1:
        return (logits.squeeze(-1) - target).square()
    return F.cross_entropy(logits, target, reduction="none")


def logit_regression(student: Tensor, teacher: Tensor, over: Reduction = "mean") -> Tensor:
    """[B]: ||z_T - z_S||^2, the distillation loss of MKD (Liu et al. 2019, arXiv 1911.03588).

    `over` the classes: their mean, or the sum, as the norm is written. Unlike KL it holds the
    student to the teacher's logits themselves, not only to their differences.
    """
    squared = (teacher.detach() - student).square()
    return squared.mean(-1) if over == "mean" else squared.sum(-1)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """[B]: H(softmax(z_T / T), softmax(z_S / T)).

    Without Hinton et al.'s T^2: the gradient is (p_S - p_T) / T. T^2 times it tends, for zero-mean
    logits, to (z_S - z_T) / C as T grows, which is half of what `logit_regression` has.
    """
    targets = (teacher.detach() / temperature).softmax(-1)
    return structural_cross_entropy((targets,), ((student / temperature).log_softmax(-1),))
