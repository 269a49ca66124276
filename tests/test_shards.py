"""Students shared out among two workers (FSDP2): the losses of one, about half of its state."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from l2kd_ray.core import loop, shard
from l2kd_ray.core.execute import execute, obtain
from l2kd_ray.core.shard import chunk
from l2kd_ray.core.stage import Sharding, Stage, TrainingStage
from l2kd_ray.core.store import Store, stage_folder
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.methods import LANGUAGE_METHODS
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.testing.executors import losses
from l2kd_ray.testing.studies import TINY, tiny

SHARED = Sharding()
OFF = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "live": {"kd.teacher": "online", "kd.weight": 0.7, "replay.weight": "separate"},
    "cached": {"kd.teacher": "cached"},
    "both": {"kd.teachers": "both"},
    "seq-soft": {"kd.objective": "seq-soft", "kd.weight": 0.5},
}


def student(settings: dict[str, Any], **how: Any) -> Any:
    """L2KD's student of a second task, whose last batch has an odd number of examples."""
    model = {**TINY["language"]["student"], **OFF, "n_embd": 32, "n_layer": 2}
    train = {**TINY["language"]["train"], "batch_size": 5}
    data = tiny(methods=["l2kd"], student=model, train=train)
    study = resolve_study(parse_study(data, settings), "shards")
    trial = next(trial for trial in study.trials() if trial.method == "l2kd")
    stage: Any = trial.steps[-1][0].stage.model
    return replace(stage, optimisation=replace(stage.optimisation, **how))


def group(rank: int, world: int, meeting: Path, stages: Sequence[tuple[Stage, str]]) -> None:
    """Run each stage into its store as one of `world` processes."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world,
        timeout=timedelta(minutes=2),  # workers that are out of step wait for each other
    )
    for stage, root in stages:
        execute(stage, Store(root), rank=rank, world_size=world)
        dist.barrier()
    dist.destroy_process_group()


def together(world: int, meeting: Path, stages: Sequence[tuple[Stage, str]]) -> None:
    torch.multiprocessing.spawn(group, (world, meeting, stages), nprocs=world)


def weights(root: str, stage: Stage) -> dict[str, Tensor]:
    return load_file(Store(root).fetch(stage.kind, stage.key) / "model.safetensors")


def test_the_key_does_not_depend_on_how_a_result_is_computed() -> None:
    how = {"shard": SHARED, "micro_batch": 1, "gradient_checkpointing": True, "deterministic": True}
    assert student({}, **how).key == student({}).key


def steps_then(act: Callable[[Any, int], None]) -> Any:
    """The loop's `accumulate`, which first calls `act` with the network and the step's number."""
    count, inner = iter(range(1000)), loop.accumulate

    def watched(network: Any, *rest: Any) -> Tensor:
        act(network, next(count))
        return inner(network, *rest)

    return watched


def is_chunk(parameter: Tensor) -> bool:
    return hasattr(parameter, "to_local")


def measured(rank: int, meeting: Path, folder: Path, stage: Any) -> None:
    """Run the stage, and note the numbers that this worker keeps between two steps."""
    make, optimizers = loop._optimizer, list[Any]()

    def kept(*given: Any) -> Any:
        optimizers.append(make(*given))
        return optimizers[-1]

    def note(network: Any, step: int) -> None:
        if step == 2:
            state = optimizers[0].state
            sizes = [
                chunk(tensor).numel()
                for parameter in network.parameters()
                for tensor in (parameter, *state[parameter].values())
            ]
            (folder / str(rank)).write_text(str(sum(sizes)))

    cut = shard._cut

    def freed(module: Any, **options: Any) -> None:
        """Each layer is freed before the next one moves to the device."""
        before = [parameter for parameter in module.parameters() if not is_chunk(parameter)]
        cut(module, **options)
        assert not any(parameter.numel() for parameter in before)

    shard._cut = freed
    loop._optimizer, loop.accumulate = kept, steps_then(note)  # type: ignore[assignment]
    group(rank, 2, meeting, [(stage, str(folder / "shared"))])


def prepared(stage: Any, folder: Path, *stores: str) -> None:
    """The stage alone in `folder`/alone, and its inputs in the other stores."""
    obtain(stage, Store(str(folder / "alone")))
    for name in stores:
        for _, source in stage.inputs():
            obtain(source, Store(str(folder / name)))


def assert_alike(stage: Any, folder: Path, name: str) -> None:
    root, alone = str(folder / name), str(folder / "alone")
    assert losses(Store(root), stage) == pytest.approx(
        losses(Store(alone), stage), rel=1e-4, abs=1e-7
    )
    torch.testing.assert_close(weights(root, stage), weights(alone, stage), rtol=1e-3, atol=1e-4)


def test_two_workers_have_the_losses_of_one_and_half_of_its_state_each(tmp_path: Path) -> None:
    """Student and teachers are shared out; the saved student is a plain Hugging Face folder."""
    stage = student(OBJECTIVES["live"], shard=SHARED)
    prepared(stage, tmp_path, "shared")
    torch.multiprocessing.spawn(measured, (tmp_path / "meeting", tmp_path, stage), nprocs=2)
    assert_alike(stage, tmp_path, "shared")
    numbers = sum(tensor.numel() for tensor in weights(str(tmp_path / "alone"), stage).values())
    for rank in (0, 1):
        assert int((tmp_path / str(rank)).read_text()) <= 0.52 * 3 * numbers


@pytest.mark.drill
def test_every_objective_has_the_losses_of_one_worker(tmp_path: Path) -> None:
    """By DDP, and shared out with two examples in a forward pass."""
    run: list[tuple[Stage, str]] = []
    for name, settings in OBJECTIVES.items():
        prepared(student(settings), tmp_path / name, "ddp", "fsdp")
        shared = student(settings, shard=SHARED, micro_batch=2, gradient_checkpointing=True)
        run.append((student(settings), str(tmp_path / name / "ddp")))
        run.append((shared, str(tmp_path / name / "fsdp")))
    together(2, tmp_path / "meeting", run)
    for stage, root in run:
        assert_alike(stage, Path(root).parent, Path(root).name)


def whole_study(folder: Path, methods: list[str], **settings: Any) -> tuple[Any, list[Any]]:
    """The stages of a study's last trial, run on one worker in `folder`/alone; its readers of a
    model, which are missing in `folder`/shared."""
    texts = folder / "texts.txt"
    texts.write_text("a cat sat on the mat\n" * 3)
    model = settings.pop("student", {**TINY["language"]["student"], "n_layer": 2})
    data = tiny(methods=methods, student=model, orders=["gen.rest>gen.intent"], max_test=3)
    how = {"train.shard": "fsdp2", "scale.workers": 2, "train.epochs": 1}
    study = resolve_study(parse_study(data, {**how, **settings}), "shards")
    trial = next(trial for trial in study.trials() if trial.method == methods[0])
    for cell in trial.cells:
        obtain(cell.stage, Store(str(folder / "alone")))
    shutil.copytree(folder / "alone", folder / "shared")
    readers = [s for s in trial.stages() if s.shard and not isinstance(s, TrainingStage)]
    found = [one for one in readers if one.distributable]
    for one in found:
        shutil.rmtree(folder / "shared" / stage_folder(one.kind, one.key))
    return study, found


READERS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("l2kd", {"kd.teacher": "cached", "replay.ratio": 0.3}, {"Annotate", "Replay", "EvaluateLM"}),
    (
        "l2kd",
        {"kd.objective": "seq", "kd.decode.strategy": "beam", "replay.agreement": 0},
        {"Decode", "Replay", "EvaluateLM"},
    ),
    ("der++", {"retention.texts": "texts.txt"}, {"Remembered", "TextLoss", "Drift", "EvaluateLM"}),
    ("ssr", {"ssr.shots": 1}, {"SelfWritten", "EvaluateLM"}),
]


@pytest.mark.drill
@pytest.mark.parametrize(("method", "settings", "kinds"), READERS)
def test_two_workers_read_a_model_that_they_share_out_as_one_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, settings: Any, kinds: set[str]
) -> None:
    """Replay, decoded targets, annotations, evaluation and retention, with rows that do not share
    out evenly: the same scores and texts."""
    monkeypatch.chdir(tmp_path)
    study, readers = whole_study(tmp_path, [method], **settings)
    assert {type(one).__name__ for one in readers} == kinds
    assert all(study.config.scale.of(one).workers == 2 for one in readers)
    assert_read_alike(readers, tmp_path)


def assert_read_alike(readers: Sequence[Stage], folder: Path) -> None:
    """Two workers have the scores and texts of one."""
    together(2, folder / "meeting", [(one, str(folder / "shared")) for one in readers])
    for one in readers:
        there, here = (Store(str(folder / name)) for name in ("shared", "alone"))
        found, wanted = (store.manifest(one.kind, one.key) for store in (there, here))
        assert found is not None
        assert wanted is not None
        assert found.environment["world_size"] == 2
        assert dict(found.scores) == pytest.approx(dict(wanted.scores), rel=1e-5)
        texts = {name: file for name, file in wanted.files.items() if name.endswith("jsonl")}
        assert {name: found.files[name].sha256 for name in texts} == {
            name: file.sha256 for name, file in texts.items()
        }


def test_a_worker_without_a_row_goes_along_with_an_encoder_decoder(tmp_path: Path) -> None:
    """A decoded token does not run the encoder, so the workers share out the decoder alone."""
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    how = {"student": {"arch": "t5", **sizes}, "train.max_length": 64, "max_test": 1}
    _, readers = whole_study(tmp_path, ["finetune"], **how)
    assert_read_alike(readers[-1:], tmp_path)


SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lamol", "train.lora": {"r": 2, "lora_dropout": 0.0}},
    "seq-lora": {"train.lora": {"r": 2}},
    "merge": {"train.average": 0.2},
    "l2kd": {"kd.teachers": "both", "kd.top_k": 5},
}


@pytest.mark.drill
def test_every_method_shares_its_student_out_or_is_refused(tmp_path: Path) -> None:
    """Methods that are not refused have the losses, and the student, of one worker."""
    refused, run = dict[str, str](), list[tuple[Stage, str]]()
    for name in (*LANGUAGE_METHODS, "lora"):
        settings = dict(SETTINGS.get(name, {}))
        method = settings.pop("method", name)
        model = {**TINY["language"]["student"], **OFF, "n_layer": 2}
        data = tiny(methods=[method], student=model, orders=["gen.rest>gen.intent"])
        how = {"train.shard": "fsdp2", "scale.workers": 2, "train.batch_size": 5}
        try:
            study = resolve_study(parse_study(data, {**how, **settings}), "shards")
            trials = study.trials()
        except InputError as error:
            refused[name] = str(error.key).split(": ")[-1]
            continue
        trial = next(trial for trial in trials if trial.method == method)
        stage: Any = next(s for s in reversed([*trial.stages()]) if isinstance(s, TrainingStage))
        prepared(stage, tmp_path / name, "fsdp")
        run.append((stage, str(tmp_path / name / "fsdp")))
    kept_whole = ("sdft", "ewc", "mas", "gem", "agem", "o-lora", "osf")
    assert refused == dict.fromkeys(kept_whole, "train.shard")
    together(2, tmp_path / "meeting", run)
    for stage, root in run:
        assert_alike(stage, Path(root).parent, Path(root).name)


def killed(rank: int, world: int, meeting: Path, root: str, stage: Any, last: int) -> None:
    def stop(network: Any, step: int) -> None:
        if step == last:
            raise KeyboardInterrupt

    loop.accumulate = steps_then(stop)  # type: ignore[assignment]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        execute(stage, Store(root), rank=rank, world_size=world, checkpoint_seconds=0.0)
    except KeyboardInterrupt:
        return


@pytest.mark.drill
@pytest.mark.parametrize("later", [1, 3])
def test_a_killed_training_goes_on_with_another_number_of_workers(
    tmp_path: Path, later: int
) -> None:
    """From the steps that two workers did, to the losses of one that was not killed."""
    stage, root = student(OBJECTIVES["live"], shard=SHARED), str(tmp_path / "shared")
    prepared(stage, tmp_path, "shared")
    given = (2, tmp_path / "first", root, stage, 3)
    torch.multiprocessing.spawn(killed, given, nprocs=2)
    saved = [f.path.rsplit("/", 1)[-1] for f in Store(root).files("stages/learn")]
    assert {name for name in saved if name.startswith(f"{3:09d}-")}, saved
    together(later, tmp_path / "second", [(stage, root)])
    assert_alike(stage, tmp_path, "shared")
