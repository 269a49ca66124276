"""The training loop: against a naive reference, and equivalences that must give one result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.language import (
    FORMAT,
    NEW,
    OLD,
    TRAINING,
    Dummy,
    Stopped,
    batches,
    context,
    curriculum,
    losses,
    make_model,
    naive_mean,
    no_dropout,
    trained,
)
from torch import Tensor

from l2kd_ray.core import loop, memory
from l2kd_ray.core.loop import fit
from l2kd_ray.core.stage import Optimisation
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import Sample
from l2kd_ray.families.language.stages.curriculum import Curriculum, SampleSource
from l2kd_ray.families.language.stages.teachers import Live

LABELS = SoftTargets()


def first_batch(chosen: Curriculum) -> tuple[list[Sample], list[Sample]]:
    batch = next(iter(chosen.batches(0))).indices
    new = [NEW[index] for index in batch if index < len(NEW)]
    old = [OLD[index - len(NEW)] for index in batch if index >= len(NEW)]
    return new, old


def test_a_part_that_was_killed_after_its_last_step_is_not_trained_on(tmp_path: Path) -> None:
    """Its checkpoint has all of its steps: what is left is to leave the files."""
    chosen, part = curriculum(replace(TRAINING, epochs=3)), Dummy(until=1)
    here = context(tmp_path, checkpoint_seconds=0.0)
    first = fit(part, model := make_model(), chosen, here)
    again = fit(part, other := make_model(), chosen, here)
    assert len(first) == chosen.steps_per_epoch
    assert again == first
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_lamols_loss_is_the_one_of_its_definition(tmp_path: Path) -> None:
    chosen = curriculum()
    new, old = first_batch(chosen)
    model = make_model().train()
    torch.manual_seed(0)
    model.lm.eval()  # the naive reference has no dropout; neither has the first step below
    wanted = naive_mean(model, [FORMAT.qa(s) for s in new + old]) + 0.25 * naive_mean(
        model, [FORMAT.lm(s) for s in new + old], answer_weight=5.0
    )
    curve, _ = trained(tmp_path, chosen, SoftTargets(answer_weight=5.0), model=no_dropout())
    assert curve[0]["loss"] == pytest.approx(wanted.item(), rel=1e-5)


def test_l2kds_loss_with_replay_of_its_own_mean(tmp_path: Path) -> None:
    model, teacher = no_dropout().eval(), no_dropout(seed=9).eval()
    chosen = curriculum(replay_weight="separate", teacher=teacher)
    new, old = first_batch(chosen)
    assert new
    assert old
    wanted = naive_mean(model, [FORMAT.qa(s) for s in new], teacher=teacher)
    wanted = wanted + naive_mean(model, [FORMAT.qa(s) for s in old])
    wanted = wanted + 0.25 * naive_mean(model, [FORMAT.lm(s) for s in new], teacher=teacher)
    wanted = wanted + 0.25 * naive_mean(model, [FORMAT.lm(s) for s in old], answer_weight=5.0)
    objective = SoftTargets(2.0, 5.0, weigh_kd=False)
    curve, _ = trained(tmp_path, chosen, objective, model=no_dropout())
    assert curve[0]["loss"] == pytest.approx(wanted.item(), rel=1e-5)


def test_samples_drawn_at_each_step_have_a_weighted_mean_of_their_own(tmp_path: Path) -> None:
    """Beside whole batches of new samples, the same again after an interruption."""
    source = SampleSource(OLD, 0.5)
    chosen = replace(curriculum(), replayed=source, separate=True, drawn=2, parts=("qa",))
    found = batches(chosen, epochs=20)
    new = [[index for index in one if index < len(NEW)] for one in found]
    assert new == batches(replace(curriculum(), replayed=SampleSource([])), epochs=20)
    drawn = [[index for index in one if index >= len(NEW)] for one in found]
    assert all(len({*one}) == 2 for one in drawn)
    assert {index for one in drawn for index in one} == {7, 8, 9}
    assert [batch.indices for batch in islice(chosen.batches(3), 5)] == found[3:8]
    model = no_dropout().eval()
    fresh, old = first_batch(chosen)
    wanted = naive_mean(model, [FORMAT.qa(s) for s in fresh])
    wanted = wanted + 0.5 * naive_mean(model, [FORMAT.qa(s) for s in old])
    curve, _ = trained(tmp_path, chosen, SoftTargets(), model=no_dropout())
    assert curve[0]["loss"] == pytest.approx(wanted.item(), rel=1e-5)


def test_the_parts_have_a_mean_each_at_any_weight_of_theirs(tmp_path: Path) -> None:
    chosen = curriculum(lm_weight=1.0)
    new, old = first_batch(chosen)
    model = no_dropout().eval()
    wanted = naive_mean(model, [FORMAT.qa(s) for s in new + old])
    wanted = wanted + naive_mean(model, [FORMAT.lm(s) for s in new + old], answer_weight=5.0)
    curve, _ = trained(tmp_path, chosen, SoftTargets(answer_weight=5.0), model=no_dropout())
    assert curve[0]["loss"] == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("recall", [True, False])
def test_the_curve_has_the_losses_terms(tmp_path: Path, recall: bool, micro: int | None) -> None:
    """Each from its definition; of a half-weighted divergence the labels keep the other half."""
    model, teacher = no_dropout().eval(), no_dropout(seed=9).eval()
    how = replace(TRAINING, micro_batch=micro)
    chosen = curriculum(how, replay_weight="separate", teacher=teacher, share=0.5)
    previous = no_dropout(seed=4).eval()
    if recall:
        chosen = replace(chosen, replayed=SampleSource(OLD, 1.0, Live(previous), 0.5))
    new, old = first_batch(chosen)

    def mean(samples: list[Sample], of: CausalLM | None = None) -> Tensor:
        qa, lm = ([form(s) for s in samples] for form in (FORMAT.qa, FORMAT.lm))
        return naive_mean(model, qa, teacher=of) + 0.25 * naive_mean(model, lm, teacher=of)

    curve, _ = trained(tmp_path, chosen, SoftTargets(2.0), model=no_dropout())
    row, qa = curve[0], [FORMAT.qa(s) for s in new]
    assert row["qa"] == pytest.approx(0.5 * naive_mean(model, qa).item(), rel=1e-5)
    assert row["qa"] + row["lm"] == pytest.approx(0.5 * mean(new).item(), rel=1e-5)
    assert row["kd"] == pytest.approx(0.5 * mean(new, teacher).item(), rel=1e-3)
    wanted = 0.5 * (mean(old) + mean(old, previous)) if recall else mean(old)
    assert row["replay"] == pytest.approx(wanted.item(), rel=1e-5)
    terms = sum(row[name] for name in ("qa", "lm", "kd", "replay"))
    assert row["loss"] == pytest.approx(terms, rel=1e-5)
    assert row["grad_norm"] > 0


def test_a_replayed_sample_counted_once_is_natural(tmp_path: Path) -> None:
    natural = trained(tmp_path / "a", curriculum(), SoftTargets(), model=no_dropout())
    once = trained(tmp_path / "b", curriculum(replay_weight=1.0), SoftTargets(), model=no_dropout())
    none = trained(tmp_path / "c", curriculum(replay_weight=0.0), SoftTargets(), model=no_dropout())
    assert losses(once[0]) == losses(natural[0])
    assert losses(none[0]) != losses(natural[0])


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("replay_weight", ["natural", "separate", 2.5])
def test_accumulation_does_not_change_the_result(
    tmp_path: Path, micro: int, replay_weight: Any
) -> None:
    objective, teacher = SoftTargets(2.0, 5.0), no_dropout(seed=9)
    whole = curriculum(replay_weight=replay_weight, teacher=teacher, share=0.7)
    parts = replace(whole, optimisation=replace(TRAINING, micro_batch=micro))
    results = [
        trained(tmp_path / str(k), chosen, objective, model=no_dropout())
        for k, chosen in enumerate((whole, parts))
    ]
    assert losses(results[0][0]) == pytest.approx(losses(results[1][0]), rel=1e-4)


def test_training_twice_gives_the_same_bits_with_dropout(tmp_path: Path) -> None:
    runs = [trained(tmp_path / str(k), curriculum(), SoftTargets()) for k in range(2)]
    assert losses(runs[0][0]) == losses(runs[1][0])
    for one, other in zip(runs[0][1].parameters(), runs[1][1].parameters(), strict=True):
        assert torch.equal(one, other)


IN_STEPS = replace(TRAINING, epochs=None, steps=5)
"""One step less than two epochs, which are of three steps."""


@pytest.mark.parametrize("length", [TRAINING, IN_STEPS], ids=["epochs", "steps"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_training_that_was_killed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, length: Optimisation
) -> None:
    chosen = curriculum(length)
    whole, model = trained(tmp_path / "whole", chosen, SoftTargets())
    steps = iter(range(100))
    accumulate = loop.accumulate

    def until_stop(*args: Any) -> Tensor:
        if next(steps) == stop:
            raise Stopped
        return accumulate(*args)

    monkeypatch.setattr(loop, "accumulate", until_stop)
    with pytest.raises(Stopped):
        trained(tmp_path / "cut", chosen, SoftTargets(), checkpoint_seconds=0.0)
    done = []

    def count(*args: Any) -> Tensor:
        done.append(1)
        return accumulate(*args)

    monkeypatch.setattr(loop, "accumulate", count)
    resumed, other = trained(tmp_path / "cut", chosen, SoftTargets(), checkpoint_seconds=0.0)
    assert len(done) == len(whole) - stop  # nothing before the checkpoint was done again
    assert resumed == whole
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_as_many_steps_as_some_epochs_have_give_their_bits(tmp_path: Path) -> None:
    """With warm-up and decay, which follow the steps."""
    how = replace(TRAINING, warmup=0.4)
    steps = 2 * curriculum().steps_per_epoch
    runs = [
        trained(tmp_path / str(steps), curriculum(replace(how, epochs=epochs, steps=steps)), LABELS)
        for epochs, steps in ((2, None), (None, steps))
    ]
    assert runs[0][0] == runs[1][0]
    for one, two in zip(runs[0][1].parameters(), runs[1][1].parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("steps", [2, 5, 7])
def test_any_amount_of_data_takes_the_same_steps(tmp_path: Path, steps: int) -> None:
    """Replay makes an epoch longer, and no training: the data come again, or not all of them."""
    how = replace(TRAINING, epochs=None, steps=steps)
    curves = [
        trained(tmp_path / str(len(old)), curriculum(how, replayed=old), LABELS)[0]
        for old in ([], OLD)
    ]
    assert [row["lr"] for row in curves[0]] == [row["lr"] for row in curves[1]]
    assert len(curves[0]) == steps
    assert losses(curves[0]) != losses(curves[1])


def test_a_teacher_without_weight_changes_nothing_but_rounding(tmp_path: Path) -> None:
    """The kernel sums in another sequence. In a study such a stage has no teacher: weight 0 has the
    key of LAMOL's stage (test_methods)."""
    objective = SoftTargets(temperature=3.0, answer_weight=5.0)
    zero = curriculum(teacher=make_model(), share=0.0)
    runs = [
        trained(tmp_path / "a", curriculum(), SoftTargets(answer_weight=5.0), model=no_dropout()),
        trained(tmp_path / "b", zero, objective, model=no_dropout()),
    ]
    assert losses(runs[0][0]) == pytest.approx(losses(runs[1][0]), rel=1e-6)


def test_gold_answers_as_targets_are_the_given_answers_bit_for_bit(tmp_path: Path) -> None:
    given, copied = curriculum(), curriculum(new=(SampleSource([replace(s) for s in NEW]),))
    assert (
        trained(tmp_path / "a", given, SoftTargets())[0]
        == (trained(tmp_path / "b", copied, SoftTargets())[0])
    )


def test_two_versions_of_the_samples_are_mixed_by_their_weights(tmp_path: Path) -> None:
    """`w` of a teacher's answers and `1 - w` of the given ones is the weighted mean of both."""
    other = [replace(sample, answer=[60, 61]) for sample in NEW]
    chosen = curriculum(new=(SampleSource(other, 0.3), SampleSource(NEW, 0.7)), replayed=[])
    batch = next(iter(chosen.batches(0))).indices
    model = no_dropout().eval()
    wanted = torch.zeros(())
    for part, weight, answer_weight in ((FORMAT.qa, 1.0, 1.0), (FORMAT.lm, 0.25, 5.0)):
        total, count = torch.zeros(()), 0.0
        for version, share in ((other, 0.3), (NEW, 0.7)):
            sequences = [part(version[index]) for index in batch]
            tokens = sum(
                answer_weight if token == FORMAT.answer else 1.0
                for sequence in sequences
                for token in sequence.tokens[sequence.supervised :]
            )
            total = total + share * tokens * naive_mean(model, sequences, answer_weight)
            count += share * tokens
        wanted = wanted + weight * total / count
    curve, _ = trained(tmp_path, chosen, SoftTargets(answer_weight=5.0), model=no_dropout())
    assert curve[0]["loss"] == pytest.approx(wanted.item(), rel=1e-5)


def test_two_teachers_speak_each_on_its_samples(tmp_path: Path) -> None:
    teachers = no_dropout(seed=9), no_dropout(seed=8)
    chosen = curriculum(
        new=(SampleSource(NEW, teacher=Live(teachers[0]), share=1.0),),
        replayed=OLD,
        replay_weight="separate",
    )
    chosen = replace(chosen, replayed=SampleSource(OLD, teacher=Live(teachers[1]), share=1.0))
    new, old = first_batch(chosen)
    model = no_dropout().eval()
    wanted = torch.zeros(())
    for part, weight in ((FORMAT.qa, 1.0), (FORMAT.lm, 0.25)):
        for samples, teacher in ((new, teachers[0]), (old, teachers[1])):
            mean = naive_mean(model, [part(s) for s in samples], teacher=teacher.eval())
            wanted = wanted + weight * mean
    curve, _ = trained(tmp_path, chosen, SoftTargets(2.0, 5.0), model=no_dropout())
    # fresh models are near each other: the loss is small, and float32 cancels in it
    assert curve[0]["loss"] == pytest.approx(wanted.item(), rel=1e-3)


def test_a_student_like_its_teacher_has_no_loss_and_no_gradient(tmp_path: Path) -> None:
    one_step = replace(TRAINING, epochs=1, batch_size=16)
    model, teacher = no_dropout(), no_dropout()
    chosen = curriculum(replayed=[], optimisation=one_step, teacher=teacher)
    curve, _ = trained(tmp_path, chosen, SoftTargets(2.0), model=model)
    assert losses(curve) == pytest.approx([0.0], abs=1e-7)
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) < 1e-7


def test_every_sample_comes_once_an_epoch_in_an_order_of_the_seed_and_task() -> None:
    one, other = batches(curriculum()), batches(curriculum(stream="b"))
    steps = curriculum().steps_per_epoch
    for epoch in range(2):
        own = one[epoch * steps : (epoch + 1) * steps]
        assert sorted(index for batch in own for index in batch) == list(range(10))
    assert one != other
    assert batches(curriculum()) == one
    for step in range(len(one)):
        rest = islice(curriculum().batches(step), len(one) - step)
        assert [(b.step, b.indices) for b in rest] == [*enumerate(one)][step:]


def test_epochs_have_other_batches_and_other_dropout(tmp_path: Path) -> None:
    chosen = curriculum()
    steps = chosen.steps_per_epoch
    assert batches(chosen)[:steps] != batches(chosen)[steps:]
    # The whole data is one batch, and nothing is learnt: but for the masks nothing differs.
    still = replace(TRAINING, epochs=2, lr=1e-12, batch_size=len(chosen))
    curve, _ = trained(tmp_path, curriculum(still), SoftTargets(answer_weight=5.0))
    assert curve[0]["loss"] != pytest.approx(curve[1]["loss"], rel=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_epsilon_before_the_bias_correction_is_the_originals_optimizer(decay: float) -> None:
    """AdamW as the original's library has it, written out; it decays weights after the step."""
    how = replace(TRAINING, lr=0.01, adam_eps=1e-4, weight_decay=decay, eps_first=True)
    model = torch.nn.Linear(3, 2, bias=False).double()
    weight = model.weight.detach().clone()
    mean, square, moved = torch.zeros(2, 3), torch.zeros(2, 3), weight.clone()
    optimizer = loop._optimizer(model, how)
    draws = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        gradient = 1e-4 * torch.randn(2, 3, dtype=torch.float64, generator=draws)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        size = how.lr * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        moved = moved - size * mean / (square.sqrt() + how.adam_eps)
        moved = moved - how.lr * decay * moved
        model.weight.grad = gradient
        for group in optimizer.param_groups:
            group["eps"] = loop._eps(how, step - 1)
        optimizer.step()
    here, there = model.weight.detach() - weight, moved - weight
    # Decay before or after a step differs by lr * decay of that step.
    torch.testing.assert_close(here, there, rtol=1e-3 if decay else 1e-6, atol=1e-9)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_only_tf32_is_tf32(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In matrix products, and in cuDNN's recurrent layers and convolutions."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    before = torch.get_float32_matmul_precision()
    with loop._kernels(False, precision):
        assert torch.backends.cudnn.allow_tf32 is (precision == "tf32")
        assert (torch.get_float32_matmul_precision() == "high") is (precision == "tf32")
    assert torch.backends.cudnn.allow_tf32 is True
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("shared", [True, False])
def test_autocast_keeps_no_layers_of_a_model_that_is_shared_out(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their copies in bfloat16 would be a whole model on every worker."""
    where = "l2kd_ray.families.language.stages.curriculum.is_sharded"
    monkeypatch.setattr(where, lambda _: shared)
    model, keeps = no_dropout(), set[bool]()
    model.register_forward_pre_hook(lambda *_: keeps.add(torch.is_autocast_cache_enabled()))
    trained(tmp_path, curriculum(precision="bfloat16"), LABELS, model=model)
    assert keeps == {not shared}


def test_the_originals_epsilon_makes_first_steps_small() -> None:
    """At the first step it is 1 / sqrt(1 - 0.999) times the setting, in the end the setting."""
    how = replace(TRAINING, adam_eps=1e-4, eps_first=True)
    assert loop._eps(how, 0) == pytest.approx(31.6e-4, rel=1e-3)
    assert loop._eps(how, 10_000) == pytest.approx(1e-4, rel=1e-3)
    assert loop._eps(replace(how, eps_first=None), 0) == 1e-4


def test_a_warm_up_is_a_share_of_the_training_or_of_an_epoch(tmp_path: Path) -> None:
    rates = {}
    for share in (None, True):
        how = replace(TRAINING, epochs=4, warmup=0.5, warmup_of_epoch=share)
        curve, _ = trained(tmp_path / str(share), curriculum(how), SoftTargets())
        rates[share] = [row["lr"] for row in curve]
    steps = curriculum().steps_per_epoch
    assert rates[None].index(TRAINING.lr) == 2 * steps
    assert rates[True].index(TRAINING.lr) == steps // 2
    assert rates[True][-1] == pytest.approx(TRAINING.lr / (3.5 * steps))


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    rates = [loop._schedule(step, 100, 10) for step in range(100)]
    assert rates.index(max(rates)) == 10
    assert max(rates) == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    wild = curriculum(optimisation=replace(TRAINING, lr=1e30))
    with pytest.raises(FloatingPointError, match=r"train\.lr"):
        trained(tmp_path, wild, SoftTargets())


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_step_that_does_not_fit_is_done_again_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """With the same draws, in the middle of its backward pass: the losses are those of parts."""
    chosen = curriculum(optimisation=replace(TRAINING, batch_size=8))
    wanted, _ = trained(tmp_path / "whole", chosen, LABELS, model=no_dropout())
    steps, sizes, inner = iter(range(100)), list[int](), Curriculum.loss

    def narrow(self: Any, model: Any, network: Any, rows: Any, *rest: Any) -> Any:
        found = inner(self, model, network, rows, *rest)
        if next(steps) >= fails_at and len(rows) > 2 * self.rows_per_example:
            found[0].backward()
            raise torch.OutOfMemoryError
        sizes.append(len(rows))
        return found

    monkeypatch.setattr(Curriculum, "loss", narrow)
    monkeypatch.setattr(memory.Fitting, "_known", {})
    here = context(tmp_path / "halves")
    curve = fit(Dummy(), no_dropout(), replace(chosen, objective=LABELS), here)
    assert losses(curve) == pytest.approx(losses(wanted), rel=1e-4)
    assert here.notes["micro_batch"] == 2
    assert max(sizes[fails_at:]) <= 4
    # The next training of this process begins with what fits.
    sizes.clear()
    fit(Dummy(), no_dropout(), replace(chosen, objective=LABELS), context(tmp_path / "next"))
    assert max(sizes) <= 4


def test_an_example_that_does_not_fit_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Curriculum, "loss", full)
    monkeypatch.setattr(memory.Fitting, "_known", {})
    with pytest.raises(torch.OutOfMemoryError):
        trained(tmp_path, curriculum(), LABELS)


@pytest.mark.parametrize("make", [make_model, no_dropout])
def test_activations_computed_again_are_the_same(
    tmp_path: Path, make: Callable[[], CausalLM]
) -> None:
    """With dropout to the bit; without it a CPU takes another kernel of attention."""
    models = [make(), make()]
    models[1].checkpoint_activations()
    curves = [
        trained(tmp_path / str(n), curriculum(), LABELS, model=model)[0]
        for n, model in enumerate(models)
    ]
    assert losses(curves[0]) == pytest.approx(losses(curves[1]), rel=1e-5)
    if make is make_model:
        assert curves[0] == curves[1]
