"""Dependency arcs with relations, and relative labels, which spell an arc at its dependent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from l2kd_ray.distill.structured.arcs import Heads
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.second_order import SecondOrder
from l2kd_ray.distill.structured.spanning_tree import best_trees
from l2kd_ray.distill.structured.structure import Parts
from l2kd_ray.distill.structured.trees import NonProjective

FirstOrder = Heads | NonProjective | Projective


@dataclass(frozen=True, eq=False)
class LabelledArcs:
    """A parser: P(y) = P(heads) * prod_i softmax(relations given i's arc)[relation of i].

    relations [B, n, n+1, R]: scores of the relation, given (dependent, head). Substructures: arcs
    with a relation [B, n, n+1, R]. A structure: (head, relation) [B, n, 2].
    """

    arcs: FirstOrder | SecondOrder
    relations: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.arcs.lengths

    @property
    def first_order(self) -> FirstOrder:
        """The distribution of heads; for second-order arcs by mean field, computed at each call."""
        return self.arcs.mean_field() if isinstance(self.arcs, SecondOrder) else self.arcs

    def potentials(self) -> Parts:
        return (self.first_order.potentials()[0][..., None] + self.relations.log_softmax(-1),)

    def log_partition(self) -> Tensor:
        """[B]: log Z of the heads, since relations are normalised."""
        return self.first_order.log_partition()

    def marginals(self) -> Parts:
        """(P(arc) P(relation | arc) [B, n, n+1, R],)."""
        return (self.arcs.marginals()[0][..., None] * self.relations.softmax(-1),)

    def score(self, gold: Tensor) -> Tensor:
        """[B]: score of the (head, relation) gold [B, n, 2]."""
        heads, arcs = gold[..., 0].clamp(min=0), self.first_order
        log = self._given(heads).log_softmax(-1)
        chosen = log.gather(-1, gold[..., 1:].clamp(min=0))[..., 0]
        return arcs.score(heads) + chosen.masked_fill(~arcs.valid, 0.0).sum(1)

    @torch.no_grad()
    def argmax(self) -> Tensor:
        """[B, n, 2]: heads of the best tree of one root, each with its best relation."""
        arcs = self.first_order
        if isinstance(arcs, Heads):  # trained without a tree constraint, decoded with one
            heads = best_trees(arcs.potentials()[0], arcs.lengths)
        else:
            heads = arcs.argmax()
        return torch.stack([heads, self._given(heads).argmax(-1) * arcs.valid], -1)

    def temper(self, temperature: float) -> Self:
        """The heads and relations proportional to P(y) ** (1 / temperature).

        An arc with a sure relation keeps more of its mass than one whose relations are many: the
        powers of P(relation | arc) sum to another number for each arc, which its score takes up.
        """
        relations = self.relations.log_softmax(-1) / temperature
        arcs = self.first_order.temper(temperature)
        arcs = replace(arcs, scores=arcs.scores + relations.logsumexp(-1))
        return replace(self, arcs=arcs, relations=relations)

    def _given(self, heads: Tensor) -> Tensor:
        """[B, n, R]: scores of the relations, given heads [B, n]."""
        at = heads[..., None, None].expand(*heads.shape, 1, self.relations.shape[-1])
        return self.relations.gather(2, at)[:, :, 0]


@dataclass(frozen=True)
class RelativeLabels:
    """Labels for parsing as labelling (Strzyz et al. 2019): offset to the head, relation.

    "-2:det" is relation `det` to the head two words before; "0:root" is the root. The sorted
    relations of these labels are those of a parser's scores.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, parses: Iterable[Sequence[str]]) -> RelativeLabels:
        """The labels that spell parses of words such as "3:det"."""
        return cls(tuple(sorted({name for parse in parses for name in relative(parse)})))

    @cached_property
    def relations(self) -> tuple[str, ...]:
        return tuple(sorted({name.partition(":")[2] for name in self.names}))

    @cached_property
    def offsets(self) -> Tensor:
        """[L]: distance from a word to its head."""
        return torch.tensor([int(name.partition(":")[0]) for name in self.names])

    @cached_property
    def relation_ids(self) -> Tensor:
        """[L]: index in `relations` of each label's relation."""
        return torch.tensor([self.relations.index(name.partition(":")[2]) for name in self.names])


def relative(parse: Sequence[str]) -> list[str]:
    """Replace absolute heads in "head:relation" by offsets: ["2:det", ...] -> "1:det"."""
    labels = []
    for word, label in enumerate(parse, start=1):
        head, _, relation = label.partition(":")
        labels.append(f"{int(head) - word if int(head) else 0}:{relation}")
    return labels
