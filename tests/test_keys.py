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
    "examples": "1211f4a116bd9683b68c141eaf7900c0",
    "tokenizer": "b78c8bd9405ed1ba3bda062d56f291c8",
    "tokens": "4eceaf4fd3b0d6312fd2a82ff06050e8",
    "initial": "f2c1a14afdd00243cfb4277cd08035a0",
    "learn, a first task": "c8bd376271f3f38cd7dc755a35d868d1",
    "learn, l2kd with replay": "9f7527876bb44b192656ae7b29d28ef4",
    "annotate": "4322ec46b61a811dab9d2a9d882097ef",
    "replay": "61f7ab4d605e3b5423a3b12fe1448e49",
    "multitask": "f115340d1e04d546129f46d410cad610",
    "evaluate": "ceaa8a6fe0e39ee32a6d401b52232ae8",
    "classify, mkd": "78b978e2a66595548df954869cdecc43",
    "logits": "89ad05906171adca53ddc3760dae2370",
    "meta-distil": "4258c4fb79d8eb5e53402c0c690dae0b",
    "prototypes": "60fee44489e1346aa738e66e1cf6a74d",
    "learn structure": "baa2367c60a342797e4ed6213e28fc12",
    "teacher scores": "7e9c6ef08f864a9d38a1147f43da5e35",
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
