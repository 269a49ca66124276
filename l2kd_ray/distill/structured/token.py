"""Token softmax: one label per position, all positions independent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.distill.structured.structure import Parts, valid_positions


@dataclass(frozen=True, eq=False)
class IndependentTokens:
    """P(y) = prod_t softmax(emissions_t)[y_t]. emissions [B, n, L], lengths [B].

    Substructure: a label at a position [B, n, L]. A structure: labels [B, n].
    """

    emissions: Tensor
    lengths: Tensor

    @property
    def valid(self) -> Tensor:
        """[B, n]: True on tokens."""
        return valid_positions(self.lengths, self.emissions.shape[1])

    @property
    def _clean(self) -> Tensor:
        return self.emissions.masked_fill(~self.valid[..., None], 0.0)

    def potentials(self) -> Parts:
        return (self.emissions,)

    def log_partition(self) -> Tensor:
        """[B]: the sum of the positions' log-normalisers (closed form)."""
        return self._clean.logsumexp(-1).masked_fill(~self.valid, 0.0).sum(1)

    def marginals(self) -> Parts:
        """(P(label at position) [B, n, L],), closed form, differentiable."""
        return (self._clean.softmax(-1) * self.valid[..., None],)

    def score(self, gold: Tensor) -> Tensor:
        """[B]: score of the labels gold [B, n]."""
        chosen = self.emissions.gather(-1, gold.clamp(min=0)[..., None])[..., 0]
        return chosen.masked_fill(~self.valid, 0.0).sum(1)

    def argmax(self) -> Tensor:
        """[B, n]: the best labels, 0 on padding."""
        return self._clean.argmax(-1)

    @torch.no_grad()
    def n_best(self, k: int) -> tuple[Tensor, Tensor]:
        """The k best label sequences and their scores, as in `Chain.n_best`.

        A sequence among the k best only has labels that are among the k best of their position, so
        k^2 sums per position suffice.
        """
        values, labels = self._clean.topk(min(k, self.emissions.shape[-1]), dim=-1)
        values[:, :, 1:].masked_fill_(~self.valid[..., None], -torch.inf)  # padding: one label
        width = values.shape[-1]
        best, origins = values.new_zeros(len(values), 1), []
        for t in range(values.shape[1]):
            reached = (best[:, :, None] + values[:, t, None, :]).flatten(1)
            best, origin = reached.topk(min(k, reached.shape[1]), dim=-1)
            origins.append(origin)
        index, path = torch.arange(best.shape[1], device=best.device).expand_as(best), []
        for t in reversed(range(len(origins))):
            origin = origins[t].gather(1, index)
            path.append(labels[:, t].gather(1, origin % width))
            index = origin // width
        missing = k - best.shape[1]
        paths = torch.stack(path[::-1], -1) * self.valid[:, None]
        return F.pad(paths, (0, 0, 0, missing)), F.pad(best, (0, missing), value=-torch.inf)

    def temper(self, temperature: float) -> Self:
        return replace(self, emissions=self.emissions / temperature)
