"""The equation that every distillation of outputs here is a case of, and its mix with the labels.

With scores s_s(u) of the substructures u of y, a student's P_s(y | x) = exp(sum_u s_s(u) - A_s(x))
and the teacher's marginals mu_t(u) of the same substructures have the cross-entropy

    H(P_t, P_s) = A_s(x) - <mu_t(x), s_s(x)>,    whose gradient in s_s is mu_s - mu_t.

| substructures | objective |
|---|---|
| a token at a position | word-KD (`divergences.forward`, less the teacher's own entropy) |
| the same, mu_t of one drawn or decoded answer | Seq-KD: cross-entropy with that answer |
| a class of the whole text | soft targets (`logits.soft_cross_entropy`) |
| the same at a high temperature | logit regression (`logits.logit_regression`, MKD) |
| labels, arcs, spans and their neighbours | Structural KD (`structured.objective`) |

All have one signature, (student's outputs, teacher's) -> a loss each, [B]: sentences, texts or
positions. Who calls them weighs, mixes with the label's loss and sums: `interpolate`, or, where the
weights must be known before any forward pass, `objectives.SoftTargets`.

No torch is imported here: a stage names a divergence, and stages are made without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def structural_cross_entropy(
    marginals: tuple[Tensor, ...],
    scores: tuple[Tensor, ...],
    log_partition: Tensor | float = 0.0,
) -> Tensor:
    """[B]: A_s - <mu_t, s_s>. With log-probabilities for scores there is nothing to normalise.

    marginals: the teacher's, [B, ...] for each kind of the student's substructures; scores: the
    student's, which broadcast to them; log_partition [B]: A_s.
    """
    return log_partition - inner(marginals, scores)


def inner(marginals: tuple[Tensor, ...], scores: tuple[Tensor, ...]) -> Tensor:
    """[B]: <mu, s>, where 0 * -inf = 0: what the marginals exclude is not read."""
    total = marginals[0].new_zeros(marginals[0].shape[0])
    for mu, s in zip(marginals, scores, strict=True):
        read = s.where(mu > 0, 0.0)
        total = total + (mu * read).flatten(1).sum(1)
    return total


def interpolate(
    kd: Tensor, target: Tensor, weight: float, labelled: Tensor | None = None
) -> Tensor:
    """[B]: w KD + (1 - w) target loss; KD alone where `labelled` [B] is False.

    There `target` is not read, and may be infinite.
    """
    mixed = weight * kd + (1 - weight) * target
    return mixed if labelled is None else mixed.where(labelled, kd)
