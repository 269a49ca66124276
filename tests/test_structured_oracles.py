"""Structures against public libraries, on sentences longer than can be enumerated.

supar, pytorch-crf and torch-struct are installed with the extra `dev`; without one, its tests are
skipped. Everything is float64, but for supar's log Z of the matrix-tree theorem.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from helpers.enumeration import draw
from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.distill.structured.chain import Chain
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.objective import negative_log_likelihood
from l2kd_ray.distill.structured.second_order import SecondOrder
from l2kd_ray.distill.structured.spans import Spans
from l2kd_ray.distill.structured.trees import NonProjective

LENGTHS = torch.tensor([9, 1, 2, 7, 12])
B, N, LABELS, TYPES = len(LENGTHS), 12, 5, 3
WORDS = torch.arange(N) < LENGTHS[:, None]
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


@pytest.fixture
def supar() -> Any:
    return pytest.importorskip("supar")


def chain() -> Chain:
    return Chain(
        draw(1, B, N, LABELS), draw(2, LABELS, LABELS), draw(3, LABELS), draw(4, LABELS), LENGTHS
    )


def arcs(seed: int) -> Tensor:
    return draw(seed, B, N, N + 1)


def rooted(scores: Tensor) -> Tensor:
    """[B, N + 1, N + 1]: with a row for the root as a dependent, which is not read."""
    return F.pad(scores, (0, 0, 1, 0)).requires_grad_()


def cross_entropy(teacher: Any, student: Any) -> Tensor:
    """[B]: H(P_t, P_s) from the teacher's marginals and the student's log Z."""
    inner = sum(
        (mu * s.masked_fill(s == -torch.inf, 0.0)).flatten(1).sum(1)
        for mu, s in zip(teacher.marginals(), student.potentials(), strict=True)
    )
    found: Tensor = student.log_partition() - inner
    return found


def test_a_chain_is_suparss(supar: Any) -> None:
    ours = chain()
    transitions = F.pad(ours.transitions, (0, 1, 0, 1))
    transitions[-1, :-1], transitions[:-1, -1] = ours.start, ours.end
    emissions = ours.emissions.clone().requires_grad_()
    theirs = supar.LinearChainCRF(emissions, transitions, LENGTHS)
    close(ours.log_partition(), theirs.log_partition)
    (marginals,) = torch.autograd.grad(theirs.log_partition.sum(), emissions, retain_graph=True)
    close(ours.marginals().tokens, marginals)
    best = theirs.argmax
    assert torch.equal(ours.argmax()[WORDS], best[WORDS])
    close(ours.score(best), theirs.score(best))


def test_a_chain_is_that_of_pytorch_crf() -> None:
    torchcrf = pytest.importorskip("torchcrf")
    ours = chain()
    crf = torchcrf.CRF(LABELS, batch_first=True).double()
    with torch.no_grad():
        crf.transitions.copy_(ours.transitions)
        crf.start_transitions.copy_(ours.start)
        crf.end_transitions.copy_(ours.end)
    gold = torch.randint(LABELS, (B, N), generator=torch.Generator().manual_seed(5))
    likelihood = crf(ours.emissions, gold, mask=WORDS, reduction="none")
    close(negative_log_likelihood(ours, gold), -likelihood.detach())
    decoded = crf.decode(ours.emissions, mask=WORDS)
    found = ours.argmax()
    for row, labels in enumerate(decoded):
        assert found[row, : len(labels)].tolist() == labels


def test_trees_are_those_of_the_matrix_tree_theorem(supar: Any) -> None:
    ours, other = (NonProjective(arcs(seed), LENGTHS) for seed in (6, 7))
    theirs, others = (
        supar.MatrixTree(rooted(one.scores), LENGTHS, multiroot=False) for one in (ours, other)
    )
    near = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5, check_dtype=False)
    near(ours.log_partition(), theirs.log_partition)
    near(ours.marginals()[0], theirs.marginals[:, 1:])
    near(cross_entropy(ours, other), theirs.cross_entropy(others))
    assert torch.equal(ours.argmax()[WORDS], theirs.argmax[:, 1:][WORDS])


def test_projective_trees_are_eisners(supar: Any) -> None:
    ours, other = (Projective(arcs(seed), LENGTHS) for seed in (8, 9))
    theirs, others = (supar.DependencyCRF(rooted(one.scores), LENGTHS) for one in (ours, other))
    close(ours.log_partition(), theirs.log_partition)
    close(ours.marginals()[0], theirs.marginals[:, 1:])
    close(cross_entropy(ours, other), theirs.cross_entropy(others))
    assert torch.equal(ours.argmax()[WORDS], theirs.argmax[:, 1:][WORDS])


@pytest.mark.parametrize("rounds", [1, 3])
def test_mean_field_of_siblings_is_suparss(supar: Any, rounds: int) -> None:
    siblings = draw(11, B, N, N + 1, N)
    siblings = siblings + siblings.permute(0, 3, 2, 1)  # the same in either order
    none = torch.zeros(B, N, N + 1, N + 1, dtype=torch.float64)
    ours = SecondOrder(arcs(10), siblings, none, LENGTHS, rounds)
    # supar would give mass to a word as its own head, and to padding.
    legal = NonProjective(ours.arcs, LENGTHS).legal
    scores = rooted(ours.arcs.masked_fill(~legal, -1e4))
    theirs = supar.DependencyMFVI(rounds)(
        (scores, F.pad(siblings, (1, 0, 0, 0, 1, 0))), F.pad(WORDS, (1, 0))
    )
    close(ours.marginals()[0][WORDS], theirs[:, 1:][WORDS].detach())


@pytest.mark.parametrize("row", range(B))
def test_spans_are_a_semi_markov_model(row: int) -> None:
    """Of segments with one state: a segment weighs the sum over its labels; a word alone may also
    be outside of all spans, with weight 1. A sentence at a time, since torch-struct 0.5 leaves out
    segments beyond the shortest length of a batch."""
    semi_markov = pytest.importorskip("torch_struct").SemiMarkovCRF
    ours, n = Spans(draw(12, B, N, N, TYPES), LENGTHS), int(LENGTHS[row])
    scores = ours.scores[row].clone().requires_grad_()
    weights = scores.logsumexp(-1)
    potentials = torch.full((1, n, N + 1, 1, 1), -1e9, dtype=torch.float64)
    for first in range(n):
        for last in range(first, n):
            weight = weights[first, last]
            if first == last:
                weight = torch.logaddexp(weight, torch.zeros_like(weight))
            potentials[0, first, last - first + 1, 0, 0] = weight
    log_z = semi_markov(potentials).partition[0]
    close(ours.log_partition()[row], log_z.detach())
    close(ours.marginals()[0][row], torch.autograd.grad(log_z, scores)[0])
