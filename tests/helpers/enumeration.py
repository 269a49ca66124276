"""Every structure of a short sentence, one by one: the reference of the structured tests.

They know nothing of the package; `test_structured_enumeration` holds them to the counts of the
textbooks.
"""

from __future__ import annotations

import itertools
from functools import cache

import torch
from torch import Tensor

F64 = torch.float64
Span = tuple[int, int, int]  # first, last, type


def draw(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=F64)


def label_sequences(n: int, labels: int) -> Tensor:
    """[K, n]: all of them."""
    return torch.tensor(list(itertools.product(range(labels), repeat=n))).view(-1, n)


def chain_scores(
    emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, y: Tensor
) -> Tensor:
    """[K]: of the sequences y [K, n]; emissions [n, L]."""
    total = start[y[:, 0]] + end[y[:, -1]]
    for t in range(y.shape[1]):
        total = total + emissions[t, y[:, t]]
        if t:
            total = total + transitions[y[:, t - 1], y[:, t]]
    return total


def token_scores(emissions: Tensor, y: Tensor) -> Tensor:
    """[K]: sums over positions; emissions [n, L], y [K, n]."""
    return sum((emissions[t, y[:, t]] for t in range(y.shape[1])), start=emissions.new_zeros(()))


@cache
def span_sets(n: int, types: int) -> tuple[tuple[Span, ...], ...]:
    """All sets of non-overlapping labelled spans of n tokens."""

    def from_token(t: int) -> list[tuple[Span, ...]]:
        if t == n:
            return [()]
        found = from_token(t + 1)
        for last in range(t, n):
            rest = from_token(last + 1)
            found += [((t, last, r), *others) for r in range(types) for others in rest]
        return found

    return tuple(from_token(0))


def spans_tensor(spans: tuple[Span, ...], n: int) -> Tensor:
    """[n, n]: the encoding of `Spans`."""
    encoded = torch.full((n, n), -1)
    for first, last, label in spans:
        encoded[first, last] = label
    return encoded


def spelled(spans: tuple[Span, ...], n: int) -> list[int]:
    """The BIOES tags of spans, by the definition of the scheme."""
    tags = [0] * n
    for first, last, label in spans:
        for t in range(first, last + 1):
            part = 3 if first == last else 0 if t == first else 2 if t == last else 1
            tags[t] = 1 + 4 * label + part
    return tags


def is_legal(tags: tuple[int, ...]) -> bool:
    """Whether BIOES tags spell whole spans."""
    inside = None
    for tag in tags:
        kind, part = ("O", None) if tag == 0 else ((tag - 1) // 4, "BIES"[(tag - 1) % 4])
        if (part in ("I", "E")) != (inside is not None) or (part in ("I", "E") and kind != inside):
            return False
        inside = kind if part in ("B", "I") else None
    return inside is None


def is_projective(heads: tuple[int, ...]) -> bool:
    def above(word: int) -> list[int]:
        return [word] if word == 0 else [word, *above(heads[word - 1])]

    return all(
        head in above(between)
        for word, head in enumerate(heads, 1)
        for between in range(min(word, head) + 1, max(word, head))
    )


@cache
def trees(n: int, single_root: bool = True, projective: bool = False) -> Tensor:
    """[K, n]: the heads of all trees; 0 is the root, h is word h - 1."""

    def reaches_root(heads: tuple[int, ...]) -> bool:
        for word in range(1, n + 1):
            at, steps = word, 0
            while at and steps <= n:
                at, steps = heads[at - 1], steps + 1
            if at:
                return False
        return True

    found = [
        heads
        for heads in itertools.product(range(n + 1), repeat=n)
        if (not single_root or heads.count(0) == 1) and reaches_root(heads)
        if not projective or is_projective(heads)
    ]
    return torch.tensor(found).view(-1, n)


def arc_scores(scores: Tensor, heads: Tensor) -> Tensor:
    """[K]: of the trees heads [K, n]; scores [n, n+1]."""
    return token_scores(scores, heads)


def frequencies(y: Tensor, probabilities: Tensor, alternatives: int) -> Tensor:
    """[n, alternatives]: P(y_t = a), from all structures y [K, n]."""
    one_hot = torch.nn.functional.one_hot(y, alternatives).to(probabilities)
    return torch.einsum("k,kta->ta", probabilities, one_hot)
