"""Parsers with relations by enumeration; cases and baselines by name; packed scores."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers.enumeration import (
    chain_scores,
    draw,
    is_projective,
    label_sequences,
    span_sets,
    spans_tensor,
    token_scores,
)
from safetensors.torch import load, save
from torch import Tensor

from l2kd_ray.distill.structured.arcs import Heads
from l2kd_ray.distill.structured.case_table import CASES, HeadKind, Objective
from l2kd_ray.distill.structured.cases import distillation
from l2kd_ray.distill.structured.chain import Chain
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.labelled import LabelledArcs, RelativeLabels, relative
from l2kd_ray.distill.structured.objective import StructuralKD, structural_cross_entropy
from l2kd_ray.distill.structured.packing import pack, unpack
from l2kd_ray.distill.structured.projections import arcs_to_labels
from l2kd_ray.distill.structured.second_order import SecondOrder
from l2kd_ray.distill.structured.spans import Spans
from l2kd_ray.distill.structured.structure import Structure
from l2kd_ray.distill.structured.token import IndependentTokens
from l2kd_ray.distill.structured.trees import NonProjective

R, TAGS, TYPES = 2, 5, 1
RELATIVE = RelativeLabels.of([["2:b", "0:a", "1:a", "3:b"], ["0:b", "3:b", "1:a"], ["2:a", "0:a"]])
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def structure(kind: HeadKind, lengths: Tensor, seed: int = 0) -> Any:
    """Of random scores, padded to one word more than the longest sentence."""
    B, n = len(lengths), int(lengths.max()) + 1
    arcs = draw(seed, B, n, n + 1)
    second = SecondOrder(arcs, draw(seed, B, n, n + 1, n), draw(seed, B, n, n + 1, n + 1), lengths)
    relations = draw(seed + 1, B, n, n + 1, R)
    made = {
        "token": lambda: IndependentTokens(draw(seed, B, n, TAGS), lengths),
        "chain": lambda: Chain(
            draw(seed, B, n, TAGS), draw(7, TAGS, TAGS), draw(8, TAGS), draw(9, TAGS), lengths
        ),
        "spans": lambda: Spans(draw(seed, B, n, n, TYPES), lengths),
        "labelling": lambda: IndependentTokens(draw(seed, B, n, len(RELATIVE.names)), lengths),
        "biaffine": lambda: LabelledArcs(Heads(arcs, lengths), relations),
        "tree": lambda: LabelledArcs(NonProjective(arcs, lengths), relations),
        "projective": lambda: LabelledArcs(Projective(arcs, lengths), relations),
        "second-order": lambda: LabelledArcs(second, relations),
    }
    return made[kind]()


KINDS: tuple[HeadKind, ...] = (
    "token", "chain", "spans", "labelling", "biaffine", "tree", "projective", "second-order",
)  # fmt: skip
LENGTHS = torch.tensor([3, 1, 4, 2])


# Arcs with relations ----------------------------------------------------------------------------


def is_tree(heads: tuple[int, ...]) -> bool:
    def root(word: int, steps: int) -> bool:
        return word == 0 or (steps > 0 and root(heads[word - 1], steps - 1))

    return heads.count(0) == 1 and all(root(word, len(heads)) for word in range(1, len(heads) + 1))


def parses(kind: HeadKind, n: int) -> Tensor:
    """[K, n, 2]: all (head, relation) of n words that the distribution has."""
    alternatives = itertools.product(itertools.product(range(n + 1), range(R)), repeat=n)
    legal = [
        parse
        for parse in alternatives
        if all(head != word for word, (head, _) in enumerate(parse, start=1))
        and (kind != "tree" or is_tree(tuple(head for head, _ in parse)))
    ]
    return torch.tensor(legal)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("kind", ["biaffine", "tree", "second-order"])
def test_a_parsers_distribution_by_enumeration(kind: HeadKind, n: int) -> None:
    model = structure(kind, torch.tensor([n]), seed=n)
    y = parses(kind, n)
    arcs = model.first_order.scores[0]
    word = torch.arange(n)
    relations = model.relations[0].log_softmax(-1)
    scores = (arcs[word, y[..., 0]] + relations[word, y[..., 0], y[..., 1]]).sum(-1)
    close(model.log_partition()[0], scores.logsumexp(0))
    pad = torch.nn.functional.pad(y, (0, 0, 0, 1))  # one word of padding
    repeated = [
        tensor.expand(len(y), *tensor.shape[1:]) for tensor in (arcs[None], relations[None])
    ]
    first = type(model.first_order)(repeated[0], torch.full((len(y),), n))
    close(LabelledArcs(first, model.relations.expand(len(y), -1, -1, -1)).score(pad), scores)
    marginals = torch.zeros_like(model.relations[0])
    for probability, parse in zip(scores.softmax(0), y, strict=True):
        marginals[word, parse[:, 0], parse[:, 1]] += probability
    close(model.marginals()[0][0], marginals)
    close(structural_cross_entropy(model.marginals(), model.potentials(), model.log_partition())[0],
          -(scores.softmax(0) * scores.log_softmax(0)).sum())  # fmt: skip
    best = model.argmax()[0, :n]
    trees = torch.tensor([is_tree(tuple(heads)) for heads in y[..., 0].tolist()])
    assert best.equal(y[scores.masked_fill(~trees, -torch.inf).argmax()])
    assert model.argmax()[0, n:].eq(0).all()


def test_relative_labels_spell_a_parse() -> None:
    assert relative(["2:det", "0:root", "1:obj"]) == ["1:det", "0:root", "-2:obj"]
    labels = RelativeLabels.of([["2:det", "0:root", "1:obj:x"]])
    assert labels.names == ("-2:obj:x", "0:root", "1:det")
    assert labels.relations == ("det", "obj:x", "root")
    assert labels.offsets.tolist() == [-2, 0, 1]
    assert labels.relation_ids.tolist() == [1, 2, 0]


# Cases by name ----------------------------------------------------------------------------------


def pair(case: str) -> tuple[Any, Any]:
    return structure(CASES[case].teacher, LENGTHS, 0), structure(CASES[case].student, LENGTHS, 3)


def labels_of(case: str) -> RelativeLabels | None:
    return RELATIVE if CASES[case].student == "labelling" else None


def loss(case: str, objective: Objective, T: float = 1.0, **options: Any) -> Tensor:
    teacher, student = pair(case)
    kd = distillation(case, objective, T, labels=labels_of(case), **options)
    return kd.loss(student, kd.targets(teacher))


@pytest.mark.parametrize("case", ["1b", "2b"])
def test_parsers_teach_relative_labels(case: str) -> None:
    teacher, student = pair(case)
    tempered = teacher.temper(2.0)
    targets = arcs_to_labels(tempered, labels=RELATIVE)
    tempered = student.temper(2.0)
    expected = structural_cross_entropy(targets, (tempered.marginals()[0].log(),))
    close(loss(case, "structural", 2.0), 4 * expected)


@pytest.mark.parametrize("case", ["tree", "projective"])
def test_a_tree_student_is_taught_by_its_teacher_given_a_tree(case: str) -> None:
    teacher, student = pair(case)
    kd = distillation(case)
    conditioned = LabelledArcs(type(student.arcs)(teacher.arcs.scores, LENGTHS), teacher.relations)
    close(kd.targets(teacher)[0], conditioned.marginals()[0])
    entropy = structural_cross_entropy(
        conditioned.marginals(), conditioned.potentials(), conditioned.log_partition()
    )
    close(kd.loss(conditioned, kd.targets(teacher)), entropy)
    assert (kd.loss(student, kd.targets(teacher)) >= entropy - 1e-9).all()


@pytest.mark.parametrize("T", [1.0, 3.0])
def test_posterior_kd_of_a_token_softmax_is_structural(T: float) -> None:
    close(loss("2a", "posterior", T), loss("2a", "structural", T))
    teacher, student = pair("3")
    softmax = teacher.temper(T).marginals()
    log = student.temper(T).log_token_marginals()
    close(loss("3", "posterior", T), T**2 * structural_cross_entropy(softmax, (log,)))
    tempered = student.emission_softmax().temper(T).marginals()[0].log()
    close(loss("3", "token", T), T**2 * structural_cross_entropy(softmax, (tempered,)))


@pytest.mark.parametrize("case", ["1a", "1b", "2a", "2b", "3"])
def test_top_wk_of_all_sequences_is_structural_kd(case: str) -> None:
    size = {"1a": TAGS, "2a": TAGS, "3": TAGS}.get(case, len(RELATIVE.names))
    lengths = torch.tensor([2, 1])
    teacher, student = (
        structure(kind, lengths, 4) for kind in (CASES[case].teacher, CASES[case].student)
    )
    structural, top = (
        distillation(case, objective, labels=labels_of(case), k=size**2)
        for objective in ("structural", "top-wk")
    )  # fmt: skip
    expected = structural.loss(student, structural.targets(teacher))
    close(top.loss(student, top.targets(teacher)), expected)


@pytest.mark.parametrize("case", ["1a", "2a", "3", "1b"])
def test_top_1_is_the_best_sequence_as_gold(case: str) -> None:
    teacher, student = pair(case)
    if case == "1b":
        kd = distillation(case, labels=RELATIVE)
        best = kd.targets(teacher)[0].argmax(-1)
    else:
        best = teacher.argmax()
    expected = student.log_partition() - student.score(best)
    for objective in ("top-k", "top-wk"):
        close(loss(case, objective, k=1), expected)


@pytest.mark.parametrize(
    ("case", "objective"),
    [("1b", "token"), ("4", "token"), ("4", "top-k"), ("tree", "top-wk"), ("tree", "posterior")],
)
def test_what_a_case_has_not_is_refused(case: str, objective: Objective) -> None:
    with pytest.raises(ValueError, match=f"case {case}, .* has no objective '{objective}'"):
        distillation(case, objective, labels=labels_of(case))


def test_a_student_of_relative_labels_says_them() -> None:
    with pytest.raises(ValueError, match="case 1b has a student of relative labels"):
        distillation("1b")


def log_probabilities(model: Any, n: int) -> tuple[Tensor, Tensor]:
    """All structures of a sentence of n words, and log P of each; by the definition at T = 1."""
    if isinstance(model, LabelledArcs):
        kind: HeadKind = "biaffine" if isinstance(model.first_order, Heads) else "tree"
        y = parses(kind, n)
        if isinstance(model.arcs, Projective):
            y = y[[is_projective(tuple(heads)) for heads in y[..., 0].tolist()]]
        word, relations = torch.arange(n), model.relations[0].log_softmax(-1)
        arcs = model.first_order.scores[0]
        scores = arcs[word, y[..., 0]] + relations[word, y[..., 0], y[..., 1]]
        return y, scores.sum(-1).log_softmax(0)
    if isinstance(model, Spans):
        y = torch.stack([spans_tensor(spans, n) for spans in span_sets(n, TYPES)])
        inside = model.scores[0, :n, :n].gather(-1, y.clamp(min=0).movedim(0, -1)).movedim(-1, 0)
        return y, inside.masked_fill(y < 0, 0.0).sum((1, 2)).log_softmax(0)
    y = label_sequences(n, model.emissions.shape[-1])
    if isinstance(model, Chain):
        scores = chain_scores(model.emissions[0], model.transitions, model.start, model.end, y)
    else:
        scores = token_scores(model.emissions[0], y)
    return y, scores.log_softmax(0)


def indicators(model: Any, y: Tensor) -> Tensor:
    """[K, ...]: 1 on the substructures (of the first kind) of each structure."""
    n = y.shape[1]
    found = torch.zeros(len(y), *model.marginals()[0].shape[1:], dtype=torch.float64)
    row, word = torch.arange(len(y))[:, None], torch.arange(n)
    if isinstance(model, LabelledArcs):
        found[row, word, y[..., 0], y[..., 1]] = 1.0
    elif isinstance(model, Spans):
        at = (y >= 0).nonzero(as_tuple=True)
        found[(*at, y[at])] = 1.0
    else:
        found[row, word, y] = 1.0
    return found


@pytest.mark.parametrize("T", [0.5, 2.5, 5.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tempered_distribution_is_the_power_of_every_structures_probability(
    kind: HeadKind, T: float
) -> None:
    """P ** (1 / T), normalised over all structures: one definition for every factorisation."""
    n = 3
    model = structure(kind, torch.tensor([n]), seed=5)
    y, log = log_probabilities(model, n)
    tempered = model.temper(T)
    expected = torch.einsum("k,k...->...", (log / T).softmax(0), indicators(model, y))
    close(tempered.marginals()[0][0], expected)
    entropy = -((log / T).softmax(0) * (log / T).log_softmax(0)).sum()
    own = structural_cross_entropy(
        tempered.marginals(), tempered.potentials(), tempered.log_partition()
    )
    close(own[0], entropy)


def equal(case: str, teacher: Any, T: float) -> Any:
    """The student that is its teacher; of 2a and 4, which have no such student, the best at T."""
    kind = CASES[case].student
    if case == "1a":
        return teacher
    if case == "3":
        zeros = torch.zeros(TAGS, TAGS, dtype=torch.float64)
        return Chain(teacher.emissions, zeros, zeros[0], zeros[0], LENGTHS)
    if kind in ("tree", "projective"):
        trees = NonProjective if kind == "tree" else Projective
        return LabelledArcs(trees(teacher.arcs.scores, LENGTHS), teacher.relations)
    exponent = T if case in ("2a", "4") else 1.0
    mu = distillation(case, temperature=exponent, labels=labels_of(case)).targets(teacher)[0]
    return IndependentTokens(mu.clamp(min=1e-300).log() * exponent, LENGTHS)


@pytest.mark.parametrize("T", [0.5, 1.0, 2.5, 5.0])
@pytest.mark.parametrize("case", CASES)
def test_the_optimum_at_every_temperature_is_the_teacher(case: str, T: float) -> None:
    teacher, other = pair(case)
    kd = distillation(case, temperature=T, labels=labels_of(case))
    targets, best = kd.targets(teacher), equal(case, teacher, T)
    own = best.arcs if isinstance(best, LabelledArcs) else best
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in vars(own).items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    moved = replace(own, **leaves)
    if isinstance(best, LabelledArcs):
        leaves["relations"] = best.relations.clone().requires_grad_()
        moved = LabelledArcs(moved, leaves["relations"])
    losses = kd.loss(moved, targets)
    for gradient in torch.autograd.grad(losses.sum(), list(leaves.values())):
        close(gradient, torch.zeros_like(gradient))
    assert (losses <= kd.loss(other, targets) + 1e-9).all()


@pytest.mark.parametrize("case", ["1b", "2b"])
def test_with_one_substructure_a_word_both_scopes_are_the_same(case: str) -> None:
    close(loss(case, "structural", 3.0), loss(case, "structural", 3.0, scope="local"))


@pytest.mark.parametrize("case", ["1a", "3"])
def test_local_posterior_kd_tempers_the_posteriors_of_both_sides(case: str) -> None:
    """As the released code has it: softmax(log mu / T) of the teacher and of the student."""
    T = 3.0
    teacher, student = pair(case)
    mu, nu = (model.marginals()[0].log() / T for model in (teacher, student))
    own = [
        -(T**2) * (p.softmax(-1) * q.log_softmax(-1))[:n].sum()
        for p, q, n in zip(mu, nu, LENGTHS.tolist(), strict=True)
    ]
    close(loss(case, "posterior", T, scope="local"), torch.stack(own))
    assert not torch.allclose(loss(case, "posterior", T), torch.stack(own))


def test_local_temperature_is_clamped() -> None:
    kd = distillation("1a", temperature=4.0, scope="local")
    assert isinstance(kd, StructuralKD)
    assert (loss("1a", "structural", 4.0, scope="local") >= 0).all()


# Packing ----------------------------------------------------------------------------------------


def parts(structure: Structure) -> list[Tensor]:
    return [*structure.temper(2.0).marginals(), structure.log_partition()]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_scores_come_back_in_any_batch(kind: HeadKind) -> None:
    batches = [structure(kind, LENGTHS, 0), structure(kind, torch.tensor([2, 5]), 1)]
    packed = load(save(pack(batches)))  # as a file holds them
    assert packed["lengths"].tolist() == [3, 1, 4, 2, 2, 5]
    chosen = [5, 1, 0]
    found = parts(unpack(packed, chosen))
    for row, sentence in enumerate(chosen):
        batch, place = (batches[0], sentence) if sentence < 4 else (batches[1], sentence - 4)
        for value, expected in zip(found, parts(batch), strict=True):
            # Each is padded to the longest of its own batch, and padding is 0 in both.
            one, other = value[row], expected[place]
            both = tuple(map(slice, map(min, one.shape, other.shape)))
            close(one[both], other[both])
            close(one.sum(), other.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_padding_is_stored(kind: HeadKind) -> None:
    batch = structure(kind, LENGTHS)
    packed = pack([batch])
    n = LENGTHS
    wanted = {
        "token": [(n.sum(), TAGS)],
        "chain": [(n.sum(), TAGS), (TAGS, TAGS), (TAGS,), (TAGS,)],
        "spans": [((n * n).sum(), TYPES)],
        "labelling": [(n.sum(), len(RELATIVE.names))],
        "second-order": [
            ((n * (n + 1)).sum(),), ((n * n * (n + 1)).sum(),),
            ((n * (n + 1) * (n + 1)).sum(),), ((n * (n + 1)).sum(), R),
        ],
    }.get(kind, [((n * (n + 1)).sum(),), ((n * (n + 1)).sum(), R)])  # fmt: skip
    shapes = [tuple(value.shape) for name, value in packed.items() if name != "lengths"]
    assert sorted(shapes) == sorted(tuple(map(int, shape)) for shape in wanted)
