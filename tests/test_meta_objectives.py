"""The objectives of MKD and Meta-KD against their definitions."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.distill.corruption import DomainCorruption, corruption_loss, false_domains
from l2kd_ray.distill.intermediate import (
    MetaDistillation,
    attention_loss,
    hidden_loss,
    layer_map,
    transfer_loss,
)
from l2kd_ray.distill.logits import label_loss, logit_regression, soft_cross_entropy
from l2kd_ray.distill.prototypes import Others, expertise, prototype_scores, typicality
from l2kd_ray.distill.states import Outputs
from l2kd_ray.distill.structured.objective import StructuralKD
from l2kd_ray.distill.structured.projections import unchanged
from l2kd_ray.distill.structured.token import IndependentTokens

double = {"dtype": torch.float64}
B, N, D, D_T, HEADS, C = 3, 4, 5, 6, 2, 3
MASK = torch.tensor([[True] * 4, [True, True, False, False], [True, True, True, False]])


def draw(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, **double).requires_grad_(grad)


def layers(number: int, *shape: int, seed: int = 0, grad: bool = False) -> list[Tensor]:
    return [draw(*shape, seed=seed + n, grad=grad) for n in range(number)]


def gradients_hold(loss: object, *tensors: Tensor) -> bool:
    return torch.autograd.gradcheck(loss, tensors)  # type: ignore[arg-type]


# --- logits


def test_gradients_of_the_objectives_on_logits() -> None:
    z, y = draw(B, C, grad=True), torch.tensor([0, 2, 1])
    teacher = draw(B, C, seed=1)
    assert gradients_hold(lambda z: label_loss(z, y), z)
    assert gradients_hold(lambda z: label_loss(z[:, :1], draw(B, seed=2)), z)
    assert gradients_hold(lambda z: logit_regression(z, teacher), z)
    assert gradients_hold(lambda z: logit_regression(z, teacher, "sum"), z)
    assert gradients_hold(lambda z: soft_cross_entropy(z, teacher, 2.0), z)


def test_one_output_is_a_regression() -> None:
    loss = label_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, 5.0]))
    torch.testing.assert_close(loss, torch.tensor([0.25, 4.0]))


def test_logit_regression_sees_a_shift_that_kl_does_not() -> None:
    z, shifted = draw(B, C), draw(B, C) + 2
    assert logit_regression(z, z).abs().max() == 0
    torch.testing.assert_close(logit_regression(shifted, z), torch.full((B,), 4.0, **double))
    torch.testing.assert_close(
        logit_regression(shifted, z, "sum"), torch.full((B,), 12.0, **double)
    )
    torch.testing.assert_close(soft_cross_entropy(shifted, z), soft_cross_entropy(z, z))


def test_word_kd_becomes_logit_regression_at_high_temperature() -> None:
    z, teacher = draw(B, C), draw(B, C, seed=1)
    z, teacher = (z - z.mean(-1, keepdim=True)).requires_grad_(), teacher - teacher.mean(-1, True)
    wanted = (z - teacher).detach() / C
    errors = []
    for T in (10.0, 100.0, 1000.0):
        (gradient,) = torch.autograd.grad(T**2 * soft_cross_entropy(z, teacher, T).sum(), z)
        errors.append(float((gradient - wanted).abs().max()))
    assert errors[0] > 8 * errors[1] > 64 * errors[2]
    (gradient,) = torch.autograd.grad(logit_regression(z, teacher).sum(), z)
    torch.testing.assert_close(gradient, 2 * wanted)


def test_soft_targets_are_structural_kd_of_one_substructure() -> None:
    z, teacher, T = draw(B, C), draw(B, C, seed=1), 2.0
    one = torch.ones(B, dtype=torch.long)
    objective = StructuralKD(unchanged, T)
    targets = objective.targets(IndependentTokens(teacher.unsqueeze(1), one))
    structural = objective.loss(IndependentTokens(z.unsqueeze(1), one), targets)
    torch.testing.assert_close(T**2 * soft_cross_entropy(z, teacher, T), structural)


# --- prototype scores, expertise


def naive_scores(
    h: Tensor, domain: Tensor, label: Tensor | None, alpha: float, others: Others
) -> list[float]:
    """Example by example, from the definition."""
    label = torch.zeros_like(domain) if label is None else label
    scores = []
    for i in range(len(h)):
        points = {
            int(k): h[(domain == k) & (label == label[i])].mean(0)
            for k in domain.unique()
            if ((domain == k) & (label == label[i])).any()
        }
        own = F.cosine_similarity(points.pop(int(domain[i])), h[i], 0)
        rest = list(points.values())
        if not rest:
            scores.append(float(own))
        elif others == "mean_of_cosines":
            cosines = [F.cosine_similarity(p, h[i], 0) for p in rest]
            scores.append(float(alpha * own + (1 - alpha) * sum(cosines) / len(cosines)))
        else:
            mean = torch.stack(rest).mean(0)
            scores.append(float(alpha * own + (1 - alpha) * F.cosine_similarity(mean, h[i], 0)))
    return scores


@settings(max_examples=40)
@given(
    seed=st.integers(0, 99),
    domains=st.integers(1, 4),
    classes=st.sampled_from([None, 1, 2, 3]),
    alpha=st.floats(0, 1),
    others=st.sampled_from(["mean_of_cosines", "cosine_of_mean"]),
)
def test_prototype_scores_are_those_of_the_definition(
    seed: int, domains: int, classes: int | None, alpha: float, others: Others
) -> None:
    random = np.random.default_rng(seed)
    domain = torch.from_numpy(random.integers(domains, size=9))
    label = None if classes is None else torch.from_numpy(random.integers(classes, size=9))
    h = draw(9, D, seed=seed)
    scores = prototype_scores(h, domain, label, alpha=alpha, others=others)
    assert scores.abs().max() <= 1 + 1e-12
    wanted = naive_scores(h, domain, label, alpha, others)
    torch.testing.assert_close(scores, torch.tensor(wanted, **double))


@pytest.mark.parametrize("others", ["mean_of_cosines", "cosine_of_mean"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_identical_domains_make_alpha_irrelevant(others: Others, alpha: float) -> None:
    h = draw(4, D)
    thrice, domain = h.repeat(3, 1), torch.arange(3).repeat_interleave(4)
    scores = prototype_scores(thrice, domain, alpha=alpha, others=others)
    wanted = F.cosine_similarity(h.mean(0, keepdim=True), thrice)
    torch.testing.assert_close(scores, wanted)
    alone = prototype_scores(h, torch.zeros(4, dtype=torch.long), alpha=alpha, others=others)
    torch.testing.assert_close(alone, wanted[:4])  # K = 1


def test_scores_below_zero_are_clamped_and_counted() -> None:
    scores = torch.tensor([-0.5, 0.0, 0.5, 1.0])
    weights, share = typicality(scores)
    assert weights.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert share == 0.25
    assert typicality(scores, raw=True) == (scores, 0.0)


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_expertise_grows_with_score_and_probability(t: float, p: float, q: float) -> None:
    low, high = sorted((p, q))
    weights = expertise(torch.tensor([t, t], **double), torch.tensor([low, high], **double))
    factors = weights / (1 + t) if t > -1 else torch.tensor([1 / (math.e + 1), 0.5])
    assert weights[0] <= weights[1]
    assert (factors >= 1 / (math.e + 1) - 1e-9).all()
    assert (factors <= 0.5 + 1e-9).all()
    more = expertise(torch.tensor([t + 0.1], **double), torch.tensor([high], **double))
    assert more > weights[1]
    ends = expertise(torch.zeros(2, **double), torch.tensor([0.0, 1.0], **double))
    torch.testing.assert_close(ends, torch.tensor([1 / (math.e + 1), 0.5], **double))


# --- domain corruption


def test_corruption_is_the_formula_and_its_gradients_hold() -> None:
    torch.manual_seed(0)
    head, z = DomainCorruption(3, D).double(), torch.tensor([0, 2, 1])
    h = draw(B, D, grad=True)
    feature, logits = head(h, z)
    weights = dict(head.named_parameters())
    embedded = h + weights["embedding.weight"][z]
    wanted = torch.tanh(embedded @ weights["transform.weight"].T + weights["transform.bias"])
    torch.testing.assert_close(feature, wanted)
    torch.testing.assert_close(
        logits, wanted @ weights["classifier.weight"].T + weights["classifier.bias"]
    )
    assert gradients_hold(lambda h: corruption_loss(head(h, z)[1], z.flip(0)), h)


def test_false_domains_are_a_seeded_permutation() -> None:
    domain = torch.arange(4).repeat(8)
    false = false_domains(domain, np.random.default_rng(0))
    assert torch.equal(false.sort().values, domain.sort().values)
    assert not torch.equal(false, domain)
    assert torch.equal(false, false_domains(domain, np.random.default_rng(0)))


def test_over_all_permutations_false_domains_say_only_how_frequent_domains_are() -> None:
    """So the best that the head can say of every text alike is the batch's share of domains."""
    logits, domain = draw(4, C), torch.tensor([0, 1, 1, 2])
    orders = [torch.tensor(order) for order in permutations(range(4))]
    mean = torch.stack([corruption_loss(logits, domain[order]) for order in orders]).mean(0)
    share = F.one_hot(domain, C).double().mean(0)
    torch.testing.assert_close(mean, -(share * logits.log_softmax(-1)).sum(-1))
    best = share.log().expand(4, C).clone().requires_grad_()
    losses = [corruption_loss(best, domain[order]).sum() for order in orders]
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), best)
    assert gradient.abs().max() < 1e-15


# --- intermediate layers


def test_the_layer_map_of_the_paper() -> None:
    assert layer_map(12, 4) == ([0, 3, 6, 9, 12], [2, 5, 8, 11])
    assert layer_map(6, 6) == (list(range(7)), list(range(6)))
    with pytest.raises(ValueError, match=r"4 layers .* 6 of its teacher: take one of \[1, 2, 3, 6"):
        layer_map(6, 4)


def test_intermediate_losses_are_those_of_the_definition_and_read_no_padding() -> None:
    student, teacher, fit = layers(2, B, N, D), layers(3, B, N, D_T, seed=9), draw(D, D_T, seed=5)
    ours, theirs = layers(1, B, HEADS, N, N, seed=20), layers(2, B, HEADS, N, N, seed=30)
    hidden, attention = torch.zeros(B, **double), torch.zeros(B, **double)
    for b in range(B):
        n = int(MASK[b].sum())
        for one, other in zip(student, (teacher[0], teacher[2]), strict=True):
            hidden[b] += F.mse_loss(one[b, :n] @ fit, other[b, :n])
        attention[b] = F.mse_loss(ours[0][b, :, :n, :n], theirs[1][b, :, :n, :n])
    torch.testing.assert_close(hidden_loss(student, teacher, MASK, fit), hidden)
    torch.testing.assert_close(attention_loss(ours, theirs, MASK), attention)
    for states in (*student, *teacher, *ours, *theirs):
        states[1, ..., 2:, :] = math.nan
    torch.testing.assert_close(hidden_loss(student, teacher, MASK, fit), hidden)
    torch.testing.assert_close(attention_loss(ours, theirs, MASK), attention)
    with pytest.raises(ValueError, match="attention heads"):
        attention_loss(layers(1, B, HEADS + 1, N, N), theirs, MASK)


def outputs(depth: int, width: int, seed: int, grad: bool = False) -> Outputs:
    return Outputs(
        text=draw(B, width, seed=seed),
        mask=MASK,
        hidden=layers(depth + 1, B, N, width, seed=seed + 1, grad=grad),
        attentions=layers(depth, B, HEADS, N, N, seed=seed + 20, grad=grad),
        logits=draw(B, C, seed=seed + 40, grad=grad),
    )


def test_gradients_of_meta_distillation() -> None:
    student, teacher = outputs(1, D, 0, grad=True), outputs(2, D_T, 100)
    features = draw(B, D, seed=70, grad=True), draw(B, D_T, seed=71)
    fit, transfer_fit = draw(D, D_T, seed=72, grad=True), draw(D, D_T, seed=73, grad=True)
    assert student.hidden is not None
    assert student.attentions is not None

    def loss(*_: Tensor) -> Tensor:
        return MetaDistillation().loss(
            student, teacher, features, fit=fit, transfer_fit=transfer_fit
        )

    moved = (*student.hidden, *student.attentions, student.logits, features[0], fit, transfer_fit)
    assert loss().shape == (B,)
    assert gradients_hold(loss, *moved)


def test_a_student_that_is_its_teacher_has_nothing_left_to_take_over() -> None:
    teacher = outputs(2, D, 0, grad=True)
    feature = draw(B, D, seed=70)
    inner = MetaDistillation(prediction=0.0).loss(teacher, teacher, (feature, feature))
    assert inner.abs().max() == 0
    assert transfer_loss(feature, feature).abs().max() == 0
    soft = MetaDistillation(0.0, 0.0, 0.0).loss(teacher, teacher)
    (gradient,) = torch.autograd.grad(soft.sum(), teacher.logits)
    assert gradient.abs().max() < 1e-15


def test_the_weight_of_an_example_scales_its_own_gradient_alone() -> None:
    student, teacher = outputs(1, D, 0, grad=True), outputs(2, D, 100)
    assert student.hidden is not None
    losses = MetaDistillation(transfer=0.0).loss(student, teacher)
    weights = torch.ones(B, **double)
    before = torch.autograd.grad((weights * losses).sum(), student.hidden[0], retain_graph=True)[0]
    weights[1] = 3.0
    after = torch.autograd.grad((weights * losses).sum(), student.hidden[0])[0]
    torch.testing.assert_close(after[1], 3 * before[1])
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])


def test_without_corruption_the_meta_teacher_has_weighted_cross_entropy() -> None:
    z, y, t = draw(B, C), torch.tensor([0, 2, 1]), torch.tensor([0.2, 0.9, 0.4], **double)
    losses = label_loss(z, y) + 0.0 * corruption_loss(draw(B, C, seed=1), y)
    wanted = F.cross_entropy(z, y, weight=None, reduction="none") @ t / t.sum()
    torch.testing.assert_close((t * losses).sum() / t.sum(), wanted)


def test_an_objective_says_what_it_wants() -> None:
    assert MetaDistillation().wanted == {"hidden", "attentions", "feature"}
    assert MetaDistillation(0.0, 0.0, 0.0).wanted == frozenset()
    bare = Outputs(text=draw(B, D), mask=MASK, logits=draw(B, C))
    with pytest.raises(ValueError, match="lack what the objective reads"):
        MetaDistillation().loss(bare, bare)
    with pytest.raises(ValueError, match="features of both"):
        MetaDistillation(0.0, 0.0).loss(bare, bare)
