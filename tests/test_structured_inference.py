"""Scores, log Z, marginals, gradients and decoding of every factorisation, by enumeration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.enumeration import (
    F64,
    arc_scores,
    chain_scores,
    draw,
    frequencies,
    label_sequences,
    span_sets,
    spans_tensor,
    token_scores,
    trees,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l2kd_ray.distill.cross_entropy import inner
from l2kd_ray.distill.structured import chain as chain_module
from l2kd_ray.distill.structured.arcs import Heads
from l2kd_ray.distill.structured.chain import Chain
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.second_order import SecondOrder
from l2kd_ray.distill.structured.spanning_tree import is_tree, maximum_spanning_tree
from l2kd_ray.distill.structured.spans import Spans
from l2kd_ray.distill.structured.structure import Structure, logsumexp
from l2kd_ray.distill.structured.token import IndependentTokens
from l2kd_ray.distill.structured.trees import NonProjective

LABELS, TYPES = 3, 2
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
batches = given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    scale=st.sampled_from([0.3, 2.0, 20.0]),
)
some = settings(max_examples=12)

# A sentence's structures [K, ...] as `argmax` encodes them, and their scores [K].
Enumerated = tuple[Tensor, Tensor]


def tokens(seed: int, lengths: list[int], scale: float) -> IndependentTokens:
    return IndependentTokens(
        draw(seed, len(lengths), 5, LABELS, scale=scale), torch.tensor(lengths)
    )


def chain(seed: int, lengths: list[int], scale: float) -> Chain:
    emissions = draw(seed, len(lengths), 5, LABELS, scale=scale)
    transitions, ends = draw(seed + 1, LABELS, LABELS, scale=scale), draw(seed + 2, 2, LABELS)
    return Chain(emissions, transitions, ends[0], ends[1], torch.tensor(lengths))


def spans(seed: int, lengths: list[int], scale: float) -> Spans:
    return Spans(draw(seed, len(lengths), 5, 5, TYPES, scale=scale), torch.tensor(lengths))


def arcs(kind: Callable[..., Any], seed: int, lengths: list[int], scale: float) -> Any:
    return kind(draw(seed, len(lengths), 5, 6, scale=scale), torch.tensor(lengths))


def enumerate_tokens(batch: IndependentTokens, b: int, n: int) -> Enumerated:
    y = label_sequences(n, LABELS)
    return y, token_scores(batch.emissions[b], y)


def enumerate_chain(batch: Chain, b: int, n: int) -> Enumerated:
    y = label_sequences(n, LABELS)
    return y, chain_scores(batch.emissions[b], batch.transitions, batch.start, batch.end, y)


@cache
def span_structures(n: int) -> Tensor:
    return torch.stack([spans_tensor(one, n) for one in span_sets(n, TYPES)])


def enumerate_spans(batch: Spans, b: int, n: int) -> Enumerated:
    y = span_structures(n)
    chosen = torch.nn.functional.one_hot(y + 1, TYPES + 1)[..., 1:].double()
    read = batch.scores[b, :n, :n].masked_fill(chosen.sum(0) == 0, 0.0)  # i > j
    return y, torch.where(chosen > 0, read, 0.0).flatten(1).sum(1)


def enumerate_heads(batch: Heads, b: int, n: int) -> Enumerated:
    y = label_sequences(n, n + 1)
    y = y[(y != torch.arange(1, n + 1)).all(1)]
    return y, arc_scores(batch.scores[b], y)


def enumerate_trees(
    batch: NonProjective | Projective, b: int, n: int, projective: bool = False
) -> Enumerated:
    y = trees(n, projective=projective)
    return y, arc_scores(batch.scores[b], y)


FACTORISATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Enumerated]]] = {
    "tokens": (tokens, enumerate_tokens),
    "chain": (chain, enumerate_chain),
    "spans": (spans, enumerate_spans),
    "heads": (partial(arcs, Heads), enumerate_heads),
    "trees": (partial(arcs, NonProjective), enumerate_trees),
    "projective": (partial(arcs, Projective), partial(enumerate_trees, projective=True)),
}
every = pytest.mark.parametrize("name", FACTORISATIONS)


def padded(y: Tensor, like: Tensor) -> Tensor:
    """A structure of n tokens in the encoding of 5."""
    out = torch.full_like(like, -1 if like.dim() == 2 else 0)
    out[tuple(slice(size) for size in y.shape)] = y
    return out


def leaves(batch: Any) -> dict[str, Tensor]:
    """The scores of a factorisation, by field."""
    fields = ("emissions", "transitions", "start", "end", "scores")
    return {name: getattr(batch, name) for name in fields if hasattr(batch, name)}


def with_leaves(batch: Any) -> tuple[Any, list[Tensor]]:
    wanted = {name: score.clone().requires_grad_() for name, score in leaves(batch).items()}
    return replace(batch, **wanted), list(wanted.values())


@every
@some
@batches
def test_log_partition_score_and_argmax_are_those_of_enumeration(
    name: str, seed: int, lengths: list[int], scale: float
) -> None:
    make, enumerate_all = FACTORISATIONS[name]
    batch: Structure = make(seed, lengths, scale)
    log_z, best = batch.log_partition(), batch.argmax()
    for b, n in enumerate(lengths):
        y, scores = enumerate_all(batch, b, n)
        close(log_z[b], scores.logsumexp(0))
        gold = torch.stack([padded(y[len(y) // 2], best[b])] * len(lengths))
        close(batch.score(gold)[b], scores[len(y) // 2])
        close(batch.score(best)[b], scores.max())
        assert any(torch.equal(padded(one, best[b]), best[b]) for one in y)


@every
@some
@batches
def test_marginals_are_frequencies_and_the_gradient_of_log_z(
    name: str, seed: int, lengths: list[int], scale: float
) -> None:
    make, enumerate_all = FACTORISATIONS[name]
    batch, inputs = with_leaves(make(seed, lengths, scale))
    marginals = batch.marginals()
    wanted = torch.zeros((), dtype=F64)
    for b, n in enumerate(lengths):
        y, scores = enumerate_all(batch, b, n)
        wanted = wanted + scores.logsumexp(0)
        if name == "spans":
            share = scores.softmax(0)
            for r in range(TYPES):
                frequency = torch.einsum("k,kij->ij", share, (y == r).double())
                close(marginals[0][b, :n, :n, r], frequency)
        else:
            there = frequencies(y, scores.softmax(0), marginals[0].shape[-1])
            close(marginals[0][b, :n], there)
        assert (marginals[0][b, n:] == 0).all()
    gradient = torch.autograd.grad(batch.log_partition().sum(), inputs)
    for found, reference in zip(
        gradient, torch.autograd.grad(wanted, inputs, materialize_grads=True), strict=True
    ):
        close(found, reference)
    for found, mu in zip(gradient, marginals, strict=True):
        close(found, mu.sum_to_size(found.shape))


@every
def test_log_partition_passes_gradcheck(name: str) -> None:
    batch = FACTORISATIONS[name][0](5, [1, 3], 1.0)

    def log_z(*scores: Tensor) -> Tensor:
        return replace(batch, **dict(zip(leaves(batch), scores, strict=True))).log_partition()

    assert torch.autograd.gradcheck(log_z, with_leaves(batch)[1])


@every
def test_padding_is_never_read(name: str) -> None:
    batch = FACTORISATIONS[name][0](3, [2, 5, 1], 1.0)
    dirty = {field: score.clone() for field, score in leaves(batch).items()}
    for score in (dirty.get("emissions"), dirty.get("scores")):
        if score is not None:
            for b, n in enumerate([2, 5, 1]):
                score[b, n:] = torch.nan
                if name not in ("tokens", "chain"):
                    score[b, :, n + (name != "spans") :] = torch.nan
    soiled, inputs = with_leaves(replace(batch, **dirty))
    close(soiled.log_partition(), batch.log_partition())
    assert torch.equal(soiled.argmax(), batch.argmax())
    close(soiled.score(batch.argmax()), batch.score(batch.argmax()))
    loss = soiled.log_partition() - inner(batch.marginals(), soiled.potentials())
    gradient = torch.autograd.grad(loss.sum(), inputs)
    for part in gradient:
        close(part, torch.zeros_like(part))


@every
def test_float32_gives_float32_close_to_float64(name: str) -> None:
    batch = FACTORISATIONS[name][0](3, [2, 5, 1], 2.0)
    single = replace(batch, **{field: score.float() for field, score in leaves(batch).items()})
    assert single.log_partition().dtype == torch.float32
    torch.testing.assert_close(single.log_partition().double(), batch.log_partition())
    for found, wanted in zip(single.marginals(), batch.marginals(), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)


@every
def test_tempering_divides_every_score(name: str) -> None:
    make, enumerate_all = FACTORISATIONS[name]
    batch = make(8, [4], 1.0)
    _, scores = enumerate_all(batch, 0, 4)
    close(batch.temper(2.5).log_partition()[0], (scores / 2.5).logsumexp(0))


@some
@batches
def test_pair_marginals_sum_to_token_marginals(seed: int, lengths: list[int], scale: float) -> None:
    batch = chain(seed, lengths, scale)
    pairs, first, last = batch.pair_marginals()
    whole = batch.marginals()
    for b, n in enumerate(lengths):
        close(pairs[b, : n - 1].sum(-1), whole.tokens[b, : n - 1])
        close(pairs[b, : n - 1].sum(-2), whole.tokens[b, 1:n])
        close(first[b], whole.tokens[b, 0])
        close(last[b], whole.tokens[b, n - 1])
        y, scores = enumerate_chain(batch, b, n)
        for t in range(n - 1):
            both = y[:, t] * LABELS + y[:, t + 1]
            there = frequencies(both[:, None], scores.softmax(0), LABELS**2)[0]
            close(pairs[b, t], there.view(LABELS, LABELS))
    for found, wanted in zip(batch.pair_marginals().collapse(), whole, strict=True):
        close(found, wanted)


@some
@batches
def test_log_token_marginals_are_differentiable(
    seed: int, lengths: list[int], scale: float
) -> None:
    batch, inputs = with_leaves(chain(seed, lengths, scale))
    weights = draw(seed, len(lengths), 5, LABELS) * batch.valid[..., None]
    found = (batch.log_token_marginals() * weights).sum()
    wanted = torch.zeros((), dtype=F64)
    for b, n in enumerate(lengths):
        y, scores = enumerate_chain(batch, b, n)
        for t in range(n):
            for label in range(LABELS):
                with_label = scores[y[:, t] == label].logsumexp(0) - scores.logsumexp(0)
                wanted = wanted + weights[b, t, label] * with_label
    close(found, wanted, rtol=1e-8, atol=1e-8)
    gradients = [
        torch.autograd.grad(total, inputs, materialize_grads=True) for total in (found, wanted)
    ]
    for one, other in zip(*gradients, strict=True):
        close(one, other, rtol=1e-6, atol=1e-6)


@some
@batches
def test_n_best_are_the_best_of_enumeration_in_order(
    seed: int, lengths: list[int], scale: float
) -> None:
    batch = chain(seed, lengths, scale)
    paths, scores = batch.n_best(10)
    for b, n in enumerate(lengths):
        y, everything = enumerate_chain(batch, b, n)
        wanted, order = everything.sort(descending=True)
        there = min(10, len(y))
        close(scores[b, :there], wanted[:there])
        assert torch.equal(paths[b, :there, :n], y[order[:there]])
        assert (scores[b, there:] == -torch.inf).all()


@some
@batches
def test_n_best_of_independent_words_are_those_of_a_chain_without_transitions(
    seed: int, lengths: list[int], scale: float
) -> None:
    emissions = chain(seed, lengths, scale).emissions
    none, sizes = emissions.new_zeros(LABELS), torch.tensor(lengths)
    for k in (1, 3, 10):
        batch = Chain(emissions, none.expand(LABELS, -1), none, none, sizes)
        paths, scores = IndependentTokens(emissions, sizes).n_best(k)
        wanted, best = batch.n_best(k)
        there = best.isfinite()
        assert torch.equal(scores.isfinite(), there)
        close(scores[there], best[there])
        assert torch.equal(paths[there], wanted[there])


def forbidden_chain(magnitude: float) -> Chain:
    """Label 2 only after label 1, label 0 never in the third place, the end never in 1."""
    batch = chain(4, [1, 4, 5, 3], 1.0)
    transitions, end = batch.transitions.clone(), batch.end.clone()
    emissions, start = batch.emissions.clone(), batch.start.clone()
    transitions[[0, 2], 2] = start[2] = end[1] = -magnitude
    emissions[:, 2, 0] = -magnitude
    return Chain(emissions, transitions, start, end, batch.lengths)


@pytest.mark.parametrize("magnitude", [torch.inf, 1e4, 1e12])
def test_forbidden_labels_and_transitions_of_a_chain(magnitude: float) -> None:
    batch, inputs = with_leaves(forbidden_chain(magnitude))
    log_z, marginals = batch.log_partition(), batch.marginals()
    for b, n in enumerate([1, 4, 5, 3]):
        y, scores = enumerate_chain(batch, b, n)
        close(log_z[b], scores.logsumexp(0))
        close(marginals.tokens[b, :n], frequencies(y, scores.softmax(0), LABELS))
    gradient = torch.autograd.grad(log_z.sum(), inputs)
    posterior = (batch.log_token_marginals() * (marginals.tokens > 0.1)).nansum()
    for part in (*gradient, *torch.autograd.grad(posterior, inputs)):
        assert part.isfinite().all()
    loss = batch.log_partition() - inner(marginals, batch.potentials())
    assert loss.isfinite().all()
    for part in torch.autograd.grad(loss.sum(), inputs):
        close(part, torch.zeros_like(part))


def test_a_path_a_thousand_nats_below_its_rivals_is_kept_where_they_end() -> None:
    emissions = torch.zeros(1, 3, 2, dtype=F64)
    emissions[0, 0, 1], emissions[0, 2] = -2000.0, torch.tensor([-torch.inf, 0.0])
    transitions = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]], dtype=F64)
    zeros = torch.zeros(2, dtype=F64)
    batch, inputs = with_leaves(Chain(emissions, transitions, zeros, zeros, torch.tensor([3])))
    close(batch.log_partition(), torch.tensor([-2000.0], dtype=F64))
    tokens, pairs, *_ = torch.autograd.grad(batch.log_partition().sum(), inputs)
    close(tokens[0], torch.tensor([[0.0, 1], [0, 1], [0, 1]], dtype=F64))
    close(pairs, torch.tensor([[0.0, 0], [0, 2]], dtype=F64))


def test_both_ways_through_the_chain_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = chain(6, [5, 1, 4], 3.0)
    fast = (batch.log_partition(), *batch.marginals())
    monkeypatch.setattr(chain_module, "_scale_space", lambda *_: None)
    monkeypatch.setattr(chain_module, "UNDERFLOW", -torch.inf)
    for found, wanted in zip(fast, (batch.log_partition(), *batch.marginals()), strict=True):
        close(found, wanted)


def test_forbidden_spans_and_arcs() -> None:
    batch = spans(2, [5, 3], 1.0)
    batch.scores[:, 0, :, 1], batch.scores[:, 1, 1] = -torch.inf, -torch.inf
    tree = arcs(NonProjective, 2, [5, 3], 1.0)
    tree.scores[:, 1, 0], tree.scores[:, 0, 3] = -torch.inf, -torch.inf
    parser = Projective(tree.scores, tree.lengths)
    for structure, name in ((batch, "spans"), (tree, "trees"), (parser, "projective")):
        leaf, inputs = with_leaves(structure)
        loss = leaf.log_partition() - inner(structure.marginals(), leaf.potentials())
        for part in torch.autograd.grad(loss.sum(), inputs):
            close(part, torch.zeros_like(part))
        for b, n in enumerate([5, 3]):
            _, scores = FACTORISATIONS[name][1](structure, b, n)
            close(structure.log_partition()[b], scores.logsumexp(0))
            close(structure.score(structure.argmax())[b], scores.max())


@pytest.mark.parametrize("values", [[-torch.inf, -torch.inf], [-torch.inf, 3.0], [0.0, 1.0]])
def test_logsumexp_of_nothing_is_minus_infinity_without_a_gradient(values: list[float]) -> None:
    leaf = torch.tensor(values, dtype=F64, requires_grad=True)
    total = logsumexp(leaf, 0)
    close(total, torch.logsumexp(leaf, 0))
    total.backward()
    assert leaf.grad is not None
    close(leaf.grad, torch.nan_to_num(leaf.detach().softmax(0)))


def test_matrix_tree_and_eisner_survive_confident_roots() -> None:
    scores = draw(1, 1, 5, 6)
    scores[..., 0] += 60.0
    y = trees(5)
    for kind, mask in ((NonProjective, y), (Projective, trees(5, projective=True))):
        found = kind(scores, torch.tensor([5])).log_partition()[0]
        close(found, arc_scores(scores[0], mask).logsumexp(0))


def test_words_that_prefer_each_other_as_heads_do_not_break_the_determinant() -> None:
    scores = draw(3, 3, 5, 6, scale=3.0)
    scores[0, 1, 3] = scores[0, 2, 2] = 60.0  # to float64, words 2 and 3 are a closed cycle
    scores[1, :, 1:] += 800.0
    scores[2, 1, [0, 1, 4, 5]], scores[2, 2, 2] = -torch.inf, 50.0
    batch, inputs = with_leaves(NonProjective(scores, torch.tensor([5, 4, 5])))
    (marginals,), log_z = batch.marginals(), batch.log_partition()
    (gradient,) = torch.autograd.grad(log_z.sum(), inputs)
    for b, n in enumerate([5, 4, 5]):
        y, all_scores = enumerate_trees(batch, b, n)
        close(log_z[b], all_scores.logsumexp(0))
        close(marginals[b, :n], frequencies(y, all_scores.softmax(0), 6))
    close(gradient, marginals)


@some
@given(seed=st.integers(0, 10_000), n=st.integers(6, 9))
def test_spanning_trees_of_longer_sentences_are_trees_no_single_change_improves(
    seed: int, n: int
) -> None:
    scores = draw(seed, n, n + 1)
    tree = maximum_spanning_tree(scores.numpy())
    heads = torch.from_numpy(tree)
    assert is_tree(heads[None]).all()
    assert int((heads == 0).sum()) == 1
    best = scores[np.arange(n), heads].sum()
    for word in range(n):
        for head in range(n + 1):
            other = heads.clone()
            other[word] = head
            if is_tree(other[None]).all() and int((other == 0).sum()) == 1:
                assert scores[np.arange(n), other].sum() <= best + 1e-9


def second_order(seed: int, lengths: list[int], scale: float) -> SecondOrder:
    siblings = draw(seed + 1, len(lengths), 5, 6, 5, scale=scale)
    siblings = siblings + siblings.transpose(1, 3)
    grandparents = draw(seed + 2, len(lengths), 5, 6, 6, scale=scale)
    scores = draw(seed, len(lengths), 5, 6, scale=scale)
    return SecondOrder(scores, siblings, grandparents, torch.tensor(lengths))


def expected_score(q: Tensor, batch: SecondOrder, b: int, n: int) -> Tensor:
    """E[score] where each word draws its head by itself from q [n, n+1], by the definition."""
    total = torch.zeros((), dtype=F64)
    for i in range(n):
        for h in range(n + 1):
            if h == i + 1:
                continue
            total = total + q[i, h] * batch.arcs[b, i, h]
            for k in range(i):
                if h != k + 1:
                    total = total + q[i, h] * q[k, h] * batch.siblings[b, i, h, k]
            for g in range(n + 1):
                if h and g not in (h, i + 1):
                    total = total + q[i, h] * q[h - 1, g] * batch.grandparents[b, i, h, g]
    return total


@settings(max_examples=6)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    rounds=st.integers(0, 3),
)
def test_a_round_of_mean_field_is_the_gradient_of_the_expected_score(
    seed: int, lengths: list[int], rounds: int
) -> None:
    batch = replace(second_order(seed, lengths, 0.7), rounds=rounds)
    (found,) = batch.marginals()
    for b, n in enumerate(lengths):
        loops = torch.eye(n, n + 1, dtype=torch.bool).roll(1, 1)
        logits = batch.arcs[b, :n, : n + 1].masked_fill(loops, -torch.inf)
        for _ in range(rounds):
            q = logits.softmax(-1).requires_grad_()
            (logits,) = torch.autograd.grad(expected_score(q, batch, b, n), q)
            logits = logits.masked_fill(loops, -torch.inf)
        close(found[b, :n, : n + 1], logits.softmax(-1))
        assert (found[b, n:] == 0).all()


def test_mean_field_is_exact_without_second_order_scores_and_trains_by_gradient() -> None:
    batch = second_order(1, [3, 5], 1.0)
    plain = replace(batch, siblings=batch.siblings * 0, grandparents=batch.grandparents * 0)
    close(plain.marginals()[0], Heads(batch.arcs, batch.lengths).marginals()[0])

    def nll(*scores: Tensor) -> Tensor:
        heads = SecondOrder(*scores, torch.tensor([3, 2])).mean_field()
        return heads.log_partition() - heads.score(torch.zeros(2, 3, dtype=torch.long))

    parts = batch.arcs[:, :3, :4], batch.siblings[:, :3, :4, :3], batch.grandparents[:, :3, :4, :4]
    assert torch.autograd.gradcheck(nll, [part.clone().requires_grad_() for part in parts])
