"""Tests that need a GPU: `make gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.language import FORMAT, NEW, curriculum, losses, no_dropout, trained

from l2kd_ray.distill import gradients
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.families.language.model.generation import generate, greedy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.mark.parametrize("vocabulary", [300, 1024, 50_257])
def test_a_softmax_over_its_own_input_is_the_one_beside_it(vocabulary: int) -> None:
    """`linear_loss` and `gradients` overwrite logits; kernels differ by their number."""
    logits = torch.randn(64, vocabulary, device="cuda")
    for softmax in (torch.softmax, torch.log_softmax):
        wanted, given = softmax(logits, -1), logits.clone()
        assert torch.equal(softmax(given, -1, out=given), wanted)


def test_the_gradient_of_forward_kl_is_that_of_float64() -> None:
    student, teacher = torch.randn(2, 32, 50_257, device="cuda")
    weight = torch.rand(32, device="cuda")
    wide = gradients.gradient(student.double(), teacher.double(), weight.double(), 2.0)
    grad, loss = gradients.gradient(student.clone(), teacher.clone(), weight, 2.0)
    torch.testing.assert_close(grad.double(), wide[0], rtol=1e-4, atol=1e-6)
    assert float(loss) == pytest.approx(float(wide[1]), rel=1e-5)


def test_a_training_and_a_decoding_are_those_of_the_cpu(tmp_path: Path) -> None:
    """Without dropout, up to rounding."""
    found = []
    for device in ("cpu", "cuda"):
        chosen = curriculum(teacher=no_dropout(seed=9), share=0.7)
        model, objective = no_dropout(), SoftTargets(2.0, 5.0)
        curve, _ = trained(tmp_path / device, chosen, objective, model=model, device=device)
        found.append(losses(curve))
        prompts = [FORMAT.qa(sample).tokens for sample in NEW]
        texts = generate(no_dropout().to(device), prompts, greedy, max_new_tokens=8, eos=FORMAT.eos)
        found.append(texts)
    assert found[2] == pytest.approx(found[0], rel=1e-3)
    assert found[3] == found[1]
