"""Equations (1) and (2), the six cases, temperature and the baselines, against enumeration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers.enumeration import (
    arc_scores,
    chain_scores,
    draw,
    label_sequences,
    span_sets,
    spelled,
    token_scores,
    trees,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_struct import DependencyCRF, LinearChainCRF

from l2kd_ray.distill.cross_entropy import interpolate
from l2kd_ray.distill.structured.arcs import Arcs, Heads
from l2kd_ray.distill.structured.baselines import path_marginals, top_k
from l2kd_ray.distill.structured.cases import distillation
from l2kd_ray.distill.structured.chain import Chain
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.labelled import LabelledArcs, RelativeLabels
from l2kd_ray.distill.structured.objective import (
    StructuralKD,
    annealed_weight,
    negative_log_likelihood,
    structural_cross_entropy,
)
from l2kd_ray.distill.structured.projections import (
    arcs_to_labels,
    chain_to_chain,
    chain_to_tokens,
    offset_heads,
    spans_to_tokens,
    tokens_to_chain,
    unchanged,
)
from l2kd_ray.distill.structured.second_order import SecondOrder
from l2kd_ray.distill.structured.spans import Spans
from l2kd_ray.distill.structured.structure import Parts, Structure
from l2kd_ray.distill.structured.token import IndependentTokens
from l2kd_ray.distill.structured.trees import NonProjective

N, LABELS, TYPES, RELATIONS = 5, 3, 1, 2


def heads_to_trees(
    teacher: Arcs, local: float = 1.0, *, trees: Callable[[Tensor, Tensor], Structure]
) -> Parts:
    """Arc marginals of the teacher given that its heads form a tree."""
    return unchanged(trees(teacher.scores, teacher.lengths), local)


def token_kd(teacher: Chain, student: Chain, temperature: float) -> Tensor:
    kd = distillation("1a", "token", temperature)
    return kd.loss(student, kd.targets(teacher))


def posterior_kd(teacher: Chain, student: Chain, temperature: float) -> Tensor:
    kd = distillation("1a", "posterior", temperature)
    return kd.loss(student, kd.targets(teacher))


close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
some = settings(max_examples=8)
batches = given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, N), min_size=1, max_size=3),
    T=st.sampled_from([1.0, 0.5, 4.0]),
)

# Of one sentence at one temperature: P_t [K] and log P_s [K] over the same structures.
Enumerated = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A row of the table: models of random scores, the projection, and both by enumeration."""

    teacher: Callable[[int, Tensor], Any]
    student: Callable[[int, Tensor], Any]
    project: Callable[..., Any]
    enumerate: Callable[[Any, Any, int, int], Enumerated]


def tokens(seed: int, lengths: Tensor, labels: int = LABELS) -> IndependentTokens:
    return IndependentTokens(draw(seed, len(lengths), N, labels), lengths)


def chain(seed: int, lengths: Tensor) -> Chain:
    transitions, start, end = (draw(seed + k, *[LABELS] * (2 - (k > 0))) for k in range(3))
    return Chain(draw(seed + 3, len(lengths), N, LABELS), transitions, start, end, lengths)


def spans(seed: int, lengths: Tensor) -> Spans:
    return Spans(draw(seed, len(lengths), N, N, TYPES), lengths)


def arcs(kind: Callable[..., Any], seed: int, lengths: Tensor) -> Any:
    return kind(draw(seed, len(lengths), N, N + 1), lengths)


def second_order(seed: int, lengths: Tensor) -> SecondOrder:
    siblings = draw(seed, len(lengths), N, N + 1, N)
    grandparents = draw(seed + 1, len(lengths), N, N + 1, N + 1)
    both = siblings + siblings.transpose(1, 3)
    return SecondOrder(draw(seed + 2, len(lengths), N, N + 1), both, grandparents, lengths)


def parser(make: Callable[..., Any], seed: int, lengths: Tensor) -> LabelledArcs:
    return LabelledArcs(make(seed, lengths), draw(seed + 9, len(lengths), N, N + 1, RELATIONS))


# Parsing as labelling: a label is a relative head (0 the root) and a relation.
OFFSETS, NAMED = (0, -1, 1, 1, 2), (0, 1, 0, 1, 1)
SPELLED = tuple(f"{offset}:{named}" for offset, named in zip(OFFSETS, NAMED, strict=True))
as_labels = partial(arcs_to_labels, labels=RelativeLabels(SPELLED))


def of_chain(batch: Chain, b: int, y: Tensor) -> Tensor:
    return chain_scores(batch.emissions[b], batch.transitions, batch.start, batch.end, y)


def of_tokens(batch: IndependentTokens, b: int, y: Tensor) -> Tensor:
    return token_scores(batch.emissions[b], y)


def label_models(
    of_teacher: Callable[..., Tensor], of_student: Callable[..., Tensor]
) -> Callable[[Any, Any, int, int], Enumerated]:
    """Teacher and student are both scores of label sequences."""

    def enumerated(teacher: Any, student: Any, b: int, n: int) -> Enumerated:
        y = label_sequences(n, LABELS)
        return of_teacher(teacher, b, y).softmax(0), of_student(student, b, y).log_softmax(0)

    return enumerated


def labellings(teacher: LabelledArcs, student: IndependentTokens, b: int, n: int) -> Enumerated:
    """Labels drawn by P(head) P(relation | arc), one token after the other, by the definition."""
    arc = teacher.arcs.marginals()[0][b]
    relation = teacher.relations[b].softmax(-1)
    q = torch.zeros(n, len(OFFSETS), dtype=arc.dtype)
    for i in range(n):
        for label, (offset, named) in enumerate(zip(OFFSETS, NAMED, strict=True)):
            head = 0 if offset == 0 else i + 1 + int(offset)
            if offset == 0 or 1 <= head <= n:
                q[i, label] = arc[i, head] * relation[i, head, named]
    y = label_sequences(n, len(OFFSETS))
    p_teacher = token_scores((q / q.sum(-1, keepdim=True)).log(), y).exp()
    return p_teacher, of_tokens(student, b, y).log_softmax(0)


def span_sets_as_tags(teacher: Spans, student: IndependentTokens, b: int, n: int) -> Enumerated:
    sets = span_sets(n, TYPES)
    scores = torch.stack(
        [sum((teacher.scores[b][s] for s in one), draw(0, 1)[0] * 0) for one in sets]
    )
    y = torch.tensor([spelled(one, n) for one in sets])
    log_students = token_scores(student.emissions[b].log_softmax(-1), y)
    return scores.softmax(0), log_students


def tree_models(projective: bool) -> Callable[[Any, Any, int, int], Enumerated]:
    def enumerated(teacher: Any, student: Any, b: int, n: int) -> Enumerated:
        y = trees(n, projective=projective)
        scores = [arc_scores(model.scores[b], y) for model in (teacher, student)]
        return scores[0].softmax(0), scores[1].log_softmax(0)

    return enumerated


CASES: dict[str, Case] = {
    "1a": Case(chain, chain, chain_to_chain, label_models(of_chain, of_chain)),
    "1b": Case(
        partial(parser, partial(arcs, Heads)),
        partial(tokens, labels=len(OFFSETS)),
        as_labels,
        labellings,
    ),
    "2a": Case(chain, tokens, chain_to_tokens, label_models(of_chain, of_tokens)),
    "2b": Case(
        partial(parser, second_order), partial(tokens, labels=len(OFFSETS)), as_labels, labellings
    ),
    "3": Case(tokens, chain, tokens_to_chain, label_models(of_tokens, of_chain)),
    "4": Case(spans, partial(tokens, labels=4 * TYPES + 1), spans_to_tokens, span_sets_as_tags),
    "tokens": Case(tokens, tokens, unchanged, label_models(of_tokens, of_tokens)),
    "trees": Case(
        partial(arcs, NonProjective),
        partial(arcs, NonProjective),
        unchanged,
        tree_models(False),
    ),
    "heads => trees": Case(
        partial(arcs, Heads),
        partial(arcs, NonProjective),
        partial(heads_to_trees, trees=NonProjective),
        tree_models(False),
    ),
    "heads => projective trees": Case(
        partial(arcs, Heads),
        partial(arcs, Projective),
        partial(heads_to_trees, trees=Projective),
        tree_models(True),
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def with_leaves(student: Any) -> tuple[Any, list[Tensor]]:
    fields = ("emissions", "transitions", "start", "end", "scores")
    there = [name for name in fields if hasattr(student, name)]
    found = {name: getattr(student, name).clone().requires_grad_() for name in there}
    return replace(student, **found), list(found.values())


@every_case
@some
@batches
def test_the_loss_is_the_cross_entropy_of_the_tempered_distributions(
    name: str, seed: int, lengths: list[int], T: float
) -> None:
    case, length = CASES[name], torch.tensor(lengths)
    teacher, student = case.teacher(seed, length), case.student(seed + 50, length)
    objective = StructuralKD(case.project, T)
    loss = objective.loss(student, objective.targets(teacher))
    for b, n in enumerate(lengths):
        p, log_q = case.enumerate(teacher.temper(T), student.temper(T), b, n)
        close(loss[b], T**2 * -(p * torch.where(p > 0, log_q, 0.0)).sum())


@every_case
@some
@batches
def test_the_gradient_is_the_students_marginals_minus_the_targets(
    name: str, seed: int, lengths: list[int], T: float
) -> None:
    case, length = CASES[name], torch.tensor(lengths)
    teacher, (student, inputs) = (
        case.teacher(seed, length),
        with_leaves(case.student(seed + 50, length)),
    )
    objective = StructuralKD(case.project, T)
    targets = objective.targets(teacher)
    gradient = torch.autograd.grad(objective.loss(student, targets).sum(), inputs)
    marginals = student.temper(T).marginals()
    for found, own, mu in zip(gradient, marginals, targets, strict=True):
        close(found, T * (own - mu).sum_to_size(found.shape))


@pytest.mark.parametrize("name", ["2a", "4", "1b"])
@some
@batches
def test_both_equations_agree_for_a_locally_normalised_student(
    name: str, seed: int, lengths: list[int], T: float
) -> None:
    case, length = CASES[name], torch.tensor(lengths)
    targets = StructuralKD(case.project, T).targets(case.teacher(seed, length))
    student = case.student(seed + 50, length)
    first = structural_cross_entropy(targets, student.potentials(), student.log_partition())
    close(first, structural_cross_entropy(targets, (student.marginals()[0].log(),)))


@pytest.mark.parametrize("name", ["1a", "tokens", "trees"])
@some
@batches
def test_a_student_like_its_teacher_has_the_teachers_entropy_and_no_gradient(
    name: str, seed: int, lengths: list[int], T: float
) -> None:
    case, length = CASES[name], torch.tensor(lengths)
    teacher, inputs = with_leaves(case.teacher(seed, length))
    objective = StructuralKD(case.project, T)
    loss = objective.loss(teacher, objective.targets(teacher))
    for b, n in enumerate(lengths):
        p, _ = case.enumerate(teacher.temper(T), teacher, b, n)
        close(loss[b], T**2 * torch.special.entr(p).sum())
    for gradient in torch.autograd.grad(loss.sum(), inputs):
        close(gradient, torch.zeros_like(gradient))


@every_case
def test_every_objective_passes_gradcheck(name: str) -> None:
    case, length = CASES[name], torch.tensor([1, 3])
    objective = StructuralKD(case.project, 2.0)
    targets = objective.targets(case.teacher(1, length))
    student, inputs = with_leaves(case.student(2, length))
    fields = [field for field, value in vars(student).items() if any(value is x for x in inputs)]

    def loss(*scores: Tensor) -> Tensor:
        return objective.loss(replace(student, **dict(zip(fields, scores, strict=True))), targets)

    assert torch.autograd.gradcheck(loss, inputs)


def test_targets_are_constants_and_padding_has_none() -> None:
    length = torch.tensor([2, 4])
    for case in CASES.values():
        targets = StructuralKD(case.project).targets(with_leaves(case.teacher(1, length))[0])
        assert not any(target.requires_grad for target in targets)
        assert (targets[0][0, 2:] == 0).all()


@some
@batches
def test_2a_ends_at_the_token_marginals_and_above_the_teachers_entropy(
    seed: int, lengths: list[int], T: float
) -> None:
    length = torch.tensor(lengths)
    teacher = chain(seed, length)
    marginals = chain_to_tokens(teacher)
    best, inputs = with_leaves(IndependentTokens(marginals[0].clamp(min=1e-300).log(), length))
    loss = StructuralKD(chain_to_tokens).loss(best, marginals)
    (gradient,) = torch.autograd.grad(loss.sum(), inputs)
    close(gradient, torch.zeros_like(gradient))
    close(best.marginals()[0], marginals[0])
    for b, n in enumerate(lengths):
        p, _ = CASES["2a"].enumerate(teacher, best, b, n)
        assert loss[b] >= torch.special.entr(p).sum() - 1e-9
        if n > 1:
            assert loss[b] > torch.special.entr(p).sum()


@some
@batches
def test_one_substructure_a_position_is_word_kd(seed: int, lengths: list[int], T: float) -> None:
    length = torch.tensor(lengths)
    teacher, student = tokens(seed, length), tokens(seed + 1, length)
    objective = StructuralKD(unchanged, T)
    targets = objective.targets(teacher)
    loss = objective.loss(student, targets)
    entropy = T**2 * torch.special.entr(targets[0]).sum((1, 2))
    for b, n in enumerate(lengths):
        log_student = (student.emissions[b, :n] / T).log_softmax(-1)
        log_teacher = (teacher.emissions[b, :n] / T).log_softmax(-1)
        word = T**2 * (log_teacher.exp() * (log_teacher - log_student)).sum()
        close(loss[b] - entropy[b], word)
    zeros = torch.zeros(4, LABELS, LABELS).double()
    flat = Chain(student.emissions, zeros[0], zeros[1, 0], zeros[2, 0], length)
    as_chain = StructuralKD(tokens_to_chain, T)
    close(as_chain.loss(flat, as_chain.targets(teacher)), loss)


def test_a_temperature_below_0_and_an_unknown_scope_are_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        StructuralKD(chain_to_chain, -1.0)
    with pytest.raises(ValueError, match="locale"):
        StructuralKD(chain_to_chain, 1.0, scope="locale")  # type: ignore[arg-type]


def test_local_temperature_has_no_minimum_for_a_chain_and_a_clamp_at_0() -> None:
    length = torch.tensor([5, 3])
    teacher, T = chain(2, length).temper(1 / 3), 4.0
    objective = StructuralKD(chain_to_chain, T, scope="local")
    targets = objective.targets(teacher)
    student, inputs = with_leaves(chain(8, length))
    descent = torch.optim.Adam(inputs, lr=1.0)
    for _ in range(100):
        loss = structural_cross_entropy(targets, student.potentials(), student.log_partition())
        descent.zero_grad()
        loss.sum().backward()
        descent.step()
    assert (loss < -1.0).all()  # below any cross-entropy, and falling
    assert objective.loss(student.temper(1 / T), targets).min() == 0.0

    softened = tokens(3, length)
    scopes = (
        StructuralKD(unchanged, T),
        StructuralKD(unchanged, T, scope="local"),
    )
    close(*(scope.targets(softened) for scope in scopes))  # one substructure a position: the same


@pytest.mark.parametrize("name", ["1a", "1b", "2a", "2b", "3", "4"])
def test_local_temperature_softens_the_marginals_at_each_place(name: str) -> None:
    case, length = CASES[name], torch.tensor([2, 1])
    teacher = case.teacher(4, length)
    plain = case.project(teacher)[0]
    found = StructuralKD(case.project, 3.0, scope="local").targets(teacher)[0]
    powers = plain[:, 0] ** (1 / 3)
    close(found[1, 0], powers[1] / powers[1].sum())
    if name != "1a":
        close(found[0, 0], powers[0] / powers[0].sum())
    else:
        pairs = teacher.pair_marginals().pairs[0, 0] ** (1 / 3)
        targets = StructuralKD(case.project, 3.0, scope="local").targets(teacher)
        close(targets.transitions[0], pairs / pairs.sum())
    assert (found[1, 1:] == 0).all()


def test_head_selection_has_no_finite_cross_entropy_with_trees_unless_conditioned() -> None:
    length = torch.tensor([4])
    teacher = arcs(Heads, 1, length)
    y = label_sequences(4, 5)
    y = y[(y != torch.arange(1, 5)).all(1)]
    on_trees = [(tree == y).all(1).nonzero()[0, 0] for tree in trees(4)]
    p = arc_scores(teacher.scores[0], y).softmax(0)
    assert p[on_trees].sum() < 1  # the rest lies where the student has probability 0
    targets = StructuralKD(partial(heads_to_trees, trees=NonProjective)).targets(teacher)[0]
    conditioned = p[on_trees] / p[on_trees].sum()
    for word in range(4):
        for head in range(5):
            close(targets[0, word, head], conditioned[trees(4)[:, word] == head].sum())


def test_words_whose_labels_name_no_head_get_the_uniform_distribution() -> None:
    length = torch.tensor([1])
    teacher = parser(partial(arcs, Heads), 1, length)
    (labels,) = arcs_to_labels(teacher, labels=RelativeLabels(("-1:0", "1:1")))
    close(labels[0, 0], torch.tensor([0.5, 0.5]).double())


def test_relative_heads_of_a_padded_batch() -> None:
    heads = offset_heads(torch.tensor([0, -1, 2]), torch.tensor([3, 1]), 3)
    assert heads[0].tolist() == [[0, -1, 3], [0, 1, -1], [0, 2, -1]]
    assert heads[1, 0].tolist() == [0, -1, -1]


@some
@batches
def test_token_and_posterior_kd_compare_position_by_position(
    seed: int, lengths: list[int], T: float
) -> None:
    length = torch.tensor(lengths)
    teacher, (student, inputs) = chain(seed, length), with_leaves(chain(seed + 9, length))
    token, posterior = token_kd(teacher, student, T), posterior_kd(teacher, student, T)
    for b, n in enumerate(lengths):
        mu = (teacher.emissions[b, :n] / T).softmax(-1)
        log_q = (student.emissions[b, :n] / T).log_softmax(-1)
        close(token[b], -(T**2) * (mu * log_q).sum())
        y = label_sequences(n, LABELS)
        one_hot = torch.nn.functional.one_hot(y, LABELS).double()
        p, q = (of_chain(m.temper(T), b, y).softmax(0) for m in (teacher, student))
        mu, nu = (torch.einsum("k,kta->ta", share, one_hot) for share in (p, q))
        close(posterior[b], -(T**2) * (mu * nu.log()).sum())
    assert all(part.isfinite().all() for part in torch.autograd.grad(posterior.sum(), inputs))


def test_the_baselines_pass_gradcheck() -> None:
    length = torch.tensor([1, 3])
    teacher = chain(1, length)
    _, inputs = with_leaves(chain(2, length))
    for baseline in (token_kd, posterior_kd):

        def loss(*scores: Tensor, baseline: Callable[..., Tensor] = baseline) -> Tensor:
            return baseline(teacher, Chain(*scores, length), 2.0)

        assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("weighted", [False, True])
@some
@batches
def test_top_k_is_the_mean_nll_of_the_teachers_best_sequences(
    weighted: bool, seed: int, lengths: list[int], T: float
) -> None:
    length = torch.tensor(lengths)
    teacher, student = chain(seed, length), chain(seed + 9, length)
    objective = StructuralKD(partial(top_k, k=4, weighted=weighted))
    loss = objective.loss(student, objective.targets(teacher))
    for b, n in enumerate(lengths):
        y = label_sequences(n, LABELS)
        best = of_chain(teacher, b, y).topk(min(4, len(y)))
        weights = (
            best.values.softmax(0)
            if weighted
            else torch.full_like(best.values, 1 / len(best.values))
        )
        nll = -of_chain(student, b, y).log_softmax(0)[best.indices]
        close(loss[b], (weights * nll).sum())


def test_the_nll_is_the_objective_on_the_gold_structure_alone() -> None:
    length = torch.tensor([5, 2, 1])
    student, gold = chain(3, length), label_sequences(5, LABELS)[[7, 100, 200]]
    targets = path_marginals(gold[:, None], torch.ones(3, 1).double(), length, LABELS)
    wanted = negative_log_likelihood(student, gold)
    close(StructuralKD(chain_to_chain).loss(student, targets), wanted)
    for b, n in enumerate([5, 2, 1]):
        y = label_sequences(n, LABELS)
        at = (y == gold[b, :n]).all(1).nonzero()[0, 0]
        close(wanted[b], -of_chain(student, b, y).log_softmax(0)[at])


def test_a_substructure_the_student_forbids_costs_infinity_only_if_the_teacher_uses_it() -> None:
    length = torch.tensor([3])
    teacher, student = chain(1, length), chain(2, length)
    student.transitions[0, 1] = -torch.inf
    objective = StructuralKD(chain_to_chain)
    assert objective.loss(student, objective.targets(teacher)).item() == torch.inf
    teacher.transitions[0, 1] = -torch.inf
    allowed, inputs = with_leaves(student)
    loss = objective.loss(allowed, objective.targets(teacher))
    assert loss.isfinite().all()
    assert all(part.isfinite().all() for part in torch.autograd.grad(loss.sum(), inputs))


def test_annealing_ends_at_0_and_unlabelled_text_keeps_weight_1() -> None:
    assert [annealed_weight(epoch, 1.0) for epoch in (0, 50, 100, 200)] == [1.0, 0.5, 0.0, 0.0]
    assert annealed_weight(100, 0.5) == 0.5
    kd, nll = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([10.0, torch.inf])
    mixed = interpolate(kd, nll.requires_grad_(), 0.25, torch.tensor([True, False]))
    close(mixed, torch.tensor([0.25 * 2 + 0.75 * 10, 3.0]))
    mixed.sum().backward()
    assert kd.grad is not None
    assert nll.grad is not None
    close(kd.grad, torch.tensor([0.25, 1.0]))
    close(nll.grad, torch.tensor([0.75, 0.0]))


def test_every_factorisation_is_a_structure() -> None:
    length = torch.tensor([2])
    structures: list[Structure] = [
        tokens(0, length),
        chain(0, length),
        spans(0, length),
        Heads(draw(0, 1, N, N + 1), length),
        NonProjective(draw(0, 1, N, N + 1), length),
        Projective(draw(0, 1, N, N + 1), length),
    ]
    for structure in structures:
        nll = negative_log_likelihood(structure, structure.argmax())
        assert nll.shape == (1,)
        assert (nll > 0).all()


def test_torch_struct_agrees() -> None:
    length = torch.tensor([5, 3])
    batch = chain(1, length)
    B, _, L = batch.emissions.shape
    # torch_struct: potentials [B, n-1, to, from], the first with start and both emissions
    steps = batch.transitions.T + batch.emissions[:, 1:, :, None]
    potentials = steps.expand(B, N - 1, L, L).clone()
    potentials[:, 0] += (batch.start + batch.emissions[:, 0])[:, None, :]
    rows = torch.arange(B)
    potentials[rows, length - 2] += batch.end[:, None]
    oracle = LinearChainCRF(potentials, lengths=length)
    close(batch.log_partition(), oracle.partition)
    pairs = oracle.marginals.transpose(2, 3)
    close(batch.pair_marginals().pairs, pairs)

    parser = arcs(Projective, 3, length)
    scores = parser.scores[..., 1:].transpose(1, 2).clone()  # (head, dependent)
    diagonal = torch.arange(N)
    scores[:, diagonal, diagonal] = parser.scores[..., 0]
    scores = scores.requires_grad_() * 1.0  # it writes into what it is given
    trees_of = DependencyCRF(scores, lengths=length, multiroot=False)
    close(parser.log_partition(), trees_of.partition)
