"""The enumerators of the structured tests: against the counts of the textbooks."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.enumeration import (
    F64,
    is_legal,
    span_sets,
    spelled,
    trees,
)

from l2kd_ray.distill.structured.bioes import BEGIN, END, INSIDE, tag_names
from l2kd_ray.distill.structured.chain import Chain
from l2kd_ray.distill.structured.spans import Spans


def test_tree_counts_are_cayleys() -> None:
    for n in range(1, 6):
        assert len(trees(n)) == n ** (n - 1)
        assert len(trees(n, single_root=False)) == (n + 1) ** (n - 1)
    projective = [len(trees(n, projective=True)) for n in range(1, 6)]
    assert projective == [1, 2, 7, 30, 143]  # OEIS A006013


def constraints(types: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(transitions [L, L], start [L], end [L]): 0 where BIOES allows it, -inf elsewhere."""
    tag = torch.arange(4 * types + 1) - 1
    outside = tag < 0
    kind, part = tag.div(4, rounding_mode="floor"), tag.remainder(4)
    opens = ~outside & ((part == BEGIN) | (part == INSIDE))  # the span goes on after this tag
    continues = ~outside & ((part == INSIDE) | (part == END))  # it began before this tag
    same = opens[:, None] & continues & (kind[:, None] == kind)
    legal = same | (~opens[:, None] & ~continues)
    return _log(legal), _log(~continues), _log(~opens)


def _log(legal: torch.Tensor) -> torch.Tensor:
    return torch.where(legal, 0.0, -torch.inf)


@pytest.mark.parametrize(("n", "types"), [(1, 2), (2, 2), (3, 2), (4, 2), (5, 1)])
def test_span_sets_and_legal_bioes_sequences_are_a_bijection(n: int, types: int) -> None:
    tags = [tuple(spelled(spans, n)) for spans in span_sets(n, types)]
    everything = itertools.product(range(4 * types + 1), repeat=n)
    legal = {sequence for sequence in everything if is_legal(sequence)}
    assert len(set(tags)) == len(tags)
    assert set(tags) == legal

    zeros = torch.zeros(1, n, 4 * types + 1, dtype=F64)
    length = torch.tensor([n])
    chain = Chain(zeros, *(c.double() for c in constraints(types)), length)
    spans = Spans(torch.zeros(1, n, n, types, dtype=F64), length)
    count = torch.tensor([len(legal)], dtype=F64).log()
    torch.testing.assert_close(chain.log_partition(), count)
    torch.testing.assert_close(spans.log_partition(), count)


def test_tags_are_named_in_the_order_of_their_numbers() -> None:
    names = tag_names(["PER", "LOC"])
    assert names == ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"]
    read = [names[tag] for tag in spelled(((0, 2, 1), (3, 3, 0)), 5)]
    assert read == ["B-LOC", "I-LOC", "E-LOC", "S-PER", "O"]
