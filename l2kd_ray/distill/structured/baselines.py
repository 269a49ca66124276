"""The baselines of Structural KD, as the same objective with other targets or scores.

| baseline | targets mu | scores |
|---|---|---|
| token KD | softmax of the teacher's emissions | the student's emissions |
| posterior KD | the teacher's token marginals | log token marginals of the student, (2) |
| Top-K, Top-WK | label counts of the teacher's k best sequences | as Structural KD |

Sources: Wang et al. 2021, section 4; Top-K, Top-WK and posterior KD are Wang et al. 2020's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2kd_ray.distill.structured.chain import Chain, ChainParts
from l2kd_ray.distill.structured.projections import unchanged
from l2kd_ray.distill.structured.structure import Parts, at_end, valid_positions
from l2kd_ray.distill.structured.token import IndependentTokens


def emissions(model: Chain | IndependentTokens) -> IndependentTokens:
    """The scores of labels at each position, without transitions."""
    return model.emission_softmax() if isinstance(model, Chain) else model


def token_targets(teacher: Chain | IndependentTokens, local: float = 1.0) -> Parts:
    return unchanged(emissions(teacher), local)


def token_posterior(student: Chain) -> IndependentTokens:
    """log P_s(y_t) as scores that are already normalised."""
    return IndependentTokens(student.log_token_marginals(), student.lengths)


def top_k(
    teacher: Chain | IndependentTokens, local: float = 1.0, *, k: int = 10, weighted: bool = False
) -> ChainParts:
    """Targets that make (1) the mean NLL of the teacher's k best sequences as pseudo-labels.

    `weighted` (Top-WK) weighs each by its probability among them instead of equally. A case for
    `StructuralKD`, used at temperature 1; its `tokens` alone are those of a token softmax.
    """
    del local  # sequences have no marginals to temper
    paths, scores = teacher.n_best(k)
    # Missing sequences keep -inf and so get weight 0.
    equal = torch.where(scores.isfinite(), 0.0, scores)
    weights = (scores if weighted else equal).softmax(-1)
    return path_marginals(paths, weights, teacher.lengths, teacher.emissions.shape[-1])


def path_marginals(paths: Tensor, weights: Tensor, lengths: Tensor, labels: int) -> ChainParts:
    """The marginals of a distribution that is weights [B, K] on the sequences paths [B, K, n]."""
    B, _, n = paths.shape
    valid = valid_positions(lengths, n)
    at = weights[..., None] * valid[:, None]  # [B, K, n]
    tokens = weights.new_zeros(B, n, labels)
    tokens.scatter_add_(2, paths.transpose(1, 2), at.transpose(1, 2))
    steps = (paths[..., :-1] * labels + paths[..., 1:]).flatten(1)
    counts = weights.new_zeros(B, labels * labels)
    counts.scatter_add_(1, steps, at[..., 1:].flatten(1))
    transitions = counts.view(B, labels, labels)
    return ChainParts(tokens, transitions, tokens[:, 0], at_end(tokens, lengths))
