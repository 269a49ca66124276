"""Tagging heads: token softmax, linear-chain CRF, span scorer.

A head computes a structure from hidden states, encodes gold labels for the structure's `score`, and
decodes the structure to labels. Heads of the same labels order them alike, so that teacher and
student agree: BIOES tags in the order of `bioes.tag_names`, others sorted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from l2kd_ray.distill.structured.bioes import tag_names
from l2kd_ray.distill.structured.chain import Chain
from l2kd_ray.distill.structured.spans import Spans
from l2kd_ray.distill.structured.token import IndependentTokens
from l2kd_ray.tasks import tagging

LabelRows = Sequence[Sequence[str]]
"""The labels of the words of each sentence; none for a sentence without gold labels."""


def ordered_tags(labels: Sequence[str]) -> list[str]:
    """The tags of a task in order; BIOES tags are completed for all of their types."""
    if any(label.startswith(("E-", "S-")) for label in labels):
        return tag_names(span_types(labels))
    return sorted(set(labels))


def span_types(labels: Sequence[str]) -> list[str]:
    return sorted({label.partition("-")[2] for label in labels} - {""})


def label_ids(labels: LabelRows, known: Sequence[str], length: int) -> Tensor:
    """[B, length]: index in `known` of each label; 0 on padding.

    Raises: ValueError: a label that is not known.
    """
    ids = {label: number for number, label in enumerate(known)}
    gold = torch.zeros(len(labels), length, dtype=torch.long)
    for b, row in enumerate(labels):
        for t, label in enumerate(row):
            if label not in ids:
                raise ValueError(
                    f"the label {label!r} is none of the {len(known)} that the model was built "
                    f"for ({', '.join(known[:5])} ...)"
                )
            gold[b, t] = ids[label]
    return gold


class TokenHead(nn.Module):
    """A softmax over labels for each word."""

    def __init__(self, width: int, labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = ordered_tags(labels)
        self.emissions = nn.Linear(width, len(self.labels))

    def forward(self, hidden: Tensor, lengths: Tensor) -> IndependentTokens | Chain:
        return IndependentTokens(self.emissions(hidden), lengths)

    def encode(self, labels: LabelRows, length: int) -> Tensor:
        return label_ids(labels, self.labels, length)

    def decode(self, structure: IndependentTokens | Chain) -> list[list[str]]:
        best, lengths = structure.argmax().tolist(), structure.lengths.tolist()
        return [
            [self.labels[label] for label in row[:n]] for row, n in zip(best, lengths, strict=True)
        ]


class ChainHead(TokenHead):
    """A linear-chain CRF in which all transitions are possible; illegal ones are learned.

    So the cross-entropy with a teacher without transitions (case 3) is finite.
    """

    def __init__(self, width: int, labels: Sequence[str]) -> None:
        super().__init__(width, labels)
        L = len(self.labels)
        self.transitions = nn.Parameter(torch.zeros(L, L))
        self.start, self.end = nn.Parameter(torch.zeros(L)), nn.Parameter(torch.zeros(L))

    def forward(self, hidden: Tensor, lengths: Tensor) -> Chain:
        # Copies: DDP counts a parameter as unused if the forward pass returns it as it is.
        transitions, start, end = (s.clone() for s in (self.transitions, self.start, self.end))
        return Chain(self.emissions(hidden), transitions, start, end, lengths)


class Biaffine(nn.Module):
    """Biaffine scores [B, n, m, out] of [B, n, d] and [B, m, d] (Dozat and Manning 2017).

    Each input passes through a layer of its own first.
    """

    def __init__(self, width: int, size: int, out: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = projection(width, size, dropout), projection(width, size, dropout)
        self.weight = nn.Parameter(torch.empty(out, size + 1, size + 1))
        nn.init.normal_(self.weight, std=1 / size)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        # The appended 1 adds linear terms and a bias to the bilinear form.
        one = nn.functional.pad(self.first(first), (0, 1), value=1.0)
        other = nn.functional.pad(self.second(second), (0, 1), value=1.0)
        return torch.einsum("bxi,oij,byj->bxyo", one, self.weight, other)


def projection(width: int, size: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(width, size), nn.LeakyReLU(0.1), nn.Dropout(dropout))


class SpanHead(nn.Module):
    """A score for each span and type minus the score of no span (Yu et al. 2020)."""

    def __init__(self, width: int, labels: Sequence[str], size: int, dropout: float) -> None:
        super().__init__()
        self.types = span_types(labels)
        if not self.types:
            raise ValueError(
                f"spans need tags with types such as B-person, not {', '.join(labels)}"
            )
        self.biaffine = Biaffine(width, size, len(self.types) + 1, dropout)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Spans:
        scores = self.biaffine(hidden, hidden)
        return Spans(scores[..., 1:] - scores[..., :1], lengths)

    def encode(self, labels: LabelRows, length: int) -> Tensor:
        """[B, n, n]: types of the gold spans, -1 elsewhere."""
        gold = torch.full((len(labels), length, length), -1)
        for b, row in enumerate(labels):
            for first, last, kind in tagging.spans(row):
                gold[b, first, last] = label_ids([[kind]], self.types, 1)[0, 0]
        return gold

    def decode(self, structure: Spans) -> list[list[str]]:
        best, result = structure.argmax().cpu(), []
        for spans, n in zip(best, structure.lengths.tolist(), strict=True):
            positions = (spans >= 0).nonzero().tolist()
            named = [(first, last, self.types[spans[first, last]]) for first, last in positions]
            result.append(tagging.tags(named, n, "bioes"))
        return result
