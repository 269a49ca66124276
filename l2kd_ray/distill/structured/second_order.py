"""Second-order arcs: siblings and grandparents, with mean-field marginals (Wang and Tu 2020).

Heads are independent of each other in the mean-field distribution, so the rounds end in a
head selection whose arc marginals are the teacher's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.distill.structured.arcs import Heads
from l2kd_ray.distill.structured.structure import Parts


@dataclass(frozen=True, eq=False)
class SecondOrder:
    """score(y) = sum of the scores of y's arcs, of two arcs of one head, of two arcs in a row.

    arcs [B, n, n+1] as (dependent, head); siblings [B, n, n+1, n] as (dependent, head, sibling),
    the same in either order of the two words; grandparents [B, n, n+1, n+1] as (dependent, head,
    the head's head), not read where the head is the root. Words and heads as in `Arcs`.
    """

    arcs: Tensor
    siblings: Tensor
    grandparents: Tensor
    lengths: Tensor
    rounds: int = 3

    def marginals(self) -> Parts:
        """(Q(arc) [B, n, n+1],) after the rounds; approximate, differentiable."""
        return self.mean_field().marginals()

    def mean_field(self) -> Heads:
        """The distribution after the rounds, by which a parser is trained, tempered and decoded.

        A round sets log Q_i(h) to arcs(i, h) + sum_k Q_k(h) siblings(i, h, k)
        + sum_g Q_h(g) grandparents(i, h, g) + sum_k Q_k(i) grandparents(k, i, h), up to a constant.
        """
        heads = Heads(self.arcs, self.lengths)
        siblings, grandparents = self._read(heads.legal)
        for _ in range(self.rounds):
            q = heads.marginals()[0]
            beside = torch.einsum("bkh,bihk->bih", q, siblings)
            above = torch.einsum("bhg,bihg->bih", q, grandparents)
            below = torch.einsum("bki,bkih->bih", q[..., 1:], grandparents)
            heads = Heads(self.arcs + beside + F.pad(above, (1, 0)) + below, self.lengths)
        return heads

    def _read(self, legal: Tensor) -> tuple[Tensor, Tensor]:
        """siblings [B, n, n+1, n] and grandparents [B, n, n, n+1] (the head a word), 0 elsewhere.

        Excluded are a word as its own sibling, and as the head of its own head.
        """
        n = legal.shape[1]
        word = torch.eye(n, dtype=torch.bool, device=legal.device)
        others = legal[..., None] & legal.transpose(1, 2)[:, None] & ~word[:, None]
        chain = legal[:, :, 1:, None] & legal[:, None]
        chain = chain & ~F.pad(word, (1, 0))[:, None]
        siblings = self.siblings.masked_fill(~others, 0.0)
        return siblings, self.grandparents[:, :, 1:].masked_fill(~chain, 0.0)
