"""LoRA: what it trains and what it leaves alone, and that a plain model comes out of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.language import FORMAT, make_model, stopped
from helpers.studies import TINY, planned
from helpers.weights import weights
from torch import Tensor, nn

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.families.language import builder
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import SequenceFormat
from l2kd_ray.families.language.stages.adapters import LoraUpdate
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.study import load
from l2kd_ray.testing.executors import losses

pytest.importorskip("peft")
from l2kd_ray.families.language.model.lora import attach, merge

RANK = 3
LORA = {**TINY["train"], "lora": {"r": RANK, "lora_alpha": 12}, "weight_decay": 0.1, "lr": 2e-2}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96},
    "llama": {  # its output layer has a weight of its own
        "arch": "llama", "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24,
        "num_attention_heads": 2, "max_position_embeddings": 96,
    },
    "qwen2": {
        "arch": "qwen2", "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 96,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
AGEM = {"ratio": 1, "batch_size": 3}
ADAPTED = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"], "qwen2": ["q_proj", "v_proj"]}


def path(arch: str = "gpt2", method: str = "finetune", **changes: Any) -> list[Any]:
    """The student of a method after each of two tasks."""
    study = planned(
        methods=[method],
        student=SIZES[arch],
        orders=["gen.rest>gen.intent"],
        **{"train": LORA, **changes},
    )
    trial = next(t for t in study.trials() if t.method == method)
    return [step[0].stage.model for step in trial.steps]


@pytest.mark.parametrize("arch", SIZES)
@pytest.mark.parametrize("method", ["lamol", "finetune"])
def test_only_low_rank_updates_and_the_rows_of_new_tokens_change(
    store: Store, arch: str, method: str
) -> None:
    start, stage = path(arch, method)[:2]
    before, after = weights(start, store), weights(stage, store)
    added = SequenceFormat.load(store.fetch("initial", start.key)).added
    old = torch.ones(len(next(v for k, v in before.items() if "wte" in k or "embed" in k)))
    old[added] = 0
    assert before.keys() == after.keys()
    adapted = embeddings = 0
    for name, value in before.items():
        if any(f".{layer}.weight" in name for layer in ADAPTED[arch]):
            change = after[name] - value
            singular = torch.linalg.svdvals(change.double())
            assert singular[0] > 1e-3
            assert float(singular[RANK] / singular[0]) < 1e-4
            adapted += 1
        elif len(value) == len(old):
            assert torch.equal(value[old > 0], after[name][old > 0])
            moved = (value[added] != after[name][added]).any(-1)
            # Each is among what is predicted; not each is among what is read.
            assert moved.all() or (arch == "llama" and "embed" in name and moved.any())
            embeddings += 1
        else:
            assert torch.equal(value, after[name])
    assert adapted == len(ADAPTED[arch])
    assert embeddings == (2 if arch == "llama" else 1)


FOUR = {**LORA, "lora": {**LORA["lora"], "load_in_4bit": True}}


@pytest.mark.parametrize("arch", SIZES)
def test_weights_in_4_bits_get_updates_like_those_of_float32(store: Store, arch: str) -> None:
    """And are merged as they were: an update of a layer has the updates' rank."""
    pytest.importorskip("bitsandbytes")
    start, stage = path(arch, train=FOUR)[:2]
    before, after = weights(start, store), weights(stage, store)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if any(f".{layer}.weight" in name for layer in ADAPTED[arch]):
            singular = torch.linalg.svdvals((after[name] - value).double())
            assert singular[0] > 1e-3
            assert float(singular[RANK] / singular[0]) < 1e-4
    plain = path(arch)[1]
    obtain(plain, store)
    assert stage.key != plain.key
    assert losses(store, stage) != losses(store, plain)
    assert losses(store, stage) == pytest.approx(losses(store, plain), rel=0.1)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "train.lora.load_in_4bit"),
        ({"methods": ["seq-lora"]}, "train.lora.load_in_4bit"),
        ({"methods": ["sdft"], "kd": {"self_teacher": "ema"}}, "kd.self_teacher"),
    ],
)
def test_weights_in_4_bits_are_refused_where_they_cannot_be(
    monkeypatch: pytest.MonkeyPatch, study_file: Any, changes: dict[str, Any], key: str
) -> None:
    """Without bitsandbytes, with the way to install it; and with it, what cannot use them."""
    there = {"peft", *(["bitsandbytes"] if changes else [])}
    monkeypatch.setattr(builder, "find_spec", lambda name: name if name in there else None)
    with pytest.raises(InputError) as refused:
        load(study_file(train=FOUR, **changes)).trials()
    assert str(refused.value.key).endswith(key)
    assert changes or refused.value.fix == "pip install 'l2kd-ray[qlora]'"


@pytest.mark.parametrize("arch", SIZES)
def test_the_merged_model_says_what_the_adapted_one_did(arch: str) -> None:
    model = make_model(arch)
    plain, names = deepcopy(model.state_dict()), [name for name, _ in model.named_parameters()]
    model.eval()
    adapted = attach(model, LoraUpdate(RANK, 12, 0.0, None), FORMAT.added, seed=1)
    input_ids, places = torch.arange(5, 17).view(2, 6), torch.arange(12)

    def logits() -> Tensor:
        with torch.no_grad():
            out: Tensor = model.head(model(input_ids, places))
            return out

    torch.testing.assert_close(logits(), of_plain(arch, input_ids, places))  # at first it is none
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    factors = {name: value.detach().clone() for name, value in model.named_parameters()}
    wanted = logits()
    assert not torch.allclose(wanted, of_plain(arch, input_ids, places), atol=1e-3)
    merge(model, adapted)
    torch.testing.assert_close(logits(), wanted, atol=1e-5, rtol=1e-4)
    assert [name for name, _ in model.named_parameters()] == names
    assert all(value.requires_grad for value in model.parameters())
    checked = 0
    for name, value in model.named_parameters():
        a, b = (
            factors.get(name.removesuffix("weight") + f"lora_{x}.default.weight")
            for x in ("A", "B")
        )
        if (
            name.endswith("weight") and a is not None and b is not None
        ):  # W + alpha / r * B A; GPT-2 keeps W transposed
            update = 12 / RANK * b @ a
            update = update.T if arch == "gpt2" else update
            torch.testing.assert_close(value.detach(), plain[name] + update, atol=1e-5, rtol=1e-4)
            checked += 1
    assert checked == 2 * len(ADAPTED[arch])


def of_plain(arch: str, input_ids: Tensor, places: Tensor) -> Tensor:
    model = make_model(arch).eval()
    with torch.no_grad():
        out: Tensor = model.head(model(input_ids, places))
        return out


@pytest.mark.parametrize("arch", SIZES)
def test_the_backbone_is_frozen_until_it_is_merged(arch: str) -> None:
    model = make_model(arch)
    attach(model, LoraUpdate(RANK, 16, 0.0, None), FORMAT.added, seed=1)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    rest = {name for name in trained if "lora_" not in name}
    tables = [model.lm.get_input_embeddings().weight, model.lm.get_output_embeddings().weight]
    named = dict(model.named_parameters())
    assert all(any(named[name] is table for table in tables) for name in rest)
    assert len(rest) == (1 if arch == "gpt2" else 2)
    assert len(trained - rest) == 2 * 2 * len(ADAPTED[arch])  # A and B, two layers
    assert len(trained) < len(named)


def test_no_gradient_reaches_the_rows_of_old_tokens() -> None:
    """Nor does it after several backward passes, which are summed."""
    model = make_model("llama")
    attach(model, LoraUpdate(RANK, 16, 0.0, None), FORMAT.added, seed=1)
    for _ in range(2):
        model.head(
            model(torch.arange(5, 17).view(2, 6), torch.arange(12))
        ).square().sum().backward()
    for layer in (model.lm.get_input_embeddings(), model.lm.get_output_embeddings()):
        reached = layer.weight.grad.abs().sum(-1).nonzero().flatten().tolist()
        assert set(reached) <= set(FORMAT.added)
    assert reached == FORMAT.added  # the output layer predicts among all


def test_embeddings_are_not_to_be_adapted() -> None:
    """The loss reads the output layer's weight: an update beside it would not be seen."""
    for arch, target in (("llama", "lm_head"), ("llama", "embed_tokens"), ("gpt2", "wte")):
        with pytest.raises(ValueError, match=r"train\.lora\.target_modules"):
            attach(make_model(arch), LoraUpdate(8, 16, 0.0, (target,)), FORMAT.added, seed=1)


@pytest.mark.parametrize("targets", [("c_fc",), ("c_attn", "c_proj")])
def test_the_layers_may_be_named(store: Store, targets: tuple[str, ...]) -> None:
    start, stage = path(train={**LORA, "lora": {"r": 1, "target_modules": list(targets)}})[:2]
    before, after = weights(start, store), weights(stage, store)
    changed = {
        name.split(".")[-2]
        for name in before
        if name.endswith("weight") and not torch.equal(before[name], after[name])
    }
    assert changed == {*targets, "wte"}


def test_training_is_deterministic(tmp_path: Path) -> None:
    stage = path(train={**LORA, "lora": {"r": RANK, "lora_dropout": 0.3}})[1]
    one, other = (weights(stage, Store(str(tmp_path / name))) for name in ("a", "b"))
    for name, value in one.items():
        assert torch.equal(value, other[name])


def test_workers_exchange_the_gradients_of_the_updates(tmp_path: Path, as_a_worker: Any) -> None:
    stage = path(train={**LORA, "lora": {"r": RANK, "lora_dropout": 0.0}})[1]
    alone = weights(stage, Store(str(tmp_path / "alone")))
    with as_a_worker():
        found = weights(stage, Store(str(tmp_path / "wrapped")))
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("method", ["lamol", "gem", "agem", "seq-lora", "o-lora"])
def test_a_training_that_was_killed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    train = {**LORA, "lora": {"r": RANK, "lora_dropout": 0.1}}
    stage = path(method=method, train=train, gem={"ratio": 1}, agem=AGEM)[2]
    one, other = Store(str(tmp_path / "one")), Store(str(tmp_path / "other"))
    whole = weights(stage, one)
    obtain(stage.start, other)
    for _, source in stage.inputs():
        obtain(source, other)
    with stopped(monkeypatch, after=2):
        obtain(stage, other, checkpoint_seconds=0.0)
    steps, norm = [], nn.utils.clip_grad_norm_

    def count(*args: Any) -> Tensor:
        steps.append(1)
        return norm(*args)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", count)
    resumed = weights(stage, other)
    assert len(steps) == int(obtain(stage, other)["steps"]) - 2
    for name, value in whole.items():
        assert torch.equal(value, resumed[name])


@pytest.mark.parametrize("arch", SIZES)
def test_a_saved_student_needs_no_peft(
    store: Store, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    stage = path(arch)[1]
    obtain(stage, store)
    folder = store.fetch("learn", stage.key)
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    with pytest.raises(ImportError):
        import peft  # noqa: F401
    model = CausalLM.load(folder)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert not (folder / "adapter_config.json").exists()  # or transformers would ask for peft
    assert 0 <= obtain(evaluation(stage), store)["rouge"] <= 100


def evaluation(stage: Learn) -> Any:
    from l2kd_ray.families.examples import Examples
    from l2kd_ray.families.language.stages.evaluate import EvaluateLM
    from l2kd_ray.tasks import Task

    task: Task = planned().resolved.tasks["gen.rest"]
    return EvaluateLM(stage, Examples(task.splits["test"]), "rouge", max_new_tokens=6)


def test_students_go_on_from_task_to_task(store: Store) -> None:
    """The second task begins with the merged weights; averaging is with those of before it."""
    plain = path(method="l2kd")
    mean = path(method="l2kd", train={**LORA, "average": 0.25})
    assert plain[1] == mean[1]
    before, after, averaged = (weights(s, store) for s in (plain[1], plain[2], mean[2]))
    changes = 0
    for name, value in averaged.items():
        assert torch.equal(value, after[name].lerp(before[name], 0.25))
        changes += not torch.equal(before[name], after[name])
    assert changes == 2  # c_attn and the embedding


def test_each_task_draws_updates_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else adapters that are to be orthogonal (O-LoRA) would begin in parallel."""
    seen, attach_own = [], LoraUpdate.attach

    def noted(self: LoraUpdate, model: Any, text: Any, seed: int, *rest: Any) -> Any:
        seen.append(seed)
        return attach_own(self, model, text, seed, *rest)

    monkeypatch.setattr(LoraUpdate, "attach", noted)
    weights(path()[-1], store)
    assert len(set(seen)) == len(seen) == 2


def test_the_seed_draws_the_updates(store: Store) -> None:
    model, other = make_model(), make_model()
    attach(model, LoraUpdate(RANK, 16, 0.0, None), FORMAT.added, seed=1)
    attach(other, LoraUpdate(RANK, 16, 0.0, None), FORMAT.added, seed=2)
    named = dict(other.named_parameters())
    drawn = [(v, named[name]) for name, v in model.named_parameters() if "lora_A" in name]
    assert drawn
    assert not any(torch.equal(one, two) for one, two in drawn)
