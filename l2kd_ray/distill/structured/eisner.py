"""Projective dependency trees with one root: Eisner's algorithm (1996), inside and outside.

Charts are indexed both by the span's first node and width and by its last node and the width
backwards, so that the sums over split points are slices of whole charts: one step per width handles
all its spans. The outside pass is the inside pass differentiated by hand. With a maximum in place
of the log-sum it marks the arcs of the best tree instead of giving the marginals.

Nodes are 0, the root, and 1 ... n; N = n + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.distill.structured.arcs import Arcs
from l2kd_ray.distill.structured.structure import Parts, wants_gradient, with_gradient


@dataclass(frozen=True, eq=False)
class Projective(Arcs):
    """P(y) over the projective trees y with one arc from the root."""

    def log_partition(self) -> Tensor:
        """[B]: log Z; its gradient is the marginals, by the outside pass."""
        needed = wants_gradient((self.scores,))
        with torch.no_grad():
            charts, log_z = self._inside(_log_sum)
            marginals = self.scores
            if needed:
                marginals = _outside(charts, self.lengths, _share).to(self.scores.dtype)
        return with_gradient(log_z.to(self.scores.dtype), (self.scores,), (marginals,))

    @torch.no_grad()
    def marginals(self) -> Parts:
        """(P(arc) [B, n, n+1],), by the outside pass; constants."""
        charts, _ = self._inside(_log_sum)
        return (_outside(charts, self.lengths, _share).to(self.scores.dtype),)

    @torch.no_grad()
    def argmax(self) -> Tensor:
        """[B, n]: heads of the best tree, 0 on padding."""
        charts, _ = self._inside(_maximum)
        return _outside(charts, self.lengths, _choice).argmax(-1)

    def _inside(self, reduce: Callable[[Tensor], Tensor]) -> tuple[Charts, Tensor]:
        """The charts, and log Z (or the best score) [B], float64."""
        scores = F.pad(self.potentials()[0].double(), (0, 0, 1, 0), value=-torch.inf)
        B, N, _ = scores.shape  # [B, N, N] as (dependent, head): the root has no head
        c = Charts(*scores.new_full((7, N, B, N), -torch.inf))
        c.right[0] = c.left[0] = c.right_by_last[-1] = c.left_by_last[-1] = 0.0
        for w in range(1, N):
            first, last = (w, slice(None), slice(N - w)), (-1 - w, slice(None), slice(w, N))
            c.core[first] = core = reduce(_splits(c.right, c.left_by_last, w))
            c.open_right[first] = core + scores.diagonal(-w, 1, 2)
            c.open_left_by_last[last] = core + scores.diagonal(w, 1, 2)
            c.left[first] = reduce(_splits(c.left, c.open_left_by_last[:-1], w))
            c.right[first] = reduce(_splits(c.open_right[1:], c.right_by_last, w))
            c.right[w, :, 0].masked_fill_(self.lengths != w, -torch.inf)  # one arc from the root
            c.left_by_last[last], c.right_by_last[last] = c.left[first], c.right[first]
        return c, c.right[self.lengths, torch.arange(B, device=scores.device), 0]


class Charts(NamedTuple):
    """Items over spans i ... i + width, [N, B, N].

    Indices are (width, sentence, i), or `by_last` (N - 1 - width, sentence, i + width). The head
    of `right` is the first node, of `left` the last; `open` items still lack one side of the
    dependent at their other end, `core` the arc between the ends.
    """

    right: Tensor
    right_by_last: Tensor
    left: Tensor
    left_by_last: Tensor
    open_right: Tensor
    open_left_by_last: Tensor
    core: Tensor


def _splits(first: Tensor, by_last: Tensor, w: int) -> Tensor:
    """[w, B, N - w]: for spans of width w, the scores of their w splits into two items."""
    N = first.shape[-1]
    return first[:w, :, : N - w] + by_last[-w:, :, w:]


def _give(shares: Tensor, first: Tensor, by_last: Tensor) -> None:
    """Add shares [w, B, N - w] to the entries of the two charts that `_splits` reads."""
    w, _, spans = shares.shape
    first[:w, :, :spans] += shares
    by_last[-w:, :, w:] += shares


def _outside(charts: Charts, lengths: Tensor, weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """[B, n, N]: d log Z / d scores, where `weigh` is the derivative of the reduction."""
    c, g = charts, Charts(*(torch.zeros_like(chart) for chart in charts))
    N, B, _ = c.right.shape
    arcs = c.right.new_zeros(B, N, N)
    g.right[lengths, torch.arange(B, device=lengths.device), 0] = 1.0
    for w in range(N - 1, 0, -1):
        first, last = (w, slice(None), slice(N - w)), (-1 - w, slice(None), slice(w, N))
        right = g.right[first] + g.right_by_last[last]
        shares = weigh(_splits(c.open_right[1:], c.right_by_last, w), c.right[first])
        _give(shares.mul_(right), g.open_right[1:], g.right_by_last)
        left = g.left[first] + g.left_by_last[last]
        shares = weigh(_splits(c.left, c.open_left_by_last[:-1], w), c.left[first])
        _give(shares.mul_(left), g.left, g.open_left_by_last[:-1])
        to_right, to_left = g.open_right[first], g.open_left_by_last[last]
        arcs.diagonal(-w, 1, 2).copy_(to_right)
        arcs.diagonal(w, 1, 2).copy_(to_left)
        shares = weigh(_splits(c.right, c.left_by_last, w), c.core[first])
        _give(shares.mul_(to_right + to_left), g.right, g.left_by_last)
    return arcs[:, 1:]


def _log_sum(terms: Tensor) -> Tensor:
    return terms.logsumexp(0)


def _maximum(terms: Tensor) -> Tensor:
    return terms.amax(0)


def _share(terms: Tensor, total: Tensor) -> Tensor:
    """The gradient of the log-sum: a softmax over splits, 0 where no split is possible."""
    return (terms - total.masked_fill(total == -torch.inf, torch.inf)).exp_()


def _choice(terms: Tensor, total: Tensor) -> Tensor:
    """The gradient of the maximum: 1 at one of the best splits."""
    del total
    return F.one_hot(terms.argmax(0), len(terms)).movedim(-1, 0).to(terms.dtype)
