"""Studies by name, from anywhere; verbs beside damaged files, other readers and on any storage."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers.pages import Page
from helpers.studies import tiny_data

import l2kd_ray
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.experiment import Experiment
from l2kd_ray.report import live
from l2kd_ray.study.reading import parse_overrides


def test_a_study_with_files_beside_it_is_found_by_name_from_anywhere(
    study_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows = [{"context": f"say {k}", "question": "?", "answer": f"it is {k}"} for k in range(20)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = {
        "name": "mine",
        "train": "mine.jsonl",
        "test": "mine.jsonl",
        "max_test": 5,
        "metric": "em",
    }
    file = study_file(tasks=[mine], methods=["finetune"])
    study = l2kd_ray.load_study(file)
    monkeypatch.setattr(live, "_FIRST_LINE_S", 0.0)
    assert study.sweep("inline").failures == []
    assert re.search(r"^\[0:\d\d\] examples \d/\d, .*evaluate 0/", capsys.readouterr().err, re.M)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "tiny").mkdir(parents=True)  # a folder of the study's name is not its file
    monkeypatch.chdir(elsewhere)
    again = l2kd_ray.load_study("tiny", storage=str(tmp_path / "results"))
    assert again.plan().missing == frozenset()
    assert again.results().equals(study.results())
    assert again.results()["cl/bwt"].isna().all()  # one task: there is nothing to transfer back to


def test_nothing_finished_is_said_as_such(study_file: Any) -> None:
    study = l2kd_ray.load_study(study_file())
    with pytest.raises(InputError, match="nothing is finished yet"):
        study.results()
    with pytest.raises(InputError, match="no scores yet"):
        study.report()
    with pytest.raises(InputError, match="no such study"):
        l2kd_ray.load_study("nobody")
    with pytest.raises(InputError, match=r"swept in .*l2kd_results"):
        l2kd_ray.load_study("nobody", storage=None)  # `storage=` removes the key
    with pytest.raises(InputError, match="no such trial"):
        study.export("zzz", "model")


def test_one_order_and_no_replay_will_do(study_file: Any) -> None:
    study = l2kd_ray.load_study(
        study_file(orders=["gen.intent>gen.rest"], replay={"ratio": 0}, methods=["lamol"])
    )
    assert study.plan().stages["replay"].unique == 0
    assert study.sweep("inline").failures == []
    assert len(study.results().query("method == 'lamol'")) == 1


def test_a_storage_that_does_not_answer_is_refused_with_its_address(
    study_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2kd_ray.core.filetree._WAITS_S", ())
    file = study_file()
    for address in ("http://127.0.0.1:9/x", str(file)):
        with pytest.raises(InputError, match="cannot be reached") as caught:
            l2kd_ray.load_study(file, storage=address)
        assert (caught.value.key, caught.value.got) == ("storage", address)


def test_the_command_that_repeats_a_study_means_the_same(study_file: Any) -> None:
    changes = {"train.lr": 1e-05, "wandb.project": "é 😀 'no'", "wandb.entity": "no", "seeds": [7]}
    study = l2kd_ray.load_study(study_file(), changes)
    assert parse_overrides(shlex.split(study.command)[3:]) == changes


VERBS: Mapping[str, Callable[[Experiment], object]] = {
    "plan": Experiment.plan,
    "status": Experiment.status,
    "report": Experiment.report,
    "sweep": lambda experiment: experiment.sweep("inline"),
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study file and the storage of its sweep."""
    folder = tmp_path_factory.mktemp("swept")
    data = {**tiny_data(methods=["finetune"]), "storage": str(folder / "results")}
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    l2kd_ray.load_study(folder / "study.yaml").sweep("inline")
    return folder


def test_a_mapping_is_a_study(swept: Path) -> None:
    """Its command finds it by name; in a notebook its plan and its status are tables."""
    study = l2kd_ray.load_study(yaml.safe_load((swept / "study.yaml").read_text()))
    name, *words = shlex.split(study.command)[2:]
    assert study.plan() == l2kd_ray.load_study(name, parse_overrides(words)).plan()
    assert study.plan().missing == frozenset()
    for shown in (study.plan(), study.status()):
        assert "evaluate" in Page(shown._repr_html_()).words


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("content", [b"", b"null"])
def test_no_verb_is_blocked_by_a_small_file(
    content: bytes, verb: str, swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = swept / "results/studies/tiny"
    names = ("failures.json", "live-1.json", "settings.json", "study.yaml", "keys")
    for name in names:
        (base / name).write_bytes(content)
    VERBS[verb](l2kd_ray.load_study(swept / "study.yaml"))
    told = capsys.readouterr().err
    assert "study.yaml is damaged" in told
    if verb == "sweep":  # it writes what it needs anew
        assert (base / "failures.json").read_bytes() == b"[]"
        l2kd_ray.load_study("tiny", storage=str(swept / "results")).status()


def test_scores_of_another_stage_are_computed_again(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A restore that put one stage's folder in the place of another must not change a number."""
    study = l2kd_ray.load_study(swept / "study.yaml")
    before = study.scores()
    stages = Path(study.store.base, "stages")
    right, wrong, *lost = stages.glob("evaluate/*/*")
    model, *_, wrong_model = stages.glob("learn/*/*")
    for folder in (wrong, wrong_model, *lost):
        shutil.rmtree(folder)
    shutil.copytree(right, wrong)
    shutil.copytree(model, wrong_model)
    ended = study.sweep("inline")  # one command says it and mends it
    assert ended.snapshot.scores.equals(before)
    assert ended.ran == len([wrong, wrong_model, *lost])
    told = capsys.readouterr().err
    assert f"evaluate {wrong.name}: the manifest is damaged (it is another stage's" in told
    assert f"learn {wrong_model.name}: the manifest is damaged (it is another stage's" in told


def test_no_reader_sees_half_a_file(swept: Path) -> None:
    study = l2kd_ray.load_study(swept / "study.yaml")
    study.report()
    base, ended = swept / "results/studies/tiny", threading.Event()
    read: Counter[str] = Counter()

    def look() -> None:
        while not ended.is_set():
            for name in ("scores.parquet", "results.parquet"):
                pd.read_parquet(base / name)
                read[name] += 1
            assert (base / "report.html").read_text().rstrip().endswith("</html>")

    with ThreadPoolExecutor() as threads:
        looking = threads.submit(look)
        for _ in range(3):
            study.report()
        ended.set()
        looking.result()
    assert min(read.values()) > 5
    assert not list(base.rglob("*.tmp"))


def test_calm_commands_leave_no_temporary_folder(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    study = l2kd_ray.load_study("tiny", storage=str(swept / "results"))
    study.status()
    study.report()
    remote = Store(f"memory://{uuid.uuid4().hex}")
    for path in (swept / "results").rglob("*"):
        if path.is_file():
            remote.upload(path, str(path.relative_to(swept / "results")))
    written = l2kd_ray.load_study("tiny", storage=remote.root).report()
    assert f"{remote.root}/studies/tiny/report.html" in written
    assert remote.read("studies/tiny/tables/gap.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_same_name_is_not_the_study(swept: Path, tmp_path: Path) -> None:
    Path("tiny").mkdir()
    assert l2kd_ray.load_study("tiny", storage=str(swept / "results")).status().trials > 0
