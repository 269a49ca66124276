"""Instance weights of Meta-KD (Pan et al., ACL 2021, arXiv 2012.01266).

Prototype scores measure how typical an example is of its own domain and of the others; they weigh
the meta-teacher's losses. Expertise weights also measure how well the teacher knows the example;
they weigh the student's losses. Shapes: N examples, K domains, M classes, d width of h.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Others = Literal["mean_of_cosines", "cosine_of_mean"]


@torch.no_grad()
def prototype_scores(
    features: Tensor,
    domain: Tensor,
    label: Tensor | None = None,
    *,
    alpha: float = 0.5,
    others: Others = "mean_of_cosines",
) -> Tensor:
    """[N]: t = alpha cos(p_own, h) + (1 - alpha) / (K - 1) sum_{k not own} cos(p_k, h), in [-1, 1].

    Args:
        features: h [N, d], from the encoder before any tuning.
        domain: [N], from 0.
        label: [N], from 0: centroids p are of (domain, class), an example's of its own class.
            None: centroids of domains.
        others: `cosine_of_mean` compares with the mean of the other domains' centroids instead.

    A domain without the class is none of the others. Where there are no others t is cos(p_own, h),
    as it is where all domains are alike.
    """
    group = torch.zeros_like(domain) if label is None else label
    shape = int(domain.max()) + 1, int(group.max()) + 1
    cell = domain * shape[1] + group
    # A cell is a pair (domain, class). Clamps below avoid 0 / 0 where a cell is empty; the scores
    # of such cells are not used.
    counts = torch.bincount(cell, minlength=shape[0] * shape[1])
    sums = features.new_zeros(len(counts), features.shape[1]).index_add(0, cell, features)
    centroids = (sums / counts.clamp(min=1).unsqueeze(-1)).unflatten(0, shape)  # [K, M, d]
    number = (counts > 0).unflatten(0, shape).sum(0) - 1  # [M]: other domains with the class
    rows = torch.arange(len(features), device=features.device)
    of_class = _cosines(features, centroids)[rows, :, group]  # [N, K]
    own = of_class[rows, domain]
    if others == "mean_of_cosines":
        rest = (of_class.sum(1) - own) / number[group].clamp(min=1)
    else:
        means = (centroids.sum(0) - centroids) / number.clamp(min=1).unsqueeze(-1)
        rest = _cosines(features, means)[rows, domain, group]
    return torch.where(number[group] > 0, alpha * own + (1 - alpha) * rest, own)


def _cosines(features: Tensor, points: Tensor) -> Tensor:
    """[N, K, M]: cosines of features [N, d] and points [K, M, d]; 0 for points without examples."""
    return torch.einsum("nd,kmd->nkm", F.normalize(features, dim=-1), F.normalize(points, dim=-1))


def typicality(scores: Tensor, *, raw: bool = False) -> tuple[Tensor, float]:
    """The weights [N] of the meta-teacher's losses, and the share of scores that were clamped.

    A score below 0 (small encoders have them) would reward a wrong answer, so it is clamped to 0;
    `raw` keeps it, as the paper does.
    """
    if raw:
        return scores, 0.0
    return scores.clamp(min=0), float((scores < 0).double().mean())


def expertise(scores: Tensor, probability: Tensor) -> Tensor:
    """[N]: lambda = (1 + t) / (exp((p - 1)^2) + 1), the weights of the student's losses.

    Args:
        scores: t [N].
        probability: p_T(y | x) [N], the teacher's probability of the label. The factor of 1 + t
            grows from 1 / (e + 1) at p = 0 to 1 / 2 at p = 1.
    """
    return (1 + scores) / ((probability - 1).square().exp() + 1)
