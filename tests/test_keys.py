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
    "06c4b794c2ecd992f3f7acce8c20c368/examples.jsonl": "53929175079dfdd8",
    "076b01ec7dd83ec7c71a728b3e9f4360/examples.jsonl": "70508632e98469b3",
    "2e9064ed5a1e12dd945d4e092a854610/examples.jsonl": "883c29c897b4757b",
    "38bda5b098923d7f2f635ecc7837e93e/examples.jsonl": "f059a8adb319bfe1",
    "3ebca69dc406209fb3403f1a9dca5e27/examples.jsonl": "ccd4ff23bc56c1ae",
    "4d788a56dbd6e2583036810b6edff8e1/examples.jsonl": "4383ff71f83c5b61",
    "53c1e74f03672d0c163c62441c98607d/examples.jsonl": "1b5ae9ef18da68b6",
    "59d44001d9e684f13726709366c822bd/examples.jsonl": "2e2393bcaafa5076",
    "5fa8a9280e1aea8248a5531d05f5467e/examples.jsonl": "221ec2dec731df45",
    "78551f46c217457143887eba9098518e/examples.jsonl": "89c3cb95e0ee4cd1",
    "7e6171d0e508b000ac37d4c226e60dc5/offsets.npy": "42c407f19b698456",
    "7e6171d0e508b000ac37d4c226e60dc5/tokens.npy": "c4be12d22a8cf255",
    "80d9cf5758e1bd0bee9744663432224f/offsets.npy": "a0b976c22254cfcd",
    "80d9cf5758e1bd0bee9744663432224f/tokens.npy": "d249827d29b44f94",
    "8100a1565bb5b3885468ee1be6d735b2/examples.jsonl": "2c5f26e071a0c5e7",
    "82920df3bb4f6ccf5599469c86d7cc3e/examples.jsonl": "67fca51114391a48",
    "86e3fbda22a0c59663e7399cbede0d69/offsets.npy": "1a88deb2c2553e99",
    "86e3fbda22a0c59663e7399cbede0d69/tokens.npy": "4cfba470d4bc0eca",
    "9584fdea74ca4303dd71da148255695f/examples.jsonl": "9fe57cdaede99674",
    "9b65846fe3f4a4e2678f62c2475737c9/examples.jsonl": "c5f96898dc108013",
    "a2ce5f9328059c09ecae571ed1f77227/examples.jsonl": "10071a04e84d51df",
    "acf33563451d5117fb4f0e0c58ecaeb6/examples.jsonl": "05cd7060e28fbaf4",
    "af954f07db1753397d70a9ca5706c3e8/examples.jsonl": "5a2bb8c7bf93d538",
    "b510e64c90819fd462f81fd2ba546c00/examples.jsonl": "407cf46fab0ae155",
    "b63ba60ec4cba421208608330b528456/examples.jsonl": "c8c46bd13af009cd",
    "be2019e2ac58dc0affb8a85df2a98fa4/examples.jsonl": "66dac5c44f13668d",
    "c6a6c4bb261032f037e44447a53f5282/examples.jsonl": "957d52591b43bd7d",
    "c76f85a1075abf0b3ec86e14edb8ab8f/examples.jsonl": "836a5357c5afecef",
    "ca6ac0dd9e75f4d4e16c6ff7938b6df1/examples.jsonl": "7ccfe711c77cb2d7",
    "cec0377b54d85d00f63395bca984814d/examples.jsonl": "35ada504dfaab003",
    "cf811d8077f4b139c6886544ad811f5f/examples.jsonl": "4643eebf1a223011",
    "d718b954b781ebb5b1ba1077f56b23b3/examples.jsonl": "e34d0b6fac0beed5",
    "e9ef97472ee9048316cddc15cdaff632/examples.jsonl": "06579338b3c3859b",
    "eccc6e0cc136f8b7d7370277b2d144e8/examples.jsonl": "befbad02383015e6",
    "fab38a18ba87578bc703c35cedf0eeca/offsets.npy": "6962e1095de8a6f0",
    "fab38a18ba87578bc703c35cedf0eeca/tokens.npy": "b911c1fa444e7b5b",
    "fcb0434f31208fbff7d4358c38cdf272/offsets.npy": "8cbc8d44be4bb3d6",
    "fcb0434f31208fbff7d4358c38cdf272/tokens.npy": "fc69315f07a61072",
    "fcdd22cd4ebc048a24ff6ba6b7adcd62/examples.jsonl": "a338a39c26cc99b6",
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
    shipped = ("quickstart", "mkd_small", "metakd_small", "structkd_small")
    studies = [own(folder / "own"), *(load(SHIPPED / f"{name}.yaml") for name in shipped)]
    found: dict[str, str] = {}
    for stage in {stage for study in studies for stage in study.trials()[0].stages()}:
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
