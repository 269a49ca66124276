"""Teachers of another tokenizer: two tokenisations of one text, compared where they meet.

Between two byte offsets at which both have a boundary stands a group of the student's tokens and
one of the teacher's. A group's distribution is that over its first token, times the probability of
its other tokens as they stand in the text ("observed" in TRL's GOLD). Entries of two vocabularies
have no pairs, so sorted ones are compared: Universal Logit Distillation (Boizard et al. 2024,
arXiv 2402.12030).

Shapes: C positions of the student, C' of the teacher, G groups, V and V' vocabularies.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from l2kd_ray.distill.divergences import sorted_distance


@dataclass(frozen=True)
class Groups:
    """Where each group begins among the student's positions and among the teacher's.

    own, theirs [G + 1]: first positions, which rise, and at last the number of positions;
    target [C']: the teacher's tokens.
    """

    own: Sequence[int]
    theirs: Sequence[int]
    target: Tensor

    def parts(self, size: int) -> Iterator[tuple[slice, slice, Groups]]:
        """Whole groups of at most `size` of the student's positions (or one longer group): the
        positions of both, and the groups counted from there."""
        begin = 0
        for end, following in zip_longest(self.own[1:], self.own[2:]):
            if following is None or following - begin > size:
                yield self._part(begin, end)
                begin = end

    def _part(self, begin: int, end: int) -> tuple[slice, slice, Groups]:
        kept = slice(bisect_left(self.own, begin), bisect_left(self.own, end) + 1)
        own, theirs = self.own[kept], self.theirs[kept]
        there = slice(theirs[0], theirs[-1])
        shifted = [place - begin for place in own], [place - there.start for place in theirs]
        return slice(begin, end), there, Groups(*shifted, self.target[there])

    def distance(
        self, student: Tensor, teacher: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """[G]: T^2 sum |sort(q) - sort(p)| of logits [C, V] and [C', V'].

        target [C]: the student's tokens. The gradient flows to the student.
        """
        q = _observed(student, target, self.own, temperature)
        p = _observed(teacher, self.target, self.theirs, temperature)
        return temperature**2 * sorted_distance(q, p)


def _observed(logits: Tensor, target: Tensor, starts: Sequence[int], temperature: float) -> Tensor:
    """[G, V]: the distribution over each group's first token, times the probability of its others.

    The product is below 1 where a group has several tokens.
    """
    log_p = (logits / temperature).log_softmax(-1)
    bounds = torch.tensor(starts, device=logits.device)
    first = bounds[:-1]
    group = torch.arange(len(first), device=logits.device).repeat_interleave(bounds.diff())
    others = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1).index_fill(0, first, 0.0)
    after = others.new_zeros(len(first)).index_add(0, group, others)
    return (log_p[first] + after.unsqueeze(-1)).exp()
