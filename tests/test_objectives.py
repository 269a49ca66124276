"""Losses against a naive reference, written from the definitions of LAMOL and L2KD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.distill import linear_loss
from l2kd_ray.distill.linear_loss import Knowledge, OutputLayer
from l2kd_ray.distill.objectives import NO_TEACHER, Positions, SoftTargets

VOCABULARY, WIDTH, ANSWER, ROWS, PER_ROW = 7, 5, 3, 4, 3
double = {"dtype": torch.float64}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **double)


def head_of(seed: int, bias: bool = True) -> OutputLayer:
    weight = draw(VOCABULARY, WIDTH, seed=seed).requires_grad_()
    return OutputLayer(weight, draw(VOCABULARY, seed=seed + 50).requires_grad_() if bias else None)


def positions_of(teachers: list[int], share: float, seed: int = 0) -> Positions:
    """ROWS rows of PER_ROW positions; `teachers` by row."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(VOCABULARY, (ROWS * PER_ROW,), generator=generator)
    row = torch.arange(ROWS).repeat_interleave(PER_ROW)
    teacher = torch.tensor(teachers)[row]
    return Positions(target, row, target == ANSWER, teacher, (teacher != NO_TEACHER) * share)


def logits_of(hidden: Tensor, head: OutputLayer) -> Tensor:
    return F.linear(hidden, head.weight, head.bias)


def knowledge_of(positions: Positions, teachers: int = 1) -> list[Knowledge | None]:
    counts = [int((positions.teacher == number).sum()) for number in range(teachers)]
    return [
        Knowledge(draw(count, WIDTH, seed=20 + n), head_of(30 + n)) if count else None
        for n, count in enumerate(counts)
    ]


def word_kd(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    """T^2 KL(teacher || student) of logits [P, V], a position each: the definition."""
    p, q = (teacher.detach() / T).softmax(-1), (student / T).softmax(-1)
    return T**2 * (p * (p.log() - q.log())).sum(-1)


def naive(
    logits: Tensor,
    knowledge: list[Knowledge | None],
    positions: Positions,
    objective: SoftTargets,
) -> tuple[Tensor, Tensor]:
    """Sum and count [R] of each row, position by position."""
    sums, counts = [logits.sum() * 0] * ROWS, [0.0] * ROWS
    spoken = [0] * len(knowledge)
    for p in range(len(positions.target)):
        z, y, number = logits[p], int(positions.target[p]), int(positions.teacher[p])
        class_weight = objective.answer_weight if y == ANSWER else 1.0
        share = float(positions.share[p])
        kd_weight = share * (class_weight if objective.weigh_kd else 1.0)
        ce_weight = (1 - share) * class_weight
        loss = -ce_weight * z.log_softmax(-1)[y]
        if number != NO_TEACHER:
            said = knowledge[number]
            assert said is not None
            wanted = logits_of(said.hidden[spoken[number]], said.head)
            spoken[number] += 1
            loss = loss + kd_weight * word_kd(z[None], wanted[None], objective.temperature)[0]
        row = int(positions.row[p])
        sums[row] = sums[row] + loss
        counts[row] += kd_weight + ce_weight
    return torch.stack(sums), torch.tensor(counts, **double)


@settings(max_examples=40)
@given(
    T=st.floats(0.5, 8),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    c=st.floats(0.5, 6),
    keep=st.booleans(),
    chunk=st.sampled_from([1, VOCABULARY * 2, 2**24]),
    bias=st.booleans(),
    teachers=st.lists(st.sampled_from([NO_TEACHER, 0, 1]), min_size=ROWS, max_size=ROWS),
)
def test_loss_gradients_and_count_are_those_of_the_naive_reference(
    T: float, share: float, c: float, keep: bool, chunk: int, bias: bool, teachers: list[int]
) -> None:
    positions, objective = positions_of(teachers, share), SoftTargets(T, c, keep)
    hidden, head = draw(ROWS * PER_ROW, WIDTH, seed=1).requires_grad_(), head_of(2, bias)
    knowledge, scale = knowledge_of(positions, 2), draw(ROWS, seed=3).abs()
    learnt = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None]

    sums, counts = naive(logits_of(hidden, head), knowledge, positions, objective)
    wanted = (scale * sums).sum()
    wanted_grads = torch.autograd.grad(wanted, learnt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_loss, "CHUNK_ELEMENTS", chunk)
        loss = objective.loss(hidden, head, knowledge, positions, scale).total
    grads = torch.autograd.grad(loss, learnt)

    torch.testing.assert_close(loss, wanted)
    for grad, other in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, other)
    torch.testing.assert_close(
        objective.count(positions, ROWS).double(), counts, rtol=1e-5, atol=1e-6
    )


def soft(hidden: Tensor, head: OutputLayer, said: Knowledge, T: float) -> Tensor:
    """The sum of KD over all positions."""
    positions = positions_of([0] * ROWS, 1.0)
    scale = torch.ones(ROWS, **double)
    return SoftTargets(T).loss(hidden, head, [said], positions, scale).total


def test_the_mean_without_a_teacher_is_torchs_weighted_mean() -> None:
    positions = positions_of([NO_TEACHER] * ROWS, 0.0)
    hidden, head = draw(ROWS * PER_ROW, WIDTH, seed=1), head_of(2)
    class_weight = torch.ones(VOCABULARY, **double)
    class_weight[ANSWER] = 5.0
    objective = SoftTargets(answer_weight=5.0)
    scale = torch.ones(ROWS, **double) / objective.count(positions, ROWS).sum()
    mean = objective.loss(hidden, head, [], positions, scale).total
    wanted = F.cross_entropy(logits_of(hidden, head), positions.target, class_weight)
    torch.testing.assert_close(mean, wanted)


@given(T=st.floats(0.5, 10))
@settings(max_examples=20)
def test_a_student_like_its_teacher_has_no_kd_and_no_kd_gradient(T: float) -> None:
    hidden, head = draw(ROWS * PER_ROW, WIDTH, seed=1).requires_grad_(), head_of(2)
    said = Knowledge(hidden.detach(), OutputLayer(head.weight.detach(), head.bias))
    loss = soft(hidden, head, said, T)
    grads = torch.autograd.grad(loss, [hidden, head.weight])
    assert float(loss) == 0.0
    for grad in grads:
        torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-12, rtol=0)


def test_the_gradient_of_kd_is_student_minus_teacher() -> None:
    hidden, head = draw(ROWS * PER_ROW, WIDTH, seed=1).requires_grad_(), head_of(2)
    said = Knowledge(draw(ROWS * PER_ROW, WIDTH, seed=5), head_of(6))
    soft(hidden, head, said, 2.0).backward()
    student, teacher = logits_of(hidden, head), logits_of(said.hidden, said.head)
    in_logits = 2.0 * ((student / 2).softmax(-1) - (teacher / 2).softmax(-1))
    torch.testing.assert_close(hidden.grad, (in_logits @ head.weight).detach())
    assert said.head.weight.grad is None


def test_at_high_temperature_kd_is_regression_of_mean_centred_logits() -> None:
    hidden, head = draw(ROWS * PER_ROW, WIDTH, seed=1).requires_grad_(), head_of(2)
    said = Knowledge(draw(ROWS * PER_ROW, WIDTH, seed=5), head_of(6))
    soft(hidden, head, said, 1e5).backward()
    logits = [logits_of(hidden, head), logits_of(said.hidden, said.head)]
    centred = [z - z.mean(-1, keepdim=True) for z in logits]
    wanted = (centred[0] - centred[1]) / VOCABULARY @ head.weight
    torch.testing.assert_close(hidden.grad, wanted.detach(), rtol=1e-3, atol=1e-4)


def test_a_batch_of_replay_alone_is_finite_and_plain_cross_entropy() -> None:
    positions = positions_of([NO_TEACHER] * ROWS, 1.0)
    hidden, head = draw(ROWS * PER_ROW, WIDTH, seed=1), head_of(2)
    objective = SoftTargets(temperature=2.0)
    scale = torch.ones(ROWS, **double)
    loss = objective.loss(hidden, head, [None], positions, scale).total
    wanted = F.cross_entropy(logits_of(hidden, head), positions.target, reduction="sum")
    torch.testing.assert_close(loss, wanted)
    assert (objective.count(positions, ROWS) > 0).all()


def test_losses_pass_gradcheck() -> None:
    positions = positions_of([0, NO_TEACHER, 0, NO_TEACHER], 0.5)
    knowledge, scale = knowledge_of(positions), draw(ROWS, seed=3).abs()
    objective, head = SoftTargets(2.0, 5.0), head_of(2)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        head = OutputLayer(weight, bias)
        return objective.loss(hidden, head, knowledge, positions, scale).total

    inputs = (draw(ROWS * PER_ROW, WIDTH, seed=1).requires_grad_(), head.weight, head.bias)
    assert torch.autograd.gradcheck(loss, inputs)


def test_kd_is_structural_kd_with_one_substructure_a_position() -> None:
    """log Z_s - <mu_t, s_s> is KL up to the teacher's entropy, which has no gradient."""
    hidden, head = draw(ROWS * PER_ROW, WIDTH, seed=1), head_of(2)
    said, T = Knowledge(draw(ROWS * PER_ROW, WIDTH, seed=5), head_of(6)), 2.0
    student, mu = (
        logits_of(hidden, head) / T,
        (logits_of(said.hidden, said.head) / T).softmax(-1),
    )
    structural = T**2 * (student.logsumexp(-1) - (mu * student).sum(-1))
    entropy = T**2 * -(mu * mu.log()).sum(-1)
    torch.testing.assert_close(soft(hidden, head, said, T), (structural - entropy).sum())


def test_half_precision_products_stay_near() -> None:
    P, V, d = 64, 500, 32
    hidden = torch.randn(P, d, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = (
        torch.randn(V, d, generator=torch.Generator().manual_seed(1)).mul_(0.2).requires_grad_()
    )
    positions = Positions(
        torch.arange(P),
        torch.zeros(P, dtype=torch.long),
        torch.zeros(P, dtype=torch.bool),
        torch.full((P,), NO_TEACHER),
        torch.zeros(P),
    )
    results = []
    for half in (False, True):
        head, scale = OutputLayer(weight, None, half), torch.ones(1) / P
        loss = SoftTargets().loss(hidden, head, [], positions, scale).total
        results.append((float(loss.detach()), *torch.autograd.grad(loss, [hidden, weight])))
    (exact, *grads), (near, *others) = results
    assert near == pytest.approx(exact, rel=5e-3)
    for grad, other in zip(grads, others, strict=True):
        assert float((grad - other).norm() / grad.norm()) < 2e-2


def test_no_whole_logits_stand_in_memory() -> None:
    """The peak of the fused loss grows with its chunk, not with the positions."""
    P, V, d = 512, 4096, 8
    hidden, weight = torch.randn(P, d).requires_grad_(), torch.randn(V, d).requires_grad_()
    sizes: list[int] = []
    chunk = linear_loss._chunk

    def watched(logits: Tensor, *more: object) -> object:
        sizes.append(logits.numel())
        return chunk(logits, *more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_loss, "CHUNK_ELEMENTS", 64 * V)
        patch.setattr(linear_loss, "_chunk", watched)
        terms = [linear_loss.Term(torch.arange(P))]
        linear_loss.linear_loss(
            hidden,
            OutputLayer(weight),
            torch.zeros(P, dtype=torch.long),
            torch.ones(P),
            torch.zeros(P),
            terms,
            1.0,
        ).total.backward()  # type: ignore[no-untyped-call]
    assert max(sizes) == 64 * V
    assert sum(sizes) == P * V


def test_the_output_layers_gradient_is_held_once() -> None:
    """What the forward pass made is the weight's own gradient, while the loss is still there."""
    hidden, weight = draw(ROWS, WIDTH, seed=1), draw(VOCABULARY, WIDTH, seed=2).requires_grad_()
    where, ones = torch.arange(ROWS), torch.ones(ROWS, **double)
    terms = [linear_loss.Term(where)]
    layer = OutputLayer(weight)
    loss: Any = linear_loss.linear_loss(hidden, layer, where, ones, ones, terms, 1.0).total
    made = loss.grad_fn.saved_tensors[1].data_ptr()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.data_ptr() == made
