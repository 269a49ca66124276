"""A tiny language model, its samples and its training; the loss as the papers define it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l2kd_ray.core.loop import fit
from l2kd_ray.core.stage import Context, Optimisation, TrainingStage
from l2kd_ray.core.store import Store
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.families.language.model.causal_lm import CausalLM, build
from l2kd_ray.families.language.model.sequences import Sample, SequenceFormat, TrainingSequence
from l2kd_ray.families.language.model.vocabulary import train, with_tokens
from l2kd_ray.families.language.stages.curriculum import Curriculum, SampleSource
from l2kd_ray.families.language.stages.teachers import Live

TEXTS = ["inform(name=blue moon;food=thai)", "the blue moon serves thai food .", "what is it ?"]
TASKS = ("a", "b")


def make_format(bos: int | None = None, task_prompt: str = "token") -> SequenceFormat:
    tokenizer = train(TEXTS, 300)
    with_tokens(tokenizer, TASKS if task_prompt == "token" else None)
    return SequenceFormat(tokenizer, bos=bos, task_prompt=task_prompt)


FORMAT = make_format()


def make_model(arch: str = "gpt2", positions: int = 64) -> CausalLM:
    sizes: dict[str, Any] = {
        "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": positions},
        "llama": {
            "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 32,
            "num_attention_heads": 2, "max_position_embeddings": positions,
        },
        "qwen2": {
            "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 32,
            "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": positions,
        },
    }  # fmt: skip
    return build(arch, sizes[arch], FORMAT.tokenizer, seed=0)


NEW = [Sample("a", [5 + k, 6, 7, 8][: 2 + k % 3], [20 + k, 30]) for k in range(7)]
OLD = [Sample("b", [40 + k, 41], [50 + k]) for k in range(3)]
TRAINING = Optimisation(epochs=2, batch_size=4, lr=1e-2, adam_eps=1e-4, warmup=0.005)


class Dummy(TrainingStage):
    kind = "learn"

    def __init__(self, **changes: Any) -> None:
        super().__init__(optimisation=TRAINING, seed=1, **changes)


def curriculum(
    optimisation: Optimisation = TRAINING,
    replay_weight: str | float = "natural",
    replayed: list[Sample] = OLD,
    teacher: CausalLM | None = None,
    share: float = 1.0,
    **changes: Any,
) -> Curriculum:
    replay = SampleSource(replayed, 1.0 if isinstance(replay_weight, str) else replay_weight)
    new = (SampleSource(NEW, teacher=teacher and Live(teacher), share=share if teacher else 0.0),)
    separate = replay_weight == "separate"
    plain = Curriculum(new, replay, separate, FORMAT, optimisation, seed=1, stream="a")
    return replace(plain, **changes)


def context(tmp_path: Path, **changes: Any) -> Context:
    out = tmp_path / "work" / "out"
    out.mkdir(parents=True, exist_ok=True)
    return Context(Store(str(tmp_path / "store")), out, **changes)


def batches(chosen: Curriculum, epochs: int = TRAINING.epochs or 1) -> list[list[int]]:
    """The batches of some epochs."""
    found = islice(chosen.batches(0), epochs * chosen.steps_per_epoch)
    return [[*batch.indices] for batch in found]


def trained(tmp_path: Path, chosen: Curriculum, objective: SoftTargets, **more: Any) -> Any:
    model = more.pop("model", None) or make_model()
    curve = fit(Dummy(), model, replace(chosen, objective=objective), context(tmp_path, **more))
    return curve, model


def losses(curve: list[dict[str, float]]) -> list[float]:
    return [row["loss"] for row in curve]


def naive_mean(
    model: CausalLM,
    sequences: list[TrainingSequence],
    answer_weight: float = 1.0,
    teacher: CausalLM | None = None,
    temperature: float = 2.0,
) -> Tensor:
    """The mean loss of some sequences, one at a time, full logits: as the papers define it."""
    total = torch.zeros(())
    count = 0.0
    for sequence in sequences:
        tokens = torch.tensor([sequence.tokens])
        logits = model.lm(input_ids=tokens).logits[0]
        for place in range(sequence.supervised, len(sequence.tokens)):
            target = sequence.tokens[place]
            if teacher is None:
                weight = answer_weight if target == FORMAT.answer else 1.0
                total = total - weight * logits[place - 1].log_softmax(-1)[target]
                count += weight
            else:
                wanted = teacher.lm(input_ids=tokens).logits[0, place - 1]
                p, q = [(z / temperature).softmax(-1) for z in (wanted, logits[place - 1])]
                total = total + temperature**2 * (p * (p.log() - q.log())).sum()
                count += 1
    return total / count


def no_dropout(seed: int = 0) -> CausalLM:
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 64}
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    return build("gpt2", {**sizes, **off}, FORMAT.tokenizer, seed=seed)


class Stopped(Exception):
    """What ends a training in its middle."""


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """A training within ends in its middle, when it has done some steps."""
    norms, norm = iter(range(after + 1)), nn.utils.clip_grad_norm_

    def until_stop(*args: Any) -> Tensor:
        if next(norms) == after:
            raise Stopped
        return norm(*args)

    with monkeypatch.context() as patch:
        patch.setattr(nn.utils, "clip_grad_norm_", until_stop)
        with pytest.raises(Stopped):
            yield
    assert next(norms, None) is None  # it was not stopped before
