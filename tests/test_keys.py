"""The keys of some stages of the shipped studies, written down: what is stored is found by them.

A change of one means that every user computes that stage, and all that follows from it, again. So
it must be meant, and the log of changes must say so. Then write the new table:

    python tests/test_keys.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from l2kd_ray.core.stage import Stage
from l2kd_ray.study import Study, load

SHIPPED = Path(__file__).parent.parent / "tune_configs"
KEYS = {
    "examples": "dfd15d3f39f51d88c2f2bb178b0de1bb",
    "tokenizer": "07b9528821204bf557d71720c40ed264",
    "tokens": "6020eb52c3c14e7dcf3fc1e96be7d992",
    "initial": "494fcfb8295171db532d1215c073b1aa",
    "learn, a first task": "55d486093242c5ee53fc48029951f39e",
    "learn, l2kd with replay": "7c922c6b6844d356d859ac874d946417",
    "annotate": "def80ac1d6cd8c817b200b71896c1656",
    "replay": "91f76ba1681858f137fd0496f6578932",
    "multitask": "f3f659dac20db28cceb296afd62233d9",
    "evaluate": "f2a5a799ab280bc01d98884c7b358b7e",
    "classify, mkd": "647062a3390ac6c3dff07e9ff8fb71c9",
    "logits": "1d3b58f351ff9097b8f607806821af46",
    "meta-distil": "1087d27bf1da1f76bc7e6d9bafd89a6e",
    "prototypes": "353fda16e9f022049a106812e822b521",
    "learn structure": "0ec28f892773950f503daf02213352d3",
    "teacher scores": "57062cdb03f4a29d5e6ff5159fa1c06c",
}


def students(study: Study, method: str) -> list[Any]:
    """The models of a method's first trial: after each task of its order, or of each task alone."""
    trial = next(trial for trial in study.trials() if trial.method == method)
    return list(dict.fromkeys(cell.stage.model for cell in trial.cells))


def stages(folder: Path) -> dict[str, Stage]:
    """Some stages of every kind and family, by a name."""
    study = load(folder / "quickstart.yaml")
    initial, first, *_ = students(study, "lamol")
    _, _, second, _ = students(study, "l2kd")
    mkd = students(load(folder / "mkd_small.yaml"), "mkd")[-1]
    metakd = students(load(folder / "metakd_small.yaml"), "metakd")[0]
    structkd = students(load(folder / "structkd_small.yaml"), "structkd")[1]
    return {
        "examples": first.tasks[0].source,
        "tokenizer": initial.tokenizer,
        "tokens": first.tasks[0],
        "initial": initial,
        "learn, a first task": first,
        "learn, l2kd with replay": second,
        "annotate": second.teacher,
        "replay": second.replay,
        "multitask": students(study, "multitask")[0],
        "evaluate": study.trials()[0].steps[0][0].stage,
        "classify, mkd": mkd,
        "logits": mkd.taught[0],
        "meta-distil": metakd,
        "prototypes": metakd.scores,
        "learn structure": structkd,
        "teacher scores": structkd.scores[0],
    }


def test_what_was_stored_is_found() -> None:
    assert {name: stage.key for name, stage in stages(SHIPPED).items()} == KEYS


def test_the_folder_of_a_study_is_in_no_key(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "elsewhere")
    assert {name: stage.key for name, stage in stages(tmp_path / "elsewhere").items()} == KEYS


def test_the_folder_of_a_tasks_files_is_in_no_key(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other/and/deeper"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows = [{"context": f"say {k}", "question": "?", "answer": f"it is {k}"} for k in range(9)]
        (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        mine = {"name": "mine", "train": "mine.jsonl", "test": "mine.jsonl", "metric": "em"}
        student = {"arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96}
        data = {"name": "own", "tasks": [mine], "methods": ["l2kd"], "student": student}
        (folder / "study.yaml").write_text(yaml.safe_dump(data))
        trials = load(folder / "study.yaml").trials()
        found.append({stage.key for trial in trials for stage in trial.stages()})
    assert found[0] == found[1]


if __name__ == "__main__":
    print("KEYS = {")
    for name, stage in stages(SHIPPED).items():
        print(f'    "{name}": "{stage.key}",')
    print("}")
