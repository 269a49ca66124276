"""Losses against a naive reference, written from the definitions of LAMOL and L2KD."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l2kd_ray.distill.objectives import Positions, SoftTargets, cross_entropy, word_kd

VOCABULARY, ANSWER = 7, 3


def positions_of(rows: int, per_row: int, replayed: set[int], seed: int = 0) -> Positions:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(VOCABULARY, (rows * per_row,), generator=generator)
    row = torch.arange(rows).repeat_interleave(per_row)
    distilled = torch.tensor([int(one) not in replayed for one in row])
    return Positions(target, row, target == ANSWER, distilled, rows)


def logits_of(positions: Positions, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(positions.target), VOCABULARY)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def naive(
    student: Tensor, teacher: Tensor, positions: Positions, T: float, w: float, c: float, keep: bool
) -> tuple[list[float], list[float]]:
    """Sum and count of each row, position by position, in plain Python."""
    sums, counts = [0.0] * positions.rows, [0.0] * positions.rows
    for p in range(len(positions.target)):
        z, y = student[p].tolist(), int(positions.target[p])
        log_z = math.log(sum(math.exp(value) for value in z))
        ce = log_z - z[y]
        soft = [value / T for value in teacher[p].tolist()]
        total = sum(math.exp(value) for value in soft)
        mu = [math.exp(value) / total for value in soft]
        log_s = math.log(sum(math.exp(value / T) for value in z))
        kd = T**2 * sum(
            m * (math.log(m) - (value / T - log_s)) for m, value in zip(mu, z, strict=True)
        )
        class_weight = c if y == ANSWER else 1.0
        share = w if positions.distilled[p] else 0.0
        row = int(positions.row[p])
        kd_weight = share * (class_weight if keep else 1.0)
        ce_weight = (1 - share) * class_weight
        sums[row] += kd_weight * kd + ce_weight * ce
        counts[row] += kd_weight + ce_weight
    return sums, counts


@settings(max_examples=40, deadline=None)
@given(
    T=st.floats(0.5, 8), w=st.sampled_from([0.0, 0.3, 1.0]), c=st.floats(0.5, 6), keep=st.booleans()
)
def test_sum_and_count_are_those_of_the_naive_reference(
    T: float, w: float, c: float, keep: bool
) -> None:
    positions = positions_of(rows=4, per_row=3, replayed={1, 3})
    student, teacher = logits_of(positions, 1), logits_of(positions, 2)
    objective = SoftTargets(T, w, c, keep)
    sums, counts = naive(student, teacher, positions, T, w, c, keep)
    spoken = teacher[positions.distilled] if w else None
    torch.testing.assert_close(
        objective.sum(student, spoken, positions), torch.tensor(sums, dtype=torch.float64)
    )
    torch.testing.assert_close(
        objective.count(positions).double(), torch.tensor(counts).double(), rtol=1e-5, atol=1e-6
    )


def test_the_mean_without_a_teacher_is_torchs_weighted_mean() -> None:
    positions = positions_of(rows=3, per_row=5, replayed=set())
    logits = logits_of(positions, 1)
    class_weight = torch.ones(VOCABULARY, dtype=torch.float64)
    class_weight[ANSWER] = 5.0
    objective = SoftTargets(answer_weight=5.0)
    mean = objective.sum(logits, None, positions).sum() / objective.count(positions).sum()
    wanted = torch.nn.functional.cross_entropy(logits, positions.target, class_weight)
    torch.testing.assert_close(mean, wanted)


@given(T=st.floats(0.5, 10))
@settings(max_examples=20, deadline=None)
def test_a_student_like_its_teacher_has_no_kd_and_no_kd_gradient(T: float) -> None:
    positions = positions_of(rows=2, per_row=4, replayed=set())
    student = logits_of(positions, 3)
    loss = word_kd(student, student, T)
    loss.sum().backward()
    assert student.grad is not None
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-12, rtol=0)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-12, rtol=0)


def test_the_gradient_of_kd_is_student_minus_teacher() -> None:
    positions = positions_of(rows=2, per_row=4, replayed=set())
    student, teacher = logits_of(positions, 1), logits_of(positions, 2)
    word_kd(student, teacher, 2.0).sum().backward()
    wanted = 2.0 * ((student / 2).softmax(-1) - (teacher / 2).softmax(-1))
    torch.testing.assert_close(student.grad, wanted)
    assert teacher.grad is None


def test_at_high_temperature_kd_is_regression_of_mean_centred_logits() -> None:
    positions = positions_of(rows=2, per_row=4, replayed=set())
    student, teacher = logits_of(positions, 1), logits_of(positions, 2)
    word_kd(student, teacher, 1e4).sum().backward()
    centred = [z - z.mean(-1, keepdim=True) for z in (student, teacher)]
    wanted = (centred[0] - centred[1]) / VOCABULARY
    torch.testing.assert_close(student.grad, wanted, rtol=1e-3, atol=1e-4)


def test_a_batch_of_replay_alone_is_finite_and_plain_cross_entropy() -> None:
    positions = positions_of(rows=2, per_row=3, replayed={0, 1})
    logits = logits_of(positions, 1)
    objective = SoftTargets(temperature=2.0, weight=1.0)
    total = objective.sum(logits, None, positions).sum()
    torch.testing.assert_close(total, cross_entropy(logits, positions.target).sum())
    assert (objective.count(positions) > 0).all()


def test_losses_pass_gradcheck() -> None:
    positions = positions_of(rows=2, per_row=2, replayed={1})
    teacher = logits_of(positions, 2).detach()[positions.distilled]
    objective = SoftTargets(2.0, 0.5, 5.0)
    assert torch.autograd.gradcheck(
        lambda z: objective.sum(z, teacher, positions), logits_of(positions, 1)
    )


@pytest.mark.parametrize(("weight", "needed"), [(0.0, set()), (0.5, {"logits"})])
def test_an_objective_says_what_it_needs_of_a_teacher(weight: float, needed: set[str]) -> None:
    assert SoftTargets(weight=weight).requires == needed
