"""Two real workers, without Ray: what they sum over the global batch is what one sums alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.workers import WORKERS, resume, worker
from safetensors.torch import load_file
from torch import Tensor

from l2kd_ray.core import loop
from l2kd_ray.core.checkpoint import Progress, save
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import Context, Stage
from l2kd_ray.core.store import Store
from l2kd_ray.families.language.methods import rehearsal
from l2kd_ray.families.language.stages import constraints
from l2kd_ray.families.structures.stages.lessons import Best
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.testing.executors import losses
from l2kd_ray.testing.executors import student as language_student
from l2kd_ray.testing.studies import TINY, tiny

NO_DROPOUT = [f"{name}_pdrop" for name in ("attn", "embd", "resid")]


def student(family: str, method: str, **changes: Any) -> Stage:
    """The method's student, without dropout."""
    study = resolve_study(parse_study(tiny(family, methods=[method], **changes)), "workers")
    trial = next(trial for trial in study.trials() if trial.method == method)
    stage: Stage = trial.steps[-1][0].stage.model
    return stage


def weights(store: Store, stage: Stage) -> dict[str, Tensor]:
    return load_file(store.fetch(stage.kind, stage.key) / "model.safetensors")


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    """An objective of each family, with batches whose rows differ in length and number."""
    bilstm = {**TINY["classifiers"]["student"], "dropout": 0.0}
    tagger = {**TINY["structures"]["student"], "dropout": 0.0}
    sure = {**TINY["language"]["student"], **dict.fromkeys(NO_DROPOUT, 0.0)}
    own_words = {"sampling": {"max_new_tokens": 4}, "self_teacher": "ema", "ema_rate": 0.5}
    uneven = {"train": {"epochs": 2, "batch_size": 5, "lr": 5e-3}}
    return {
        "l2kd": language_student(),
        "sdft": student("language", "sdft", student=sure, kd=own_words, **uneven),
        "mkd": student("classifiers", "mkd", student=bilstm, **uneven),
        "structkd": student("structures", "structkd", student=tagger, **uneven),
    }


@pytest.fixture(scope="module")
def runs(stages: dict[str, Stage], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """The stages by one worker and, once for all of them, by two."""
    folder = tmp_path_factory.mktemp("workers")
    alone, together = Store(str(folder / "alone")), Store(str(folder / "together"))
    for stage in stages.values():
        obtain(stage, alone)
        for _, source in stage.inputs():
            obtain(source, together)
    group = [*stages.values()], together.root, folder / "meeting"
    torch.multiprocessing.spawn(worker, group, nprocs=WORKERS)
    return alone, together


@pytest.mark.parametrize("name", ["l2kd", "sdft", "mkd", "structkd"])
def test_two_workers_take_the_steps_of_one(
    name: str, stages: dict[str, Stage], runs: tuple[Store, Store]
) -> None:
    """Loss for loss, and in the weights they end with."""
    stage, (alone, together) = stages[name], runs
    manifest = together.manifest(stage.kind, stage.key)
    assert manifest is not None
    assert manifest.environment["world_size"] == WORKERS
    assert losses(together, stage) == pytest.approx(losses(alone, stage), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(
        weights(together, stage), weights(alone, stage), rtol=1e-3, atol=1e-4
    )


def at_odds(rank: int, stages: list[Stage], root: str, folder: Path) -> None:
    """A worker whose memory's gradient, and whose look at dev data, are another's."""
    gradients, looks, train = constraints.gradient, Best.__init__, loop.fit

    def gradient(*given: Any) -> Tensor:
        return (-1) ** rank * gradients(*given)

    def look(self: Best, patience: int, _: Any) -> None:
        rising = itertools.count()
        looks(self, patience, lambda model: rank * float(next(rising)))

    def fit(stage: Any, model: Any, *given: Any, **more: Any) -> Any:
        curve = train(stage, model, *given, **more)
        torch.save(model.state_dict(), folder / f"{stage.key}-{rank}")
        return curve

    constraints.gradient = rehearsal.gradient = gradient
    Best.__init__, loop.fit = look, fit  # type: ignore[method-assign]
    worker(rank, stages, root, folder / "meeting")


def test_what_each_worker_computes_for_itself_is_that_of_the_first(tmp_path: Path) -> None:
    """The projections of GEM and A-GEM, and the end of a training by early stopping."""
    early = {"train": {"epochs": 4, "batch_size": 8, "patience": 1}}
    named = {name: student("language", name) for name in ("gem", "agem")}
    stages = [*named.values(), student("structures", "structkd", **early)]
    store = Store(str(tmp_path / "store"))
    for stage in stages:
        for _, source in stage.inputs():
            obtain(source, store)
    torch.multiprocessing.spawn(at_odds, (stages, store.root, tmp_path), nprocs=WORKERS)
    for stage in stages:
        one, other = (torch.load(tmp_path / f"{stage.key}-{rank}") for rank in range(WORKERS))
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    scores = obtain(stages[-1], store)
    assert scores["steps"] == 2 * 2  # it waits one epoch for a better look than the first


def test_a_stage_that_only_one_worker_finds_published_is_run_by_all(
    stages: dict[str, Stage], tmp_path: Path
) -> None:
    """Else the other would wait for it in its first sum."""
    stage, store = stages["mkd"], Store(str(tmp_path / "store"))
    for _, source in stage.inputs():
        obtain(source, store)
    group = [stage], store.root, tmp_path / "meeting", (1,)
    torch.multiprocessing.spawn(worker, group, nprocs=WORKERS)
    assert store.manifest(stage.kind, stage.key) is not None


@pytest.mark.parametrize("blind", [(), (1,)], ids=["both find it", "one does not"])
def test_workers_resume_from_one_checkpoint_or_not_at_all(
    blind: Sequence[int], tmp_path: Path
) -> None:
    """Else one would train from another step than the other, on the other's weights."""
    stage, store, model = language_student(), Store(str(tmp_path / "store")), torch.nn.Linear(2, 1)
    progress = Progress()
    progress.add(torch.zeros(3), 0.1, 4)
    context = Context(store, tmp_path / "out")
    save(stage, model, torch.optim.AdamW(model.parameters()), progress, context)
    group = stage, store.root, tmp_path, blind
    torch.multiprocessing.spawn(resume, group, nprocs=WORKERS)
