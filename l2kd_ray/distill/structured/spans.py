"""Sets of non-overlapping labelled spans: NER as span scoring.

The dynamic programme is a sum over segmentations (Sarawagi and Cohen 2004) in which the words
between spans score 0, since a span's score is its own minus the one of 'no span' (Yu et al. 2020):

    alpha_0 = 0; alpha_{j+1} = lse(alpha_j, {alpha_i + s(i, j, r)});    log Z = alpha_n
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from l2kd_ray.distill.structured.structure import (
    Parts,
    valid_positions,
    wants_gradient,
    with_gradient,
)


class SpanMessages(NamedTuple):
    """Log messages of the dynamic programme, float64."""

    before: Tensor  # [B, n]: alpha_t, all segmentations of the tokens before t
    after: Tensor  # [B, n]: beta_{t+1}, all segmentations of the tokens after t
    log_z: Tensor  # [B]


@dataclass(frozen=True, eq=False)
class Spans:
    """score(y) = sum of scores[i, j, r] over the spans (i, j, r) of y; i, j inclusive.

    scores [B, n, n, R], lengths [B]; i > j and padding are not read. A structure: the spans'
    labels [B, n, n], -1 where there is none.
    """

    scores: Tensor
    lengths: Tensor

    @property
    def valid(self) -> Tensor:
        """[B, n]: True on tokens."""
        return valid_positions(self.lengths, self.scores.shape[1])

    def potentials(self) -> Parts:
        return (self.scores,)

    def log_partition(self) -> Tensor:
        """[B]: log Z; its gradient is the marginals, in closed form."""
        needed = wants_gradient((self.scores,))
        with torch.no_grad():
            scores = self._clean()
            messages = self._messages(scores)
            marginals = self._marginals(scores, messages) if needed else scores
        log_z = messages.log_z.to(self.scores.dtype)
        return with_gradient(log_z, (self.scores,), (marginals,))

    @torch.no_grad()
    def marginals(self) -> Parts:
        """(w(i, j, r) [B, n, n, R],), closed form; constants."""
        scores = self._clean()
        return (self._marginals(scores, self._messages(scores)),)

    @torch.no_grad()
    def outside_marginals(self) -> Tensor:
        """[B, n]: P(the token is in no span), 0 on padding; constants."""
        messages = self._messages(self._clean())
        log = messages.before + messages.after - messages.log_z[:, None]
        return log.masked_fill(~self.valid, -torch.inf).exp().to(self.scores.dtype)

    def score(self, gold: Tensor) -> Tensor:
        """[B]: score of the spans gold [B, n, n]."""
        chosen = self.scores.gather(-1, gold.clamp(min=0)[..., None])[..., 0]
        return chosen.masked_fill(gold < 0, 0.0).flatten(1).sum(1)

    @torch.no_grad()
    def argmax(self) -> Tensor:
        """[B, n, n]: labels of the best set of spans, -1 where there is none."""
        scores, labels = self._clean().max(-1)
        B, n, _ = scores.shape
        labels = torch.where(self._words() & (scores <= 0), -1, labels)
        segments = torch.where(self._words(), scores.clamp(min=0), scores)
        alpha, origins = [scores.new_zeros(B)], []
        for j in range(n):
            best, origin = (torch.stack(alpha, 1) + segments[:, : j + 1, j]).max(1)
            alpha.append(best)
            origins.append(origin)
        spans, end = torch.full_like(labels, -1), torch.full_like(origins[0], n)
        rows = torch.arange(B, device=scores.device)
        for j in range(n - 1, -1, -1):
            here, i = end == j + 1, origins[j]
            spans[rows, i, j] = torch.where(here, labels[rows, i, j], -1)
            end = torch.where(here, i, end)
        return spans

    def temper(self, temperature: float) -> Self:
        return replace(self, scores=self.scores / temperature)

    def _clean(self) -> Tensor:
        """The scores, with -inf on everything that is not a span of the sentence."""
        n = self.scores.shape[1]
        legal = torch.ones(n, n, dtype=torch.bool, device=self.scores.device).triu()
        legal = legal & self.valid[:, None]
        return self.scores.masked_fill(~legal[..., None], -torch.inf)

    def _words(self) -> Tensor:
        """[n, n]: True on segments of one token, which may also be outside all spans."""
        return torch.eye(self.scores.shape[1], dtype=torch.bool, device=self.scores.device)

    def _messages(self, scores: Tensor) -> SpanMessages:
        """The log messages of both directions, computed by one loop over positions.

        beta is alpha of the flipped sentence. Padding counts as words outside all spans, which
        score 0.
        """
        segments = scores.logsumexp(-1).double()
        B, n, _ = segments.shape
        segments = torch.where(self._words(), segments.logaddexp(segments.new_zeros(())), segments)
        flipped = segments.flip(1, 2).transpose(1, 2)
        by_end = torch.stack([segments, flipped]).permute(3, 0, 1, 2).contiguous()
        alpha = segments.new_zeros(2, B, n + 1)
        for j in range(n):
            alpha[..., j + 1] = (alpha[..., : j + 1] + by_end[j, ..., : j + 1]).logsumexp(-1)
        return SpanMessages(alpha[0, :, :n], alpha[1].flip(-1)[:, 1:], alpha[0, :, n])

    def _marginals(self, scores: Tensor, messages: SpanMessages) -> Tensor:
        before, after, log_z = messages
        around = before[:, :, None] + after[:, None, :] - log_z[:, None, None]
        return (scores + around.to(scores.dtype)[..., None]).exp_()
