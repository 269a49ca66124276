"""Studies by name, from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import l2kd_ray
from l2kd_ray.errors import InputError


def test_a_study_with_files_beside_it_is_found_by_name_from_anywhere(
    study_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert study.sweep("inline").failures == []
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
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
    with pytest.raises(InputError, match="no such trial"):
        study.export("zzz", "model")


def test_one_order_and_no_replay_will_do(study_file: Any) -> None:
    study = l2kd_ray.load_study(
        study_file(orders=["gen.intent>gen.rest"], replay={"ratio": 0}, methods=["lamol"])
    )
    assert study.plan().stages["replay"].unique == 0
    assert study.sweep("inline").failures == []
    assert len(study.results().query("method == 'lamol'")) == 1
