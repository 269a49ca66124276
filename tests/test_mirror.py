"""The W&B mirror: what it writes, and that nothing of W&B can slow, hang or fail its caller."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.fake_wandb import KEY, Run, Server, read_offline, serving

from l2kd_ray.mirrors.wandb import CurvePoints, flat, mirror, run_id
from l2kd_ray.study.schema import WandbSettings

import_module("wandb")  # its temporary folders are made now, not in a test's TMPDIR

STUDY = "orders+1"
METHODS = ("finetune", "lamol", "l2kd")
TASKS = ("rest.a", "b", "c")
ORDERS = tuple(">".join(order) for order in itertools.permutations(TASKS))
STEPS = 4  # of each stage
SECRET = "hunter2-do-not-show"


@dataclass
class Study:
    """A results folder of our making, and what goes with it."""

    folder: Path
    curves: dict[str, CurvePoints]

    def mirror(
        self,
        mode: str = "auto",
        config: Mapping[str, Any] | None = None,
        time_limit: float = 60.0,
        students: Mapping[str, Path] | None = None,
    ) -> str:
        settings = WandbSettings.model_validate({"project": "proj", "mode": mode})
        return mirror(
            self.folder,
            settings,
            study=STUDY,
            config=config or {},
            curves=self.curves,
            students=students,
            time_limit=time_limit,
        )

    def offline(self) -> dict[str, Run]:
        return read_offline(self.folder / "wandb")


def make_study(
    folder: Path,
    methods: tuple[str, ...] = METHODS,
    orders: tuple[str, ...] = ORDERS,
    learned: int = 3,
) -> Study:
    """A study of which each trial learned so many of its tasks; scores tell (i, j) apart."""
    scores: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    curves: dict[str, CurvePoints] = {}
    for method, order in itertools.product(methods, orders):
        trial = f"{method}/{order}"
        setting = {"kd.temperature": 2.0} if method == "l2kd" else {}
        for i, (j, task), split in itertools.product(
            range(learned + 1), enumerate(order.split(">")), ("dev", "test")
        ):
            scores.append(
                {
                    "trial": trial,
                    "method": method,
                    "setting": json.dumps(setting),
                    "order": order,
                    "seed": "531",
                    "i": i,
                    "j": j,
                    "task": task,
                    "split": split,
                    "metric": "em",
                    "score": 10.5 * i + j + (100 if split == "dev" else 0),
                    "key": "evaluate",
                    "model": f"{trial}@{i}",
                    "teacher": "",
                    "teacher_score": math.nan,
                }
            )
            curves[f"{trial}@{i}"] = [
                {"step": step, "loss": 1 / step, "lr": 0.5} for step in range(1, STEPS + 1)
            ]
        results.append(
            {
                "trial": trial,
                "method": method,
                "kd.temperature": setting.get("kd.temperature"),
                "order": order,
                "seed": "531",
                "score/rest.a/em": 31.5,
                "cl/avg": 32.5,
                "gap/abs": 7.5 if method == "l2kd" else None,
                "gap/rel": None,
            }
        )
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(scores).to_parquet(folder / "scores.parquet")
    pd.DataFrame(results).to_parquet(folder / "results.parquet")
    (folder / "report.html").write_text("<p>report</p>", encoding="utf-8")
    _draw(folder / "figures" / "gap.png")
    return Study(folder, curves)


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
    study = make_study(tmp_path / "results")

    line = study.mirror(config={"train": {"lr": 1e-4, "epochs": 9}, "tasks": ["a", "b", "c"]})

    assert "18 trials" in line
    assert "offline" in line
    assert str(study.folder / "wandb") in line
    assert caplog.records == []  # no key is no fault
    assert_nothing_left(tmp_path)

    runs = study.offline()
    assert len(runs) == 18 + 1
    assert {run.group for run in runs.values()} == {STUDY}
    assert {run.project for run in runs.values()} == {"proj"}

    run = runs[run_id(STUDY, "l2kd/c>rest.a>b")]
    assert run.name == "l2kd c>rest.a>b 531 kd.temperature=2.0"
    assert run.job_type == "l2kd"
    assert set(run.tags) == {"method:l2kd", "order:c>rest.a>b"}
    assert run.config["train.lr"] == 1e-4
    assert run.config["train.epochs"] == 9
    assert run.config["tasks"] == ["a", "b", "c"]
    assert run.config["kd.temperature"] == 2
    assert run.config["seed"] == 531
    assert (run.config["method"], run.config["order"]) == ("l2kd", "c>rest.a>b")

    train = [row for row in run.history if "train/loss" in row]
    assert [row["global_step"] for row in train] == list(range(1, 3 * STEPS + 1))
    assert [row["stage"] for row in train] == [1] * STEPS + [2] * STEPS + [3] * STEPS
    assert [row["train/loss"] for row in train[:STEPS]] == [1 / s for s in range(1, STEPS + 1)]
    assert all(row["train/lr"] == 0.5 for row in train)

    tests = [row for row in run.history if "eval/rest.a/em" in row]
    assert [row["global_step"] for row in tests] == [0, STEPS, 2 * STEPS, 3 * STEPS]
    assert [row["eval/c/em"] for row in tests] == [0, 10.5, 21, 31.5]  # the first of the order
    assert [row["eval/b/em"] for row in tests] == [2, 12.5, 23, 33.5]  # the last
    assert run.axes["*"] == "global_step"
    assert "_step" not in run.axes.values()

    assert run.summary["cl/avg"] == 32.5
    assert run.summary["gap/abs"] == 7.5
    assert run.summary["score/rest.a/em"] == 31.5
    assert "gap/rel" not in run.summary  # no number


def test_the_aggregate_run_holds_tables_figures_headlines_and_files(tmp_path: Path) -> None:
    study = make_study(tmp_path / "results", orders=ORDERS[:2])
    study.mirror("offline")

    run = study.offline()[run_id(STUDY)]
    assert run.job_type == "report"
    assert run.summary["trials"] == 6
    assert run.summary["gap/abs/l2kd kd.temperature=2.0"] == 7.5
    assert run.summary["cl/avg/lamol"] == 32.5
    assert "gap/abs/lamol" not in run.summary
    logged = {key.split(".")[0] for row in run.history for key in row}
    assert {"tables/results", "tables/gap", "tables/orders", "figures/gap"} <= logged

    files = run.artifacts["orders_1-results"]
    assert set(files) == {"scores.parquet", "results.parquet", "report.html", "figures/gap.png"}
    for name, copy in files.items():
        assert study.folder / "wandb" in Path(copy).parents  # where they outlive the home folder
        assert Path(copy).read_bytes() == (study.folder / name).read_bytes()


def test_students_are_kept_on_request_by_the_runs_that_made_them(tmp_path: Path) -> None:
    study = make_study(tmp_path / "results", methods=("lamol",), orders=ORDERS[:1])
    trial = f"lamol/{ORDERS[0]}"
    model, student = f"{trial}@3", tmp_path / "student"
    student.mkdir()
    (student / "model.safetensors").write_bytes(b"weights")
    study.mirror("offline", students={model: student})
    run = study.offline()[run_id(STUDY, trial)]
    (files,) = [run.artifacts[name] for name in run.artifacts]
    assert list(run.artifacts) == [f"student-{model[:16]}".replace("/", "_").replace(">", "_")]
    assert Path(files["model.safetensors"]).read_bytes() == b"weights"


def test_a_second_mirror_replaces_our_offline_runs_and_no_other(tmp_path: Path) -> None:
    study = make_study(tmp_path / "results", methods=("lamol",), orders=ORDERS[:2], learned=1)
    foreign = study.folder / "wandb" / "offline-run-20260101_000000-theirs"
    foreign.mkdir(parents=True)
    study.mirror("offline")
    first = study.offline()

    study = make_study(study.folder, methods=("lamol",), orders=ORDERS[:2], learned=2)
    study.mirror("offline")

    second = study.offline()  # refuses an id that is there twice
    assert set(second) == set(first)
    assert foreign.is_dir()
    history = second[run_id(STUDY, f"lamol/{ORDERS[0]}")].history
    steps = [row["global_step"] for row in history if "train/loss" in row]
    assert steps == list(range(1, 2 * STEPS + 1))


def test_ids_are_stable_and_differ() -> None:
    trials = [run_id(study, trial) for study in ("s", "t") for trial in ("", "x", "y")]
    assert len(set(trials)) == len(trials)
    assert run_id("s", "x") == "l2kd-3b653d1d6ed207cc"  # ids live on servers


def test_no_secret_is_written(tmp_path: Path) -> None:
    study = make_study(tmp_path / "results", methods=("l2kd",), orders=ORDERS[:1])
    secrets = {
        "api_key": SECRET,
        "hub": {"hfToken": SECRET, "name": "shown-hub"},
        "tasks": [{"name": "a", "secret": SECRET}],
        "PASSWORD": SECRET,
        "storage": f"s3://user:{SECRET}@bucket",
        "mirrors": ["shown-mirror", f"https://{SECRET}@host"],
    }
    study.mirror("offline", config=secrets)
    assert files_with("shown-hub", tmp_path)
    assert files_with("shown-mirror", tmp_path)
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
    study = make_study(tmp_path / "results")
    assert study.mirror("disabled") == "W&B: disabled"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert study.mirror("auto") == "W&B: disabled"
    assert not (study.folder / "wandb").exists()


def test_missing_files_leave_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path / "results", {})
    study.folder.mkdir()
    assert "0 trials" in study.mirror("offline")
    assert set(study.offline()) == {run_id(STUDY)}
    assert caplog.records == []


@pytest.mark.parametrize("fault", ["torn file", "no folder to write to"])
def test_what_cannot_be_mirrored_is_one_warning(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = make_study(tmp_path / "results", methods=("lamol",))
    if fault == "torn file":
        (study.folder / "scores.parquet").write_bytes(b"PAR1")
    else:
        (study.folder / "wandb").write_text("a file")
    assert "nothing was mirrored" in study.mirror("offline")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert_nothing_left(tmp_path)


def assert_fell_back_offline(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture, time_limit: float
) -> None:
    started = time.monotonic()
    line = study.mirror("auto", time_limit=time_limit)
    assert time.monotonic() - started < time_limit + 5
    assert "offline" in line
    assert len(study.offline()) == 6 + 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert KEY not in caplog.text
    assert files_with(KEY, tmp_path) == []
    assert_nothing_left(tmp_path)


@pytest.mark.usefixtures("no_server")
def test_a_dead_server_costs_seconds_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = make_study(tmp_path / "results", methods=("lamol",))
    assert_fell_back_offline(study, tmp_path, caplog, time_limit=30)


@pytest.mark.parametrize("behaviour", ["hangs", "stalls", "refuses"])
def test_a_bad_server_costs_seconds_and_a_warning(
    behaviour: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = make_study(tmp_path / "results", methods=("lamol",))
    with serving(behaviour) as server:
        use(monkeypatch, server)
        assert_fell_back_offline(study, tmp_path, caplog, time_limit=30)
        assert server.requests > 0


def test_online_without_a_key_falls_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = make_study(tmp_path / "results", methods=("lamol",), orders=ORDERS[:1])
    assert "offline" in study.mirror("online")
    assert "No API key" in caplog.text


# --- online -----------------------------------------------------------------------------------


def test_online_runs_are_continued_and_never_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "results"
    trials = [run_id(STUDY, f"lamol/{order}") for order in ORDERS[:2]]
    former = folder / "wandb" / f"offline-run-20260101_000000-{trials[0]}"
    former.mkdir(parents=True)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine {server.url[7:]} login user password {KEY}\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))

        for learned in (1, 2):
            study = make_study(folder, methods=("lamol",), orders=ORDERS[:2], learned=learned)
            line = study.mirror("auto")
            assert f"2 trials and the aggregate written online: {server.url}" in line

    assert caplog.records == []
    assert not former.exists()  # a sync would upload it a second time
    assert files_with(KEY, folder) == []
    assert_nothing_left(tmp_path)

    assert set(server.runs) == {*trials, run_id(STUDY)}
    assert {run.group for run in server.runs.values()} == {STUDY}
    assert "orders_1-results" in server.artifacts
    run = server.runs[trials[0]]
    assert run.job_type == "lamol"
    assert run.config["order"] == ORDERS[0]
    train = [row for row in run.history if "train/loss" in row]
    assert [row["global_step"] for row in train] == list(range(1, 2 * STEPS + 1))
    assert len([row for row in run.history if "eval/rest.a/em" in row]) == 3
    assert run.summary["cl/avg"] == 32.5
