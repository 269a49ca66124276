"""Tests on a pretended device; `test_pretended_device` runs them in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.language import FORMAT, NEW, curriculum, losses, make_model, no_dropout, trained
from pretended_device import NAME, Notes, pretended

from l2kd_ray.core import loop
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.generation import TopK, generate, greedy
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.testing.studies import tiny


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notes]:
    save = CausalLM.save  # of the CPU's tensors alone: safetensors asks for their addresses
    monkeypatch.setattr(CausalLM, "save", lambda self, folder: save(self.to("cpu"), folder))
    with pretended(monkeypatch) as notes:
        yield notes


def test_a_training_step_waits_for_the_device_at_most_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: Notes
) -> None:
    """And has the losses of the CPU, up to the rounding of another attention kernel."""
    counts: list[int] = []
    accumulate = loop.accumulate

    def counted(*args: Any) -> Any:
        counts.append(len(notes.waits))
        return accumulate(*args)

    teacher = no_dropout(seed=9)
    objective = SoftTargets(2.0, 5.0)
    wanted, _ = trained(
        tmp_path / "cpu", curriculum(teacher=teacher, share=0.7), objective, model=no_dropout()
    )
    monkeypatch.setattr(loop, "accumulate", counted)
    chosen = curriculum(teacher=teacher, share=0.7)
    there = trained(tmp_path / "pret", chosen, objective, model=no_dropout(), device=NAME)[0]
    assert losses(there) == pytest.approx(losses(wanted), rel=1e-4)
    steps = [after - before for before, after in pairwise(counts)]

    assert max(steps) <= 2, notes.waits[counts[0] : counts[1]]


def test_a_gradients_norm_may_stand_in_the_hosts_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: Notes
) -> None:
    """Where `cpu_offload` leaves it, while the losses are on the device."""
    wanted, _ = trained(tmp_path / "cpu", curriculum(), SoftTargets(), model=no_dropout())
    monkeypatch.setattr(loop, "whole", lambda tensor: tensor.cpu())
    there, _ = trained(
        tmp_path / "pret", curriculum(), SoftTargets(), model=no_dropout(), device=NAME
    )
    assert there[0]["grad_norm"] == pytest.approx(wanted[0]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("sampled", [False, True])
def test_decoding_waits_for_the_device_once_in_eight_tokens(notes: Notes, sampled: bool) -> None:
    prompts = [FORMAT.qa(sample).tokens for sample in NEW]
    model, length = make_model().eval(), 32

    def decode() -> list[list[int]]:
        streams = [np.random.default_rng(n) for n in range(len(prompts))]
        sampler = TopK.seeded(5, 1.0, streams, length, model.device) if sampled else greedy
        return generate(model, prompts, sampler, max_new_tokens=length, eos=FORMAT.eos)

    wanted = decode()
    model.to(NAME)
    notes.clear()
    assert decode() == wanted

    assert len(notes.waits) <= length / 8 + 2


SETTINGS: list[dict[str, Any]] = [
    {"kd.teacher": "cached", "replay.top_k": 5},
    {"kd.objective": "seq-soft", "kd.teacher": "online", "kd.weight": 0.5},
    {"kd.top_k": 5, "kd.teachers": "both"},
]
LANGUAGE = [
    ("l2kd", SETTINGS[0]),
    *(pytest.param("l2kd", settings, marks=pytest.mark.drill) for settings in SETTINGS[1:]),
    ("ewc", {}),
    ("gem", {}),
    ("ssr", {"ssr.shots": 1}),
]


@pytest.mark.parametrize(("method", "settings"), LANGUAGE)
def test_no_stage_mixes_devices(
    tmp_path: Path, notes: Notes, method: str, settings: dict[str, Any]
) -> None:
    """Of a stream of two tasks, from the tokenizer to the evaluation of the last student."""
    small = {"train.epochs": 1, "evaluate.max_new_tokens": 2, "max_train": 8, "max_test": 2}
    study = resolve_study(parse_study(tiny(methods=[method]), {**small, **settings}), "pretended")
    store = Store(str(tmp_path))
    trial = next(trial for trial in study.trials() if trial.method == method)
    for cell in trial.steps[-1]:
        obtain(cell.stage, store, device=NAME)
        manifest = store.manifest(cell.stage.kind, cell.stage.key)
        assert manifest is not None
        assert manifest.environment["device"] == NAME
