"""Upstream files as released; run where the variable L2KD_DATA names a folder that holds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from l2kd_ray.config import Split, TaskSpec
from l2kd_ray.tasks import Task, resolve, score
from l2kd_ray.tasks.readers import nlg, squad, wikisql, woz
from l2kd_ray.tasks.sql import parse

pytestmark = pytest.mark.skipif(
    "L2KD_DATA" not in os.environ, reason="L2KD_DATA names no folder of real data"
)
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@pytest.fixture(scope="module")
def data() -> Path:
    return Path(os.environ["L2KD_DATA"])


def rows(task: Task) -> tuple[int, ...]:
    return tuple(task.splits[split].rows for split in SPLITS)


def get(name: str, data: Path) -> Task:
    return resolve(TaskSpec(name=name), data_dir=data, data_seed=0, caps={}, where="test")


def test_row_counts_of_named_tasks(data: Path) -> None:
    assert rows(get("woz.en", data)) == (2536, 830, 1646)
    assert rows(get("sst", data)) == (6920, 872, 1821)
    for name, train, test in (
        ("e2enlg", 6000, 2000),
        ("rnnlg.rest", 6228, 1039),
        ("rnnlg.hotel", 6446, 1075),
        ("ag", 4000, 7600),
        ("dbpedia", 5600, 2000),
        ("amazon", 5000, 7600),
    ):
        task = get(name, data)
        found = rows(task)
        assert (found[0] + found[1], found[2]) == (train, test), name
        assert 0.09 < found[1] / train < 0.12, name
        contexts = [{(e.context, e.question) for e in task.splits[s].examples()} for s in SPLITS]
        assert not contexts[0] & contexts[1], name


@pytest.mark.parametrize(("domain", "folder"), [("rest", "restaurant"), ("hotel", "hotel")])
def test_rnnlg_as_released_gives_the_originals_files(data: Path, domain: str, folder: str) -> None:
    for split, name in (("train", "train"), ("test", "test")):
        released = nlg.read_rnnlg(str(data / "rnnlg" / folder / f"{name}.json"), {"split": split})
        path = data / "l2kd" / f"rnnlg.{domain}_to_squad-{split}-v2.0.json"
        original = squad.read(str(path), {})
        assert [(e.context, e.question, e.answers) for e in released] == [
            (e.context, e.question, e.answers) for e in original
        ]


@pytest.mark.parametrize(
    ("domain", "overlap", "distinct", "turns"), [("rest", 276, 580, 679), ("hotel", 316, 399, None)]
)
def test_rnnlg_test_inputs_overlap_training(
    data: Path, domain: str, overlap: int, distinct: int, turns: int | None
) -> None:
    task = get(f"rnnlg.{domain}", data)
    test = [e.context for e in task.splits["test"].examples()]
    train = {e.context for split in ("train", "dev") for e in task.splits[split].examples()}  # type: ignore[index]
    assert (len(set(test) & train), len(set(test))) == (overlap, distinct)
    if turns is not None:
        assert sum(context in train for context in test) == turns


def test_e2e_as_released(data: Path) -> None:
    path = str(data / "e2e" / "e2e-dataset.zip")
    read = {split: nlg.read_e2e(path, {"split": split}) for split in SPLITS}
    assert [len(read[split]) for split in SPLITS] == [42061, 547, 630]
    assert [sum(len(e.answers) for e in read[split]) for split in SPLITS] == [42061, 4672, 4693]


def test_woz_as_released(data: Path) -> None:
    examples = woz.read(str(data / "woz" / "woz_test_en.json"), {})
    assert len({e.group for e in examples}) == 400
    assert score("dsem", [e.answers[0] for e in examples], examples)[0] == 100
    assert score("dsem", ["None"] * len(examples), examples)[0] < 5


def test_wikisql_as_released(data: Path) -> None:
    path = str(data / "wikisql" / "wikisql.json.bz2")
    dev = wikisql.read(path, {"split": "dev"})
    assert len(dev) == 8421
    assert all(parse(e.answers[0]) for e in dev)
    assert not any("var" in e.answers[0] and "TABLEalias" in e.answers[0] for e in dev)
    assert score("lfem", [e.answers[0] for e in dev], dev)[0] == 100
    assert rows(get("wikisql", data)) == (56355, 8421, 15878)
