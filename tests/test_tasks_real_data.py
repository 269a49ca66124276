"""Upstream files as released; run where the variable L2KD_DATA names a folder that holds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.reading import read

from l2kd_ray.families.evaluate import unseen
from l2kd_ray.tasks import Task, labels, resolve, score, texts
from l2kd_ray.tasks.readers import nlg, squad, wikisql, woz
from l2kd_ray.tasks.spec import Split, TaskSpec
from l2kd_ray.tasks.sql import parse
from l2kd_ray.tasks.tagging import spans, words

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


# Of the tables of methods/l2kd.md and of the data's README: train, dev, test; no dev: it is carved.
NAMED = {
    "e2enlg": (6000, None, 2000),
    "rnnlg.rest": (6228, None, 1039),
    "rnnlg.hotel": (6446, None, 1075),
    "woz.en": (2536, 830, 1646),
    "wikisql": (56355, 8421, 15878),
    "sst": (6920, 872, 1821),
    "ag": (4000, None, 7600),
    "dbpedia": (5600, None, 2000),
    "amazon": (5000, None, 7600),
    "banking77": (10003, None, 3080),
    **{
        f"amazon.{domain}": (2000, 400, 1600)
        for domain in ("books", "dvd", "electronics", "kitchen")
    },
    "wnut17": (3394, 1009, 1287),
    "ud.ewt": (12544, 2001, 2077),
}
CLASSES = {"sst": 2, "ag": 4, "dbpedia": 14, "amazon": 5, "banking77": 77, "amazon.dvd": 2}


@pytest.mark.parametrize("name", NAMED)
def test_row_counts_of_named_tasks(data: Path, name: str) -> None:
    task = get(name, data)
    train, dev, test = rows(task)
    if NAMED[name][1] is not None:
        assert (train, dev, test) == NAMED[name]
        return
    assert (train + dev, None, test) == NAMED[name]
    assert 0.09 < dev / (train + dev) < 0.12
    inputs = [{(e.context, e.question) for e in task.splits[s].examples()} for s in SPLITS]
    assert not inputs[0] & inputs[1]


@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_named_tasks(data: Path, name: str) -> None:
    task = get(name, data)
    train, test = (task.splits[split].examples() for split in ("train", "test"))
    assert len(labels(train)) == CLASSES[name]
    assert labels(test) == labels(train)
    assert {len(texts(example, task.kind)) for example in train} == {1}


def test_row_counts_of_files_that_a_user_names(data: Path) -> None:
    banking = TaskSpec(
        name="banking77",
        train=data / "banking77" / "train.csv",
        test=data / "banking77" / "test.csv",
        columns={"label": "category"},
    )
    train, dev, test = rows(resolve(banking, data_dir=None, data_seed=0, caps={}, where="test"))
    assert (train + dev, test) == (10003, 3080)
    for domain in ("books", "dvd", "electronics", "kitchen"):
        files = {split: data / "amazon_reviews" / domain / f"{split}.jsonl" for split in SPLITS}
        reviews = TaskSpec.model_validate({"name": domain, **files})
        task = resolve(reviews, data_dir=None, data_seed=0, caps={}, where="test")
        assert (task.kind, rows(task)) == ("classify", (2000, 400, 1600))


@pytest.mark.parametrize(
    ("folder", "counts"), [("restaurant", (3114, 1039, 1039)), ("hotel", (3223, 1075, 1075))]
)
def test_row_counts_of_rnnlg_as_released(
    data: Path, folder: str, counts: tuple[int, int, int]
) -> None:
    for name, split, count in zip(("train", "valid", "test"), SPLITS, counts, strict=True):
        found = read(
            nlg.read_rnnlg, str(data / "rnnlg" / folder / f"{name}.json"), {"split": split}
        )
        # An act has two texts; training takes each for an example of its own.
        assert len(found) == (2 * count if split == "train" else count)


@pytest.mark.parametrize(("domain", "folder"), [("rest", "restaurant"), ("hotel", "hotel")])
def test_rnnlg_as_released_gives_the_originals_files(data: Path, domain: str, folder: str) -> None:
    for split, name in (("train", "train"), ("test", "test")):
        released = read(
            nlg.read_rnnlg, str(data / "rnnlg" / folder / f"{name}.json"), {"split": split}
        )
        path = data / "l2kd" / f"rnnlg.{domain}_to_squad-{split}-v2.0.json"
        original = read(squad.read, str(path), {})
        assert [(e.context, e.question, e.answers) for e in released] == [
            (e.context, e.question, e.answers) for e in original
        ]


@pytest.mark.parametrize(
    ("domain", "overlap", "distinct", "seen"), [("rest", 276, 580, 679), ("hotel", 316, 399, 968)]
)
def test_rnnlg_test_inputs_overlap_training(
    data: Path, domain: str, overlap: int, distinct: int, seen: int
) -> None:
    task = get(f"rnnlg.{domain}", data)
    assert task.seen is not None
    test, training = task.splits["test"].examples(), task.seen.examples()
    inputs = {example.context for example in test}
    assert len(inputs) == distinct
    assert len(inputs & {example.context for example in training}) == overlap
    fresh = unseen(test, training)
    assert len(fresh) == len(test) - seen
    assert len({test[place].context for place in fresh}) == distinct - overlap


def test_slot_errors_of_people(data: Path) -> None:
    """What people write is right by definition: its rate is the measure's own error."""
    for task, highest in (("rnnlg.rest", 0.3), ("rnnlg.hotel", 1.5), ("e2enlg", 18.1)):
        examples = read(squad.read, str(data / "l2kd" / f"{task}_to_squad-test-v2.0.json"), {})
        said = [example.answers[0] for example in examples]
        assert 0 < score("slot_error", said, examples)[0] < highest, task
        assert score("slot_error", ["" for _ in said], examples)[0] == 100
        assert score("slot_error", said[1:] + said[:1], examples)[0] > 100, task


def test_e2e_as_released(data: Path) -> None:
    path = str(data / "e2e" / "e2e-dataset.zip")
    found = {split: read(nlg.read_e2e, path, {"split": split}) for split in SPLITS}
    assert [len(found[split]) for split in SPLITS] == [42061, 547, 630]
    assert [sum(len(e.answers) for e in found[split]) for split in SPLITS] == [42061, 4672, 4693]


def test_woz_as_released(data: Path) -> None:
    examples = read(woz.read, str(data / "woz" / "woz_test_en.json"), {})
    assert len({e.group for e in examples}) == 400
    assert score("dsem", [e.answers[0] for e in examples], examples)[0] == 100
    assert score("dsem", ["None"] * len(examples), examples)[0] < 5


def test_wikisql_as_released(data: Path) -> None:
    path = str(data / "wikisql" / "wikisql.json.bz2")
    dev = read(wikisql.read, path, {"split": "dev"})
    assert len(dev) == 8421
    assert all(parse(e.answers[0]) for e in dev)
    assert not any("var" in e.answers[0] and "TABLEalias" in e.answers[0] for e in dev)
    assert score("lfem", [e.answers[0] for e in dev], dev)[0] == 100


def test_labels_are_one_a_word_and_of_known_types(data: Path) -> None:
    tagged = get("wnut17", data).splits["train"].examples()
    tags = [words(example.answers[0]) for example in tagged]
    assert [len(row) for row in tags] == [len(words(example.context)) for example in tagged]
    assert {tag[2:] for row in tags for tag in row} - {""} == {
        "person", "location", "group", "corporation", "product", "creative-work",
    }  # fmt: skip
    # Of the file: tags that begin with B, each one span.
    assert sum(len(spans(row)) for row in tags) == 660 + 548 + 264 + 221 + 142 + 140
    parsed = get("ud.ewt", data).splits["dev"].examples()
    for example in parsed:
        heads = [int(label.partition(":")[0]) for label in words(example.answers[0])]
        assert len(heads) == len(words(example.context))
        assert heads.count(0) == 1
    assert score("las", [example.answers[0] for example in parsed], parsed)[0] == 100
