"""Dependency arcs, and head selection: a softmax over heads for each word.

Words are 0 ... n-1; heads are 0 ... n, of which 0 is the root and h is word h-1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from l2kd_ray.distill.structured.structure import Parts, valid_positions


@dataclass(frozen=True, eq=False)
class Arcs:
    """Scores of single arcs: the common part of head selection and the two tree distributions.

    scores [B, n, n+1] as (dependent, head), lengths [B]; a word's arc to itself and padding are
    not read. A structure: heads [B, n].
    """

    scores: Tensor
    lengths: Tensor

    @property
    def valid(self) -> Tensor:
        """[B, n]: True on tokens."""
        return valid_positions(self.lengths, self.scores.shape[1])

    @property
    def legal(self) -> Tensor:
        """[B, n, n+1]: True on arcs within the sentence, from another word or the root."""
        n, valid = self.scores.shape[1], self.valid
        heads = valid_positions(self.lengths + 1, n + 1)
        loops = torch.ones(n, n + 1, dtype=torch.bool, device=valid.device)
        loops = loops.triu(1) & loops.tril(1)
        return valid[..., None] & heads[:, None] & ~loops

    def potentials(self) -> Parts:
        return (self.scores.masked_fill(~self.legal, -torch.inf),)

    def score(self, gold: Tensor) -> Tensor:
        """[B]: score of the heads gold [B, n]."""
        chosen = self.potentials()[0].gather(-1, gold.clamp(min=0)[..., None])[..., 0]
        return chosen.masked_fill(~self.valid, 0.0).sum(1)

    def temper(self, temperature: float) -> Self:
        return replace(self, scores=self.scores / temperature)


@dataclass(frozen=True, eq=False)
class Heads(Arcs):
    """P(y) = prod_i softmax(scores_i)[y_i]: every word has a head, cycles are possible.

    The biaffine parser's training distribution (Dozat and Manning 2017).
    """

    @property
    def _clean(self) -> Tensor:
        return self.potentials()[0].masked_fill(~self.valid[..., None], 0.0)

    def log_partition(self) -> Tensor:
        """[B]: the sum of the words' log-normalisers (closed form)."""
        return self._clean.logsumexp(-1).masked_fill(~self.valid, 0.0).sum(1)

    def marginals(self) -> Parts:
        """(P(head of word) [B, n, n+1],), closed form, differentiable."""
        return (self._clean.softmax(-1) * self.valid[..., None],)

    def argmax(self) -> Tensor:
        """[B, n]: the best head of each word, whether or not they form a tree; 0 on padding."""
        return self._clean.argmax(-1) * self.valid
