"""Parsing heads: biaffine arcs and relations, second-order arcs, parsing as labelling.

They share a task's labels, `RelativeLabels`: the labelling head predicts these, the others their
relations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from l2kd_ray.distill.structured.arcs import Heads
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.labelled import FirstOrder, LabelledArcs, RelativeLabels, relative
from l2kd_ray.distill.structured.projections import offset_heads
from l2kd_ray.distill.structured.second_order import SecondOrder
from l2kd_ray.distill.structured.token import IndependentTokens
from l2kd_ray.distill.structured.trees import NonProjective
from l2kd_ray.families.structures.model.tagger import Biaffine, LabelRows, label_ids, projection

DISTRIBUTIONS: Mapping[str, Callable[[Tensor, Tensor], FirstOrder]] = {
    "biaffine": Heads,
    "tree": NonProjective,
    "projective": Projective,
}


class ArcHead(nn.Module):
    """A biaffine parser (Dozat and Manning 2017): scores of arcs, and of relations given an arc.

    `distribution` turns the arcs' scores into a distribution over heads or trees.
    """

    def __init__(
        self,
        width: int,
        labels: Sequence[str],
        arc_size: int,
        relation_size: int,
        dropout: float,
        distribution: Callable[[Tensor, Tensor], FirstOrder] = Heads,
    ) -> None:
        super().__init__()
        self.relations = RelativeLabels(tuple(labels)).relations
        self.root = nn.Parameter(torch.zeros(width))
        self.arcs = Biaffine(width, arc_size, 1, dropout)
        self.relation = Biaffine(width, relation_size, len(self.relations), dropout)
        self.distribution = distribution

    def forward(self, hidden: Tensor, lengths: Tensor) -> LabelledArcs:
        heads = torch.cat([self.root.expand(len(hidden), 1, -1), hidden], 1)  # [B, n+1, d]
        scores = self.arcs(hidden, heads)[..., 0]
        arcs = self._distribution(scores, hidden, heads, lengths)
        return LabelledArcs(arcs, self.relation(hidden, heads))

    def _distribution(
        self, scores: Tensor, hidden: Tensor, heads: Tensor, lengths: Tensor
    ) -> FirstOrder | SecondOrder:
        return self.distribution(scores, lengths)

    def encode(self, labels: LabelRows, length: int) -> Tensor:
        """[B, n, 2]: the gold (head, relation) of each word."""
        relations = [[label.partition(":")[2] for label in row] for row in labels]
        heads = torch.zeros(len(labels), length, dtype=torch.long)
        for b, row in enumerate(labels):
            for t, label in enumerate(row):
                heads[b, t] = int(label.partition(":")[0])
        return torch.stack([heads, label_ids(relations, self.relations, length)], -1)

    def decode(self, structure: LabelledArcs) -> list[list[str]]:
        best, lengths = structure.argmax().tolist(), structure.lengths.tolist()
        return [
            [f"{head}:{self.relations[relation]}" for head, relation in row[:n]]
            for row, n in zip(best, lengths, strict=True)
        ]


class SecondOrderHead(ArcHead):
    """A biaffine parser with scores of siblings and grandparents (Wang and Tu 2020).

    They are decomposed trilinear functions: the sum over `rank` of products of three vectors.
    """

    def __init__(
        self,
        width: int,
        labels: Sequence[str],
        arc_size: int,
        relation_size: int,
        dropout: float,
        rank: int,
    ) -> None:
        super().__init__(width, labels, arc_size, relation_size, dropout)
        roles = ("sibling", "shared_head", "dependent", "head", "grandhead")
        self.roles = nn.ModuleDict({role: projection(width, rank, dropout) for role in roles})
        # Keeps the variance of a sum over `rank` products independent of `rank`.
        self.scale = rank**-0.5

    def _distribution(
        self, scores: Tensor, hidden: Tensor, heads: Tensor, lengths: Tensor
    ) -> SecondOrder:
        # One projection for both siblings: their order does not matter.
        sibling = self.roles["sibling"](hidden)
        shared = self.roles["shared_head"](heads)
        dependent, head = self.roles["dependent"](hidden), self.roles["head"](heads)
        grandhead = self.roles["grandhead"](heads)
        siblings = torch.einsum("bir,bhr,bkr->bihk", sibling, shared, sibling) * self.scale
        above = torch.einsum("bir,bhr,bgr->bihg", dependent, head, grandhead) * self.scale
        return SecondOrder(scores, siblings, above, lengths)


class LabellingHead(nn.Module):
    """A softmax over relative labels for each word."""

    def __init__(self, width: int, labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = RelativeLabels(tuple(labels))
        self.emissions = nn.Linear(width, len(labels))

    def forward(self, hidden: Tensor, lengths: Tensor) -> IndependentTokens:
        return IndependentTokens(self.emissions(hidden), lengths)

    def encode(self, labels: LabelRows, length: int) -> Tensor:
        return label_ids([relative(row) for row in labels], self.labels.names, length)

    def decode(self, structure: IndependentTokens) -> list[list[str]]:
        """The best label of each word whose head is inside the sentence, tree or not."""
        scores, lengths = structure.emissions.detach(), structure.lengths
        offsets = self.labels.offsets.to(lengths.device)
        heads = offset_heads(offsets, lengths, scores.shape[1])
        best = scores.masked_fill(heads < 0, -torch.inf).argmax(-1)
        chosen = heads.gather(-1, best[..., None])[..., 0].clamp(min=0).tolist()
        relations = [name.partition(":")[2] for name in self.labels.names]
        return [
            [f"{head}:{relations[label]}" for head, label in zip(row[:n], labels, strict=False)]
            for row, labels, n in zip(chosen, best.tolist(), lengths.tolist(), strict=True)
        ]
