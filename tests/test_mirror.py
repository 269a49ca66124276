"""Mirrors of a study: what they show, and that none can slow, hang or fail its caller."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.fake_wandb import KEY, Run, Server, read_offline, serving
from helpers.finished import STEPS, finish, publish
from helpers.studies import planned

from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.mirrors import MirroredStudy, Point, TrialRun, follow, runs
from l2kd_ray.mirrors.process import mirrored
from l2kd_ray.mirrors.runs import Models, flat, run_id
from l2kd_ray.mirrors.trackio import Trackio
from l2kd_ray.study import Study
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.snapshot import Snapshot

import_module("wandb")  # its temporary folders are made now, not in a test's TMPDIR

NAME = "orders+1"
METHODS = ("finetune", "lamol", "l2kd")
TRIALS = 2 * len(METHODS) + 2  # two orders, and the references
SECRET = "hunter2-do-not-show"


class Mirrored:
    """A study whose stages are finished, and its folder."""

    def __init__(self, base: Path, learned: int = 9, **changes: Any) -> None:
        settings = {"name": NAME, "methods": METHODS, "kd": {"temperature": 2.0}, **changes}
        settings.setdefault("wandb", {"project": "proj"})
        if "l2kd" not in settings["methods"]:
            del settings["kd"]
        self.study: Study = planned(**settings)
        self.store = Store(str(base / "store"))
        self.folder = base / "results"
        self.learn(learned)
        (self.folder / "figures").mkdir(parents=True, exist_ok=True)
        (self.folder / "report.html").write_text("<p>report</p>", encoding="utf-8")
        (self.folder / "results.parquet").write_bytes(b"PAR1")
        _draw(self.folder / "figures" / "gap.png")

    def learn(self, learned: int) -> None:
        finish(self.study, self.store, learned)

    def mirror(self, time_limit: float = 60.0, live: bool = False) -> str:
        with mirrored(
            self.study, self.store, self.folder, live=live, time_limit=time_limit
        ) as ending:
            pass
        return "\n".join(ending.lines)

    def offline(self) -> dict[str, Run]:
        return read_offline(self.folder / "wandb")

    def id(self, method: str, order: str = "gen.intent>gen.rest") -> str:
        trials = (t for t in self.study.trials() if t.method == method)
        (trial,) = [t for t in trials if not order or ">".join(t.order) == order]
        return run_id(NAME, trial.id)


def _draw(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4)).save(path)


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No W&B of the machine: no key, no settings, no folder outside the test's own."""
    for name in os.environ:
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", None)  # made again, from TMPDIR


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is set, and the server's port is closed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    use(monkeypatch, Server(url=f"http://127.0.0.1:{port}"))


def use(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def assert_nothing_left(tmp_path: Path) -> None:
    """No process and no file of the mirror outlives it."""
    assert list((tmp_path / "TMPDIR").iterdir()) == []
    assert list((tmp_path / "HOME").rglob("*")) == []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        assert str(tmp_path).encode() not in command


def files_with(text: str, folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    ]


# --- what is written --------------------------------------------------------------------------


def test_offline_runs_say_what_the_files_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The caller is itself part of a sweep, which is none of our business.
    monkeypatch.setenv("WANDB_RUN_ID", "callers")
    monkeypatch.setenv("WANDB_SWEEP_ID", "callers")
    study = Mirrored(tmp_path)

    line = study.mirror()

    assert f"{TRIALS} trials" in line
    assert "offline" in line
    assert str(study.folder / "wandb") in line
    assert caplog.records == []  # no key is no fault
    assert_nothing_left(tmp_path)

    found = study.offline()
    assert len(found) == TRIALS + 1
    assert {run.group for run in found.values()} == {NAME}
    assert {run.project for run in found.values()} == {"proj"}

    run = found[study.id("l2kd")]
    assert run.name == "l2kd gen.intent>gen.rest 531"
    assert run.job_type == "l2kd"
    assert set(run.tags) == {"method:l2kd", "order:gen.intent>gen.rest"}
    assert run.config["train.lr"] == 5e-3
    assert run.config["kd.temperature"] == 2
    assert run.config["kd.objective"] == "word"  # not set: a default can be grouped by
    assert run.config["tasks"] == ["gen.rest", "gen.intent"]
    assert run.config["seed"] == 531
    assert (run.config["method"], run.config["order"]) == ("l2kd", "gen.intent>gen.rest")
    assert run.config["started"] == "2026-01-01T00:00:00+00:00"
    assert not [key for key in run.config if key.startswith(("methods", "storage"))]

    train = [row for row in run.history if "train/loss" in row]
    assert [row["global_step"] for row in train] == list(range(1, 2 * STEPS + 1))
    assert [row["stage"] for row in train] == [1] * STEPS + [2] * STEPS
    assert [row["train/loss"] for row in train[:STEPS]] == [1 / s for s in range(1, STEPS + 1)]
    assert all(row["train/lr"] == 0.5 for row in train)

    intent, rest = (
        next(key for key in run.summary if key.startswith(f"eval/{task}/"))
        for task in ("gen.intent", "gen.rest")
    )
    tests = [row for row in run.history if intent in row]
    assert [row["global_step"] for row in tests] == [0, STEPS, 2 * STEPS]
    assert [row[intent] for row in tests] == [10, 20.5, 31]
    assert [row[rest] for row in tests] == [8, 18.5, 29]
    assert run.axes["*"] == "global_step"
    assert "_step" not in run.axes.values()

    assert run.summary["cl/avg"] == 30
    assert run.summary[intent.replace("eval", "score")] == 31
    assert run.summary["gap/abs"] == 0
    assert run.summary["seconds"] > 10


def test_the_aggregate_run_holds_tables_figures_headlines_and_files(tmp_path: Path) -> None:
    study = Mirrored(tmp_path, wandb={"mode": "offline"}, search={"kd.temperature": {"grid": [1]}})
    study.mirror()

    run = study.offline()[run_id(NAME)]
    assert run.job_type == "report"
    assert run.summary["trials"] == TRIALS
    assert run.summary["cl/avg/l2kd kd.temperature=1"] == 30
    assert run.summary["gap/abs/lamol"] == 0
    logged = {key.split(".")[0] for row in run.history for key in row}
    assert {"tables/results", "tables/gap", "tables/orders", "figures/gap"} <= logged

    files = run.artifacts["orders_1-results"]
    assert set(files) == {"results.parquet", "report.html", "figures/gap.png"}
    for name, copy in files.items():
        assert study.folder / "wandb" in Path(copy).parents  # where they outlive the home folder
        assert Path(copy).read_bytes() == (study.folder / name).read_bytes()


def test_students_are_kept_on_request_by_the_runs_that_made_them(tmp_path: Path) -> None:
    study = Mirrored(tmp_path, wandb={"mode": "offline", "students": True})
    study.mirror()
    run = study.offline()[study.id("lamol")]
    (files,) = [run.artifacts[name] for name in run.artifacts]
    assert list(run.artifacts) == [f"student-{run.config['trial']}"]
    assert Path(files["curve.json"]).read_bytes().startswith(b"[{")


@pytest.mark.drill
def test_a_second_mirror_replaces_our_offline_runs_and_no_other(tmp_path: Path) -> None:
    study = Mirrored(tmp_path, learned=1, wandb={"mode": "offline"})
    foreign = study.folder / "wandb" / "offline-run-20260101_000000-theirs"
    foreign.mkdir(parents=True)
    study.mirror()
    first = study.offline()

    study.learn(2)
    study.mirror()

    second = study.offline()  # refuses an id that is there twice
    assert set(second) == set(first)
    assert foreign.is_dir()
    history = second[study.id("lamol")].history
    steps = [row["global_step"] for row in history if "train/loss" in row]
    assert steps == list(range(1, 2 * STEPS + 1))


@pytest.mark.drill
def test_what_was_synced_is_not_written_again(tmp_path: Path) -> None:
    """W&B appends what is synced under one id: nothing may be there twice."""
    study = Mirrored(tmp_path, learned=1, wandb={"mode": "offline"})
    study.mirror()
    uploaded = study.offline()[study.id("lamol")].history
    (folder,) = (study.folder / "wandb").glob(f"*-{study.id('lamol')}")
    (log,) = folder.glob("*.wandb")
    log.with_suffix(".wandb.synced").touch()  # as `wandb sync` does
    hidden = log.rename(log.with_suffix(".hidden"))

    study.learn(2)
    study.mirror()

    assert hidden.exists()
    left = study.offline()[study.id("lamol")].history
    rows = [row for row in [*uploaded, *left] if "train/loss" in row]
    assert [row["global_step"] for row in rows] == list(range(1, 2 * STEPS + 1))
    numbers = [row["_step"] for row in [*uploaded, *left]]
    assert numbers == sorted(set(numbers))


def test_ids_are_stable_and_differ() -> None:
    trials = [run_id(study, trial) for study in ("s", "t") for trial in ("", "x", "y")]
    assert len(set(trials)) == len(trials)
    assert run_id("s", "x") == "l2kd-3b653d1d6ed207cc"  # ids live on servers


def test_points_only_grow(tmp_path: Path) -> None:
    """What was sent is never wrong: a task's scores are sent when all of them are there."""
    study = Mirrored(tmp_path, learned=-1)
    trial = next(t for t in study.study.trials() if t.method == "l2kd")
    sent: list[Any] = []
    for cell in trial.cells:
        finish_one(study, cell.stage)
        reader = StoreView(study.store)
        known = Snapshot(study.study, reader).manifests
        now = list(runs.points(trial, known, Models(reader)))
        assert now[: len(sent)] == sent
        sent = now
    assert [point.number for point in sent] == list(range(2 * STEPS + 3))


def test_a_dropped_model_leaves_a_gap_and_moves_no_point(tmp_path: Path) -> None:
    study = Mirrored(tmp_path)
    trial = next(t for t in study.study.trials() if t.method == "l2kd")
    model = trial.steps[1][0].stage.model
    known = Snapshot(study.study, StoreView(study.store)).manifests
    whole = list(runs.points(trial, known, Models(StoreView(study.store))))
    study.store.drop_files(model.kind, model.key)
    left = list(runs.points(trial, known, Models(StoreView(study.store))))
    assert len(left) == len(whole) - STEPS
    assert [point for point in whole if point in left] == left


def test_points_hold_all_of_a_curve_and_the_trainings_speed(tmp_path: Path) -> None:
    study = Mirrored(tmp_path)
    trial = next(t for t in study.study.trials() if t.method == "l2kd")
    reader = StoreView(study.store)
    known = {
        key: replace(one, environment={"tokens_per_second": 9.5})
        for key, one in Snapshot(study.study, reader).manifests.items()
    }
    models = Models(reader)
    first = trial.steps[1][0].stage.model
    curve = models.curve(known[first.key])
    assert curve
    point = next(p for p in runs.points(trial, known, models) if "train/loss" in p.values)
    shown = {name for name in point.values if name.startswith("train/")}
    assert shown == {f"train/{name}" for name in (*curve[0], "tokens_per_second")} - {"train/step"}
    assert point.values["train/tokens_per_second"] == 9.5


def finish_one(study: Mirrored, stage: Any) -> None:
    for _, source in stage.inputs():
        publish(study.store, source, 0.0)
    publish(study.store, stage, 1.0)


def test_no_secret_is_written(tmp_path: Path) -> None:
    study = Mirrored(
        tmp_path,
        wandb={"mode": "offline", "project": "shown-project"},
        storage=f"s3://bucket/x?token={SECRET}",
        on_event={"finished": f"https://hooks/{SECRET}"},
    )
    study.mirror()
    assert files_with("shown-project", study.folder)
    assert files_with(SECRET, tmp_path) == []


def test_settings_are_flat_typed_and_kept_unless_secret() -> None:
    config = {
        "train": {"lr": 0.1, "micro_batch": None, "batch_size": 4},
        "evaluate": {"max_new_tokens": 64},
        "task_prompt": "token",
        "tokenizer": {"vocab_size": 300},
        "orders": [["a", "b"], ["b", "a"]],
        "tasks": [{"name": "a"}],
        "data_dir": Path("data"),
        "tokens": "dropped",
        "keys": {"s3": "dropped"},
    }
    assert flat(config) == {
        "train.lr": 0.1,
        "train.micro_batch": None,
        "train.batch_size": 4,
        "evaluate.max_new_tokens": 64,
        "task_prompt": "token",
        "tokenizer.vocab_size": 300,
        "orders.0": ["a", "b"],
        "orders.1": ["b", "a"],
        "tasks.0.name": "a",
        "data_dir": "data",
    }


# --- what may fail ----------------------------------------------------------------------------


def test_disabled_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Mirrored(tmp_path, wandb={"mode": "disabled"}).mirror() == "W&B: disabled"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    study = Mirrored(tmp_path)
    assert study.mirror() == "W&B: disabled"
    assert not (study.folder / "wandb").exists()


def test_a_study_without_results_has_an_aggregate_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Mirrored(tmp_path, wandb={"mode": "offline"})
    study.store = Store(str(tmp_path / "empty"))
    assert "0 trials" in study.mirror()
    assert set(study.offline()) == {run_id(NAME)}
    assert caplog.records == []


def test_what_cannot_be_mirrored_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Mirrored(tmp_path, methods=("lamol",), wandb={"mode": "offline"})
    (study.folder / "wandb").write_text("a file")
    assert "not everything was mirrored" in study.mirror()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert_nothing_left(tmp_path)


def assert_fell_back_offline(
    study: Mirrored, tmp_path: Path, caplog: pytest.LogCaptureFixture, time_limit: float
) -> None:
    started = time.monotonic()
    line = study.mirror(time_limit=time_limit)
    assert time.monotonic() - started < time_limit + 5
    assert "offline" in line
    assert len(study.offline()) == TRIALS + 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert KEY not in caplog.text
    assert files_with(KEY, tmp_path) == []
    assert_nothing_left(tmp_path)


@pytest.mark.drill
@pytest.mark.usefixtures("no_server")
def test_a_dead_server_costs_seconds_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_fell_back_offline(Mirrored(tmp_path), tmp_path, caplog, time_limit=45)


@pytest.mark.drill
@pytest.mark.parametrize("behaviour", ["hangs", "stalls", "refuses"])
def test_a_bad_server_costs_seconds_and_a_warning(
    behaviour: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(behaviour) as server:
        use(monkeypatch, server)
        assert_fell_back_offline(Mirrored(tmp_path), tmp_path, caplog, time_limit=45)
        assert server.requests > 0


@pytest.mark.drill
def test_online_without_a_key_falls_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "offline" in Mirrored(tmp_path, wandb={"mode": "online"}).mirror()
    assert "No API key" in caplog.text


# --- online -----------------------------------------------------------------------------------


@pytest.mark.drill
def test_online_runs_are_continued_and_never_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = Mirrored(tmp_path, learned=1)
    former = study.folder / "wandb" / f"offline-run-20260101_000000-{study.id('lamol')}"
    former.mkdir(parents=True)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine {server.url[7:]} login user password {KEY}\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))

        for learned in (1, 2):
            study.learn(learned)
            line = study.mirror()
            assert f"{TRIALS} trials and the aggregate written online: {server.url}" in line

    assert caplog.records == []
    assert not former.exists()  # a sync would upload it a second time
    assert files_with(KEY, study.folder) == []
    assert_nothing_left(tmp_path)

    ids = {run_id(NAME, trial.id) for trial in study.study.trials()}
    assert set(server.runs) == {*ids, run_id(NAME)}
    assert {run.group for run in server.runs.values()} == {NAME}
    assert "orders_1-results" in server.artifacts
    run = server.runs[study.id("lamol")]
    assert run.job_type == "lamol"
    assert run.config["order"] == "gen.intent>gen.rest"
    train = [row for row in run.history if "train/loss" in row]
    assert [row["global_step"] for row in train] == list(range(1, 2 * STEPS + 1))
    assert len([row for row in run.history if any("eval/gen.rest" in key for key in row)]) == 3
    assert run.summary["cl/avg"] == 30


# --- while the study runs ---------------------------------------------------------------------


MINE = """
import os, pathlib, time
from pydantic import Field
from l2kd_ray.door import options
from l2kd_ray.mirrors import Mirror
from l2kd_ray.section import Section

class Options(Section):
    words: str = "x"

@options(Options)
class Mine(Mirror):
    def _write(self, *words):
        with open(self.study.folder / "mine.txt", "a") as file:
            print(*words, file=file)
    def on_stage(self, stage):
        self._write("stage", stage.kind)
    def on_trial(self, trial):
        self._write("trial", trial.method, len(trial.points), trial.done)
    def on_study(self, study):
        self._write("study", study.state, study.trials_done)
    def close(self):
        return f"mine: {self.study.options.words}"

@options(Options)
class Unseen(Mine):
    live = False

class Priority(Mirror):
    def on_study(self, study):
        group = pathlib.Path("/proc/self/autogroup")
        found = f"{os.nice(0)} {group.read_text() if group.exists() else ''}"
        self.study.folder.joinpath("priority").write_text(found)

class Broken(Mirror):
    def on_study(self, study):
        1 / 0

class Hanging(Mirror):
    def on_study(self, study):
        self.study.folder.joinpath("hung").touch()
        time.sleep(100)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def wait_until(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 90
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_class_of_ones_own_is_told_while_the_study_runs_and_at_its_end(
    tmp_path: Path, mine: Path
) -> None:
    study = Mirrored(
        tmp_path,
        learned=1,
        methods=("lamol",),
        wandb={},
        report_to=[f"{mine}:Mine"],
        Mine={"words": "seen"},
    )
    told = study.folder / "mine.txt"
    with mirrored(study.study, study.store, study.folder, live=True) as ending:
        wait_until(lambda: told.exists() and "trial lamol 6 False" in told.read_text())
        study.learn(2)
        ending.stages_have_ended()  # a look at once, not when the next one is due
        wait_until(lambda: told.read_text().count("trial lamol 11 True") == 2)
    lines = told.read_text().splitlines()
    assert ending.lines == ["mine: seen"]
    assert lines[0] == "study running 2"  # the references
    assert lines.count("study finished 4") == 1
    assert lines.count("trial lamol 11 True") == 2  # two orders, once each
    assert lines.count("stage multitask") == 1


def test_a_mirror_that_nobody_looks_at_is_told_finished_trials_until_the_end(
    tmp_path: Path, mine: Path
) -> None:
    how = {"report_to": [f"{mine}:Unseen"], "Unseen": {"words": "later"}}
    study = Mirrored(tmp_path, learned=1, methods=("lamol",), wandb={}, **how)
    told = study.folder / "mine.txt"
    with mirrored(study.study, study.store, study.folder, live=True):
        wait_until(lambda: told.exists() and told.read_text().count("True") == 2)  # references
        early = told.read_text()
    late = told.read_text().removeprefix(early)
    assert "study" not in early
    assert "lamol" not in early
    assert late.splitlines() == ["study finished 2", *["trial lamol 6 False"] * 2]


def test_a_mirror_has_the_lowest_priority_while_the_study_runs(tmp_path: Path, mine: Path) -> None:
    study = Mirrored(tmp_path, methods=("lamol",), wandb={}, report_to=[f"{mine}:Priority"])
    priority = study.folder / "priority"
    with mirrored(study.study, study.store, study.folder, live=True):
        wait_until(priority.exists)
        nice, *autogroup = priority.read_text().split(maxsplit=1)
    assert nice == "19"
    assert not autogroup or autogroup[0].strip().endswith("nice 19")


@pytest.mark.parametrize("name", ["Hanging", pytest.param("Broken", marks=pytest.mark.drill)])
def test_a_bad_mirror_costs_a_warning_and_a_bounded_time(
    name: str, tmp_path: Path, mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Mirrored(tmp_path, methods=("lamol",), wandb={}, report_to=[f"{mine}:{name}"])
    begun = time.monotonic()
    how: Any = {"live": False, "time_limit": 12}
    with mirrored(study.study, study.store, study.folder, **how) as ending:
        ending.failures = ["long"] * 100_000  # more than a pipe holds
    assert "not everything was mirrored" in ending.lines[0]
    assert time.monotonic() - begun < 20
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert_nothing_left(tmp_path)


def test_an_interrupt_ends_mirrors_at_once(tmp_path: Path, mine: Path) -> None:
    study = Mirrored(tmp_path, methods=("lamol",), wandb={}, report_to=[f"{mine}:Hanging"])
    running = mirrored(study.study, study.store, study.folder, live=True)
    running.__enter__()
    wait_until((study.folder / "hung").exists)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        running.gen.throw(KeyboardInterrupt())
    assert time.monotonic() - begun < 5
    assert_nothing_left(tmp_path)


@pytest.mark.drill
@pytest.mark.usefixtures("no_server")
def test_a_dead_server_is_made_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The warning comes while the study runs, and it is written offline from then on."""
    study = Mirrored(tmp_path, learned=1)
    with mirrored(study.study, study.store, study.folder, live=True) as ending:
        wait_until(lambda: bool(caplog.records))
        wait_until(lambda: any((study.folder / "wandb").glob("offline-run-*")))
        study.learn(2)
        begun = time.monotonic()
    assert time.monotonic() - begun < 60
    assert "offline" in ending.lines[0]
    history = study.offline()[study.id("lamol")].history
    assert len([row for row in history if "train/loss" in row]) == 2 * STEPS
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_call_has_a_time_limit() -> None:
    with pytest.raises(TimeoutError, match="no answer"), follow.within(0.05):
        time.sleep(5)
    time.sleep(0.1)  # no alarm is left


# --- TensorBoard, MLflow, trackio -------------------------------------------------------------


@pytest.mark.drill
def test_tensorboard_files_are_appended_to(tmp_path: Path) -> None:
    from l2kd_ray.mirrors.tensorboard import events

    study = Mirrored(tmp_path, learned=1, wandb={}, report_to=["tensorboard"])
    assert f"tensorboard --logdir {study.folder / 'tensorboard'}" in study.mirror()
    study.learn(2)
    study.mirror()
    (folder,) = (study.folder / "tensorboard").glob(
        "l2kd gen.intent>gen.rest 531*".replace(" ", "_")
    )
    ends = [[0], range(1, STEPS + 1), [STEPS], range(STEPS + 1, 2 * STEPS + 1), [2 * STEPS]]
    assert list(events(folder)) == [step for steps in ends for step in steps]
    assert len(list((study.folder / "tensorboard").iterdir())) == TRIALS + 1


def test_on_a_remote_storage_no_point_is_doubled(tmp_path: Path) -> None:
    from l2kd_ray.mirrors import MirroredStudy
    from l2kd_ray.mirrors.tensorboard import TensorBoard, events

    study = planned(name=NAME, methods=["lamol"], wandb={}, report_to=["tensorboard"])
    store = Store(f"memory://{uuid.uuid4().hex}")
    finish(study, store, 9)

    def points(copy: Path) -> dict[str, list[int]]:
        """The events that are in the storage after one more look."""
        with Folder(store, NAME).local() as files:
            mirror = TensorBoard(MirroredStudy(study.config, files))
            follow.Follower(study, store, mirror, files).look("finished")
        for entry in store.files(f"studies/{NAME}/tensorboard"):
            store.download(entry.path, copy / Path(entry.path).parent.name / Path(entry.path).name)
        return {one.name: list(events(one)) for one in copy.iterdir()}

    once = points(tmp_path / "once")
    assert all(once.values())
    time.sleep(1.1)  # the names of event files have the second
    assert points(tmp_path / "twice") == once


@pytest.mark.drill
def test_mlflow_runs_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    study = Mirrored(tmp_path, learned=1, wandb={}, report_to=["mlflow"])
    study.mirror()
    study.learn(2)
    for _ in range(2):
        assert uri in study.mirror()
    client = mlflow.MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string=f"name = '{NAME}'")
    found = {
        run.data.tags["l2kd.id"]: run for run in client.search_runs([experiment.experiment_id])
    }
    assert len(found) == TRIALS + 1
    run = found[study.id("l2kd")]
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(one.step for one in losses) == list(range(1, 2 * STEPS + 1))
    assert run.data.params["kd.temperature"] == "2.0"
    assert run.data.metrics["cl/avg"] == 30
    assert run.info.status == "FINISHED"


@pytest.mark.drill
def test_trackio_runs_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    study = Mirrored(tmp_path, learned=1, wandb={}, report_to=["trackio"])
    study.mirror()
    study.learn(2)
    for _ in range(2):
        study.mirror()
    storage = import_module("trackio.sqlite_storage")
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio")
    names = storage.SQLiteStorage.get_runs(NAME)
    assert len(names) == TRIALS + 1
    (name,) = [one for one in names if one.startswith("l2kd gen.intent>gen.rest")]
    rows = storage.SQLiteStorage.get_logs(NAME, name)
    assert [row["global_step"] for row in rows if "train/loss" in row] == list(
        range(1, 2 * STEPS + 1)
    )
    assert rows[-1]["cl/avg"] == 30


def test_trackio_shows_numbers_that_are_known_after_the_last_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial may be done after its last point was shown, and its gap known later still."""
    logged: dict[int, Mapping[str, float]] = {}

    def init(**_: Any) -> Any:
        def log(row: Mapping[str, float], step: int) -> None:
            logged[step] = row

        return SimpleNamespace(_next_step=max(logged, default=-1) + 1, log=log)

    fake = SimpleNamespace(init=init, finish=lambda: None)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    study = planned(name=NAME, methods=["lamol"])
    mirror = Trackio(MirroredStudy(study.config, tmp_path))
    begun = TrialRun(
        "id", "trial", "lamol", "", "1", "", {}, [Point(0, 7, {"eval/a/em": 1.0})], {}, done=False
    )
    done = replace(begun, numbers={"cl/avg": 30.0}, done=True)
    bound = replace(done, numbers={**done.numbers, "gap/abs": 2.0})
    for state in (begun, begun, done, done, bound, bound):
        mirror.on_trial(state)
    assert list(logged.values()) == [
        {"global_step": 7, "eval/a/em": 1.0},
        {"global_step": 7, "cl/avg": 30.0},
        {"global_step": 7, "cl/avg": 30.0, "gap/abs": 2.0},
    ]


# --- events -----------------------------------------------------------------------------------


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    """A URL on loopback, and what has been posted to it."""
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "bad" in self.path else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("variable", ["$HOOK", "${HOOK}"])
def test_events_run_a_command_or_post_to_a_url(
    variable: str, tmp_path: Path, hook: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, posted = hook
    monkeypatch.setenv("HOOK", url)
    command = f"cat > {tmp_path}/event.json; echo $L2KD_EVENT ${{L2KD_STUDY}} > {tmp_path}/words"
    events = {"finished": f"{variable}/x", "failed": command}
    study = Mirrored(tmp_path, wandb={}, report_to="none", on_event=events)
    assert study.mirror() == ""  # a report is no event
    assert study.mirror(live=True) == ""
    (event,) = posted
    assert event["event"] == "finished"
    assert (event["study"], event["trials_done"], event["trials"]) == (NAME, TRIALS, TRIALS)
    assert event["numbers"]["cl/avg/lamol"] == 30

    with (
        pytest.raises(ValueError, match="Ray"),
        mirrored(study.study, study.store, study.folder, live=True),
    ):
        raise ValueError("Ray has ended")
    told = json.loads((tmp_path / "event.json").read_text())
    assert told["event"] == "failed"
    assert told["failures"] == ["ValueError: Ray has ended"]
    assert (tmp_path / "words").read_text() == f"failed {NAME}\n"


def test_a_look_is_an_event_once(tmp_path: Path) -> None:
    command = f"echo look >> {tmp_path}/looks"
    tune = {"stop": {"half_width": 0.1, "method": "lamol"}}
    tasks = ["gen.rest", "gen.intent", "gen.tv"]
    study = Mirrored(
        tmp_path,
        learned=-1,
        tasks=tasks,
        methods=("lamol",),
        seeds=[1, 2],
        tune=tune,
        wandb={},
        report_to=[],
        on_event={"look": command},
    )
    store = study.store
    from l2kd_ray.mirrors import MirroredStudy
    from l2kd_ray.mirrors.events import Events

    events = Events(MirroredStudy(study.study.config, study.folder))
    follower = follow.Follower(study.study, store, events, study.folder)
    follower.look()
    assert not (tmp_path / "looks").exists()
    study.learn(3)
    follower.look()
    follower.look("finished")
    assert (tmp_path / "looks").read_text() == "look\n"


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:9/secret",
        pytest.param("{url}/bad", marks=pytest.mark.drill),
        pytest.param("exit 3", marks=pytest.mark.drill),
    ],
)
def test_an_event_that_fails_is_one_line(
    target: str, tmp_path: Path, hook: tuple[str, list[Any]]
) -> None:
    study = Mirrored(
        tmp_path,
        wandb={},
        report_to=[],
        on_event={"finished": target.format(url=hook[0])},
    )
    line = study.mirror(live=True)
    assert line.startswith("on_event.finished: it failed")
    assert "secret" not in line


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"report_to": ["wandbb"]}, "report_to"),
        ({"report_to": ["none", "wandb"]}, "report_to"),
        ({"report_to": ["wandb", "wandb"]}, "report_to"),
        ({"report_to": ["l2kd_ray.mirrors.runs:flat"]}, "report_to"),
        ({"report_to": "none", "wandb": {"project": "p"}}, "wandb.project"),
        ({"on_event": {"finish": "x"}}, "on_event.finish"),
        ({"on_event": {"look": "x"}}, "on_event.look"),
    ],
)
def test_a_mirror_that_is_not_there_is_refused(changes: Mapping[str, Any], key: str) -> None:
    with pytest.raises(InputError) as refused:
        planned(**{"wandb": {}, **changes})
    assert key in str(refused.value)


def test_a_package_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2kd_ray.study.sections.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"l2kd-ray\[mlflow\]"):
        planned(wandb={}, report_to="mlflow")


def test_no_mirror_moves_a_key() -> None:
    def keys(**changes: Any) -> set[str]:
        trials = planned(**{"wandb": {}, **changes}).trials()
        return {stage.key for trial in trials for stage in trial.stages()}

    assert keys() == keys(report_to="tensorboard", on_event={"finished": "true"})
