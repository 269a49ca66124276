"""The keys of some stages, and what is stored under some of them, written down.

A change of a key means that every user computes that stage, and all that follows from it, again. So
it must be meant, and the log of changes must say so. Other contents under the same key are worse:
two versions of the program take each other's data for their own. Then the stage's `version` must be
raised. The new tables are written by

    python tests/test_keys.py
"""

from __future__ import annotations

import json
import shutil
import sys
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store
from l2kd_ray.study import Study, load

SHIPPED = Path(__file__).parent.parent / "tune_configs"
KEYS = {
    "examples": "78551f46c217457143887eba9098518e",
    "tokenizer": "608d076c5850089ee4cd136b27b04841",
    "tokens": "7e6171d0e508b000ac37d4c226e60dc5",
    "initial": "57774c93d2bf9e038e88da6e4c2fe294",
    "learn, a first task": "3f86e271bc2a074959b64abc0c5738ba",
    "learn, l2kd with replay": "13eb897c292081b6eb2b7bc64ab90228",
    "annotate": "2aada4daabc3fc46c4ed1e03dd07d07b",
    "replay": "1bfd9c9f00ee715f6566ac419f070a4a",
    "multitask": "735656ef2f2f5c9597c0de7f387cfc60",
    "evaluate": "c7d7d0304a7ed6c27d88d89cfaa05582",
    "classify, mkd": "39ab1d60f6c1a61f7c1459ffc29b42d8",
    "logits": "7b0e6e23897843f5d74beb81fdb39c36",
    "meta-distil": "0ed7f9d2cbd3324e22c9763499615833",
    "prototypes": "e22d249f8bf31d13959a84ae323d1bf2",
    "learn structure": "11217ed27ca513d58541236ec25d3614",
    "teacher scores": "0cc13e7c436223b0b994c22209ae630c",
}
CONTENTS = {
    "38bda5b098923d7f2f635ecc7837e93e/examples.jsonl": "f059a8adb319bfe1",
    "78551f46c217457143887eba9098518e/examples.jsonl": "89c3cb95e0ee4cd1",
    "7e6171d0e508b000ac37d4c226e60dc5/offsets.npy": "42c407f19b698456",
    "7e6171d0e508b000ac37d4c226e60dc5/tokens.npy": "c4be12d22a8cf255",
    "86e3fbda22a0c59663e7399cbede0d69/offsets.npy": "1a88deb2c2553e99",
    "86e3fbda22a0c59663e7399cbede0d69/tokens.npy": "4cfba470d4bc0eca",
    "a2ce5f9328059c09ecae571ed1f77227/examples.jsonl": "10071a04e84d51df",
    "af954f07db1753397d70a9ca5706c3e8/examples.jsonl": "5a2bb8c7bf93d538",
    "be2019e2ac58dc0affb8a85df2a98fa4/examples.jsonl": "66dac5c44f13668d",
    "ca6ac0dd9e75f4d4e16c6ff7938b6df1/examples.jsonl": "7ccfe711c77cb2d7",
    "eccc6e0cc136f8b7d7370277b2d144e8/examples.jsonl": "befbad02383015e6",
    "fab38a18ba87578bc703c35cedf0eeca/offsets.npy": "6962e1095de8a6f0",
    "fab38a18ba87578bc703c35cedf0eeca/tokens.npy": "b911c1fa444e7b5b",
}
"""What the stages that only sample and encode text write: digests, by `KEY/FILE`."""


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


def own(folder: Path) -> Study:
    """A study of a file with characters of every width, whose dev split is carved from train."""
    folder.mkdir(parents=True)
    rows = [
        {"context": f"{sign} {k}", "question": "?", "answer": f"it is {k}", "talk": str(k // 2)}
        for k, sign in enumerate("a£é\u0378日\U0001fa77" * 6)
    ]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = {"train": "mine.jsonl", "test": "mine.jsonl", "metric": "em"}
    tasks = [
        {**split, "name": "single"},
        {**split, "name": "grouped", "columns": {"group": "talk"}},
    ]
    student = {"arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96}
    data = {"name": "own", "tasks": tasks, "methods": ["l2kd"], "student": student}
    (folder / "study.yaml").write_text(yaml.safe_dump({**data, "max_train": 9, "max_test": 5}))
    return load(folder / "study.yaml")


def test_the_folder_of_a_tasks_files_is_in_no_key(tmp_path: Path) -> None:
    found = [
        {stage.key for trial in own(tmp_path / name).trials() for stage in trial.stages()}
        for name in ("one", "other/and/deeper")
    ]
    assert found[0] == found[1]


def contents(folder: Path) -> dict[str, str]:
    """Digests of what is written under some keys, in a store below `folder`."""
    store = Store(str(folder / "results"))
    every = {*stages(SHIPPED).values(), *own(folder / "own").trials()[0].stages()}
    found: dict[str, str] = {}
    for stage in every:
        if stage.kind in ("examples", "tokens"):
            obtain(stage, store)
            manifest = store.manifest(stage.kind, stage.key)
            assert manifest is not None
            found |= {f"{stage.key}/{n}": file.sha256[:16] for n, file in manifest.files.items()}
    return dict(sorted(found.items()))


def test_a_key_names_one_content(tmp_path: Path) -> None:
    assert contents(tmp_path) == CONTENTS


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        found = contents(Path(folder))
    changed = [key for key, digest in found.items() if CONTENTS.get(key, digest) != digest]
    if changed:
        sys.exit(f"Raise `version`: these stages have other contents under the same key: {changed}")
    for table, rows in {
        "KEYS": {name: stage.key for name, stage in stages(SHIPPED).items()},
        "CONTENTS": found,
    }.items():
        print(f"{table} = {{")
        for name, value in rows.items():
            print(f'    "{name}": "{value}",')
        print("}")
