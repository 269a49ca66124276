"""Linear-chain CRF: forward-backward in closed form, n-best Viterbi (Lafferty et al. 2001).

Forward and backward messages run as one loop over positions, since the backward messages are the
forward messages of the flipped sentence. A step is a matrix product with the largest message
factored out. Where that could lose terms in float64, which is checked, the loop runs again in log
space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from l2kd_ray.distill.structured.structure import (
    at_end,
    logsumexp,
    valid_positions,
    wants_gradient,
    with_gradient,
)
from l2kd_ray.distill.structured.token import IndependentTokens

# Sums this far (in nats) below the largest possible may have lost terms: float64 ends at 708.
UNDERFLOW = 650.0


class ChainParts(NamedTuple):
    """A chain's scores, or their marginals, summed over positions where scores are shared.

    Label pairs have one score at every position, so their expected counts [B, L, L] give the same
    <mu, s> as the pair marginals [B, n-1, L, L], with n-1 times less to keep and multiply.
    """

    tokens: Tensor  # [B, n, L]
    transitions: Tensor  # [B, L, L] as (from, to); scores: [L, L]
    first: Tensor  # [B, L]; scores: [L]
    last: Tensor  # [B, L]; scores: [L]


class PairMarginals(NamedTuple):
    """Marginals of the paper's substructures: label pairs, start, end; 0 on padding."""

    pairs: Tensor  # [B, n-1, L, L]: P(y_t = i, y_t+1 = j)
    first: Tensor  # [B, L]
    last: Tensor  # [B, L]

    def collapse(self) -> ChainParts:
        """The pairs' sums over positions, and over their first labels."""
        tokens = torch.cat([self.first[:, None], self.pairs.sum(-2)], 1)
        return ChainParts(tokens, self.pairs.sum(1), self.first, self.last)


class ChainMessages(NamedTuple):
    """Log messages of forward-backward, float64."""

    before: Tensor  # [B, n, L]: paths up to (t, label), without its emission
    upto: Tensor  # [B, n, L]: the same with its emission
    after: Tensor  # [B, n, L]: paths from (t, label) on, with its emission
    log_z: Tensor  # [B]


@dataclass(frozen=True, eq=False)
class Chain:
    """score(y) = start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_t, y_t+1] + end[y_n].

    emissions [B, n, L], transitions [L, L] as (from, to), start [L], end [L], lengths [B].
    Substructures: labels, label pairs, first and last label. A structure: labels [B, n].
    """

    emissions: Tensor
    transitions: Tensor
    start: Tensor
    end: Tensor
    lengths: Tensor

    @property
    def valid(self) -> Tensor:
        """[B, n]: True on tokens."""
        return valid_positions(self.lengths, self.emissions.shape[1])

    def potentials(self) -> ChainParts:
        return ChainParts(self.emissions, self.transitions, self.start, self.end)

    def log_partition(self) -> Tensor:
        """[B]: log Z; its gradient (the marginals) is computed with it, in closed form."""
        scores = self.potentials()
        needed = wants_gradient(scores)
        with torch.no_grad():
            messages = self._messages()
            marginals = self._collapsed(messages) if needed else scores
        return with_gradient(messages.log_z.to(self.emissions.dtype), scores, marginals)

    @torch.no_grad()
    def marginals(self) -> ChainParts:
        """The marginals in closed form; constants (`log_token_marginals` is differentiable)."""
        return self._collapsed(self._messages())

    @torch.no_grad()
    def pair_marginals(self) -> PairMarginals:
        """The marginals of label pairs in closed form; constants.

        They take n - 1 times the memory of `marginals`.
        """
        messages = self._messages()
        tokens = self._token_marginals(messages)
        pairs = self._pairs(messages).to(tokens.dtype)
        return PairMarginals(pairs, tokens[:, 0], at_end(tokens, self.lengths))

    def log_token_marginals(self) -> Tensor:
        """[B, n, L]: log P(y_t = label), differentiable, 0 on padding; what posterior KD fits."""
        messages = self._messages(differentiable=True)
        log = messages.before + messages.after - messages.log_z[:, None, None]
        return log.masked_fill(~self.valid[..., None], 0.0).to(self.emissions.dtype)

    def score(self, gold: Tensor) -> Tensor:
        """[B]: score of the labels gold [B, n]."""
        gold = gold.clamp(min=0)
        steps = self.transitions[gold[:, :-1], gold[:, 1:]].masked_fill(~self.valid[:, 1:], 0.0)
        inside = self.emission_softmax().score(gold) + steps.sum(1)
        return inside + self.start[gold[:, 0]] + self.end[at_end(gold, self.lengths)]

    def argmax(self) -> Tensor:
        """[B, n]: the best labels (Viterbi), 0 on padding."""
        return self.n_best(1)[0][:, 0]

    def temper(self, temperature: float) -> Self:
        tokens, transitions, start, end = (score / temperature for score in self.potentials())
        return replace(self, emissions=tokens, transitions=transitions, start=start, end=end)

    def emission_softmax(self) -> IndependentTokens:
        """The chain without its transitions: what token KD compares."""
        return IndependentTokens(self.emissions, self.lengths)

    @torch.no_grad()
    def n_best(self, k: int) -> tuple[Tensor, Tensor]:
        """The k best label sequences [B, k, n] and their scores [B, k], best first.

        A sentence with fewer sequences than k has scores of -inf at the end.
        """
        valid, n = self.valid, self.emissions.shape[1]
        emissions = self.emissions.masked_fill(~valid[..., None], 0.0)
        best = _first_of(self.start + emissions[:, 0], k)
        # On padding every hypothesis keeps its index, so the path is carried unchanged to the end.
        stay = torch.arange(best[0].numel(), device=best.device).view_as(best[0])
        origins = []
        for t in range(1, n):
            reached = best[:, None] + self.transitions.T[..., None]  # [B, to, from, k]
            values, origin = reached.flatten(2).topk(k)
            now = valid[:, t, None, None]
            best = torch.where(now, values + emissions[:, t, :, None], best)
            origins.append(torch.where(now, origin, stay))
        scores, at = (best + self.end[:, None]).flatten(1).topk(k)
        path = [at]
        for origin in reversed(origins):
            path.append(origin.flatten(1).gather(1, path[-1]))
        return torch.stack(path[::-1], -1) // k * valid[:, None], scores

    def _messages(self, differentiable: bool = False) -> ChainMessages:
        valid = self.valid
        emissions = self.emissions.double().masked_fill(~valid[..., None], 0.0)
        # [n, 2, B, L]: the sentence, and beside it the same one flipped
        both = torch.stack([emissions, emissions.flip(1)]).movedim(2, 0)
        unpadded = torch.stack([valid[:, 1:], valid.flip(1)[:, :-1]]).movedim(2, 0)[..., None]
        transitions = torch.stack([self.transitions, self.transitions.T]).double()
        ends = torch.stack([self.start, self.end]).double()[:, None]
        before = None
        if not differentiable:
            before = _scale_space(both, unpadded, transitions, ends)
        if before is None:
            before = _log_space(both, unpadded, transitions, ends)
        upto = before + both
        log_z = logsumexp(upto[-1, 0] + ends[1], -1)
        forward, backward = before[:, 0].movedim(0, 1), upto[:, 1].flip(0).movedim(0, 1)
        return ChainMessages(forward, upto[:, 0].movedim(0, 1), backward, log_z)

    def _token_marginals(self, messages: ChainMessages) -> Tensor:
        log = messages.before + messages.after - messages.log_z[:, None, None]
        tokens = log.masked_fill(~self.valid[..., None], -torch.inf).exp()
        return tokens.to(self.emissions.dtype)

    def _pairs(self, messages: ChainMessages) -> Tensor:
        """[B, n-1, L, L]: the marginals of label pairs in float64."""
        left = (messages.upto - messages.log_z[:, None, None])[:, :-1, :, None]
        right = messages.after[:, 1:, None, :]
        log = left + self.transitions + right
        return log.masked_fill(~self.valid[:, 1:, None, None], -torch.inf).exp()

    def _collapsed(self, messages: ChainMessages) -> ChainParts:
        tokens = self._token_marginals(messages)
        counts = self._transition_counts(messages).to(tokens.dtype)
        return ChainParts(tokens, counts, tokens[:, 0], at_end(tokens, self.lengths))

    def _transition_counts(self, messages: ChainMessages) -> Tensor:
        """[B, L, L]: sum_t P(y_t = i, y_t+1 = j) without ever holding the pairs."""
        left, right = _scaled(messages.upto[:, :-1]), _scaled(messages.after[:, 1:])
        factors = _scaled(self.transitions.double().flatten()).view_as(self.transitions)
        mass = ((left @ factors) * right).sum(-1)
        padding = ~self.valid[:, 1:]
        # A product this small may have lost terms: build the pairs after all, in log space.
        if bool((mass.masked_fill(padding, 1.0).log() < -UNDERFLOW).any()):
            return self._pairs(messages).sum(1)
        share = left / mass.masked_fill(padding, torch.inf)[..., None]
        return factors * (share.transpose(1, 2) @ right)


def _scaled(logs: Tensor) -> Tensor:
    """exp(logs minus their maximum over the last dimension)."""
    return (logs - _top(logs)).exp()


def _top(logs: Tensor) -> Tensor:
    # A maximum of -inf (no path) would give nan when it is subtracted.
    return logs.amax(-1, keepdim=True).clamp(min=torch.finfo(logs.dtype).min)


def _log_space(emissions: Tensor, unpadded: Tensor, transitions: Tensor, ends: Tensor) -> Tensor:
    """[n, 2, B, L]: messages before each emission, for any finite scores; differentiable."""
    return _loop(
        emissions, unpadded, ends, lambda m: logsumexp(m[..., None] + transitions[:, None], -2)
    )


def _scale_space(
    emissions: Tensor, unpadded: Tensor, transitions: Tensor, ends: Tensor
) -> Tensor | None:
    """The messages of `_log_space` by matrix products: much faster; None if terms were lost."""
    scale = transitions.amax().clamp(min=torch.finfo(transitions.dtype).min)
    factors = (transitions - scale).exp()

    def step(upto: Tensor) -> Tensor:
        top = _top(upto)
        return torch.bmm((upto - top).exp_(), factors).log_().add_(top + scale)

    before = _loop(emissions, unpadded, ends, step)
    upto, after = before[:-1] + emissions[:-1], before[1:]
    thin = (after < _top(upto) + scale - UNDERFLOW) & unpadded
    if bool(thin.any()):  # no path at all, or terms lost?
        paths = torch.matmul(upto.isfinite().double(), transitions.isfinite().double())
        if bool((thin & (paths > 0)).any()):
            return None
    return before


def _loop(
    emissions: Tensor, unpadded: Tensor, ends: Tensor, step: Callable[[Tensor], Tensor]
) -> Tensor:
    before = [ends.expand_as(emissions[0])]
    for emission, now in zip(emissions[:-1], unpadded, strict=True):
        upto = before[-1] + emission
        before.append(torch.where(now, step(upto), upto))
    return torch.stack(before)


def _first_of(scores: Tensor, k: int) -> Tensor:
    """[B, L, k]: the scores [B, L] as the first of k hypotheses, -inf for the others."""
    nothing = scores.new_full((*scores.shape, k - 1), -torch.inf)
    return torch.cat([scores[..., None], nothing], -1)
