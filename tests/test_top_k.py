"""A teacher's most likely tokens: against autograd, against the whole, and how far they are off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.distill.gradients import bias, gradient
from l2kd_ray.distill.top_k import MostLikely
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.stages.annotate import Annotate

V, P = 9, 4


def logits(seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(P, V, generator=generator, dtype=torch.float64)


def reference(student: Tensor, teacher: Tensor, k: int, temperature: float) -> Tensor:
    """KL over the k best tokens of each position, and the others as so many equal ones."""
    total = student.new_zeros(())
    for z, t in zip(student, teacher, strict=True):
        best = t.argsort(descending=True)[:k]
        others = torch.tensor([v for v in range(V) if v not in best])
        equal = torch.full((len(others),), float(t[others].logsumexp(0)), dtype=t.dtype)
        equal -= torch.log(torch.tensor(float(len(others))))
        p = torch.softmax(torch.cat([t[best], equal]) / temperature, 0)
        p = torch.cat([p[:k], p[k:].sum(0, keepdim=True)])
        s = torch.softmax(z / temperature, 0)
        s = torch.cat([s[best], s[others].sum(0, keepdim=True)])
        total = total + (p * (p.log() - s.log())).sum()
    return total * temperature**2


@settings(max_examples=40)
@given(
    k=st.integers(1, V - 1),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 5.0]),
    seed=st.integers(0, 99),
)
def test_loss_and_gradient_are_those_of_k_and_one_classes(
    k: int, temperature: float, seed: int
) -> None:
    student, teacher = logits(seed).requires_grad_(), logits(seed + 100)
    wanted = reference(student, teacher, k, temperature)
    wanted.backward()  # type: ignore[no-untyped-call]
    weight = torch.ones(P, dtype=torch.float64)
    grad, loss = gradient(student.detach().clone(), MostLikely.of(teacher, k), weight, temperature)
    assert student.grad is not None
    torch.testing.assert_close(loss, wanted.detach())
    torch.testing.assert_close(grad, student.grad)


def test_a_student_that_is_sure_has_the_loss_of_what_is_left() -> None:
    """In float32, 1 less the kept tokens' mass would be rounding and no mass."""
    teacher = logits(1)
    best = teacher.argmax(-1, keepdim=True)
    student = logits(0).scatter(-1, best, 20.0).requires_grad_()  # about 1e-7 for all others
    wanted = reference(student, teacher, 1, 1.0)
    wanted.backward()  # type: ignore[no-untyped-call]
    kept, weight = MostLikely.of(teacher.float(), 1), torch.ones(P)
    grad, loss = gradient(student.detach().float(), kept, weight, 1.0)
    torch.testing.assert_close(loss.double(), wanted.detach(), rtol=1e-5, atol=0)
    assert student.grad is not None
    torch.testing.assert_close(grad.double(), student.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_all_tokens_but_one_are_the_whole_distribution(temperature: float) -> None:
    student, teacher, weight = logits(1), logits(2), torch.arange(P) / 2.0
    kept = MostLikely.of(teacher, V - 1)
    exact = gradient(student.clone(), teacher.clone(), weight, temperature)
    torch.testing.assert_close(gradient(student.clone(), kept, weight, temperature), exact)
    said = bias([(student, teacher, kept)], temperature)
    assert said["error"] == pytest.approx(0, abs=1e-12)
    assert said["cosine"] == pytest.approx(1)


def test_the_error_is_that_of_the_gradient_in_its_own_norm() -> None:
    student, teacher, T = logits(1), logits(2), 2.0
    kept, ones = MostLikely.of(teacher, 2), torch.ones(P, dtype=torch.float64)
    exact, _ = gradient(student.clone(), teacher.clone(), ones, T)
    biased, _ = gradient(student.clone(), kept, ones, T)
    said = bias([(student, teacher, kept)], T)
    assert said["error"] == pytest.approx(float((biased - exact).norm() / exact.norm()))
    p = torch.softmax(teacher / T, -1).gather(-1, kept.tokens).sum(-1)
    assert said["mass"] == pytest.approx(float(p.mean()))
    assert said["cosine"] == pytest.approx(
        float(torch.cosine_similarity(exact.flatten(), biased.flatten(), dim=0))
    )
    parts = [(student[part], teacher[part], kept[part]) for part in (slice(2), slice(2, P))]
    assert bias(parts, T) == pytest.approx(said)


def test_a_student_that_is_sure_of_what_was_kept_has_a_finite_loss_and_gradient() -> None:
    """What it gives to all other tokens is 0 in its floats."""
    teacher = logits(2).float()
    kept = MostLikely.of(teacher, 1)
    sure = torch.zeros(P, V).scatter(-1, kept.tokens, 500.0)
    grad, loss = gradient(sure, kept, torch.ones(P), 1.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()
    assert loss > 0


def test_what_is_lost_grows_with_the_temperature() -> None:
    student, teacher = logits(3, scale=0.1), logits(4, scale=3.0)
    kept = MostLikely.of(teacher, 2)
    cold, warm = (bias([(student, teacher, kept)], temperature) for temperature in (1.0, 4.0))
    assert cold["mass"] > warm["mass"]
    assert cold["error"] < warm["error"]


def test_the_student_says_how_far_its_gradient_was_off(tiny: Any, store: Store) -> None:
    """In a real training: nearly all tokens teach as the hidden states do, few do not."""
    found = {}
    for k in (None, 4, 300):
        study = tiny(methods=["l2kd"], kd={"teacher": "cached", "top_k": k})
        trial = next(trial for trial in study.trials() if trial.method == "l2kd")
        student = trial.steps[1][0].stage.model
        assert isinstance(student.teacher, Annotate)
        found[k] = obtain(student, store)
    assert not any(name.startswith("top_k/") for name in found[None])
    assert found[300]["top_k/cosine"] > found[4]["top_k/cosine"]
    assert found[300]["top_k/error"] < found[4]["top_k/error"]
    assert found[300]["top_k/mass"] > found[4]["top_k/mass"]


def test_given_answers_beside_the_teachers_have_no_part_in_its_word(
    tiny: Any, store: Store
) -> None:
    """seq-soft at weight 0.5 learns the given answers, too, on which no teacher speaks."""
    kd = {"objective": "seq-soft", "weight": 0.5, "teacher": "cached", "top_k": 20}
    trial = next(t for t in tiny(methods=["l2kd"], kd=kd).trials() if t.method == "l2kd")
    assert 0 < obtain(trial.steps[1][0].stage.model, store)["top_k/mass"] <= 1


def test_what_cannot_be_kept_is_refused(tiny: Any, store: Store) -> None:
    with pytest.raises(InputError, match="cached teacher"):
        tiny(methods=["l2kd"], kd={"teacher": "online", "top_k": 4})
    study = tiny(methods=["l2kd"], kd={"top_k": 100_000})
    trial = next(trial for trial in study.trials() if trial.method == "l2kd")
    with pytest.raises(ValueError, match="top_k=100000: the vocabulary has"):
        obtain(trial.steps[1][0].stage.model, store)
