"""The keys of some stages of the shipped studies, written down: what is stored is found by them.

A change of one means that every user computes that stage, and all that follows from it, again. So
it must be meant, and the log of changes must say so. Then write the new table:

    python tests/test_keys.py
"""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from l2kd_ray.core.stage import Stage
from l2kd_ray.study import Study, load

SHIPPED = Path(__file__).parent.parent / "tune_configs"
KEYS = {
    "examples": "5bf659dd0b0df555a35d25aedfd9c514",
    "tokenizer": "ca70c8f5b00c32e5e2321e5b748b384d",
    "tokens": "82f3cf54995a7282db131e4fad2abf62",
    "initial": "f84ff56ea73ebe7bdb4f5a642b27b470",
    "learn, a first task": "0e97635017c2f1606c7dc2000b1fd35d",
    "learn, l2kd with replay": "f58c987a4862bf9cf22ec92b6f3c6285",
    "annotate": "2d8c0fb413e0e7178e54815ef50274a2",
    "replay": "fb0b6a8bf22d1f93854d2e4b2f1229e3",
    "multitask": "9e5293e46ce99cd3d4bddb687fdd9623",
    "evaluate": "47f201b35d99645cf774b130c4478e55",
    "classify, mkd": "712ab316c6f20d951e66eccbb5150332",
    "logits": "e3d898186a13498089c6e2ed57c3a10f",
    "meta-distil": "d8d02afb72aebb10677e092f0f40e77e",
    "prototypes": "701d4575578b62bb5a08c76ba52a77ae",
    "learn structure": "a1378b3702e47f84474a67a1e7522108",
    "teacher scores": "2b1b316149b3e285fe1b52e4c520de90",
}


def students(study: Study, method: str) -> list[Any]:
    """The models of a method's first trial: after each task of its order, or of each task alone."""
    trial = next(trial for trial in study.trials() if trial.method == method)
    return list(dict.fromkeys(cell.stage.model for cell in chain(*trial.steps)))


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
        mine = {
            "name": "mine",
            "train": "mine.jsonl",
            "test": "mine.jsonl",
            "max_test": 5,
            "metric": "em",
        }
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
