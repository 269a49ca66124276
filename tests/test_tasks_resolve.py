"""From a task's spec to its splits: files found, kinds and metrics inferred, identity, refusals."""

from __future__ import annotations

import bz2
import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray.errors import InputError
from l2kd_ray.tasks import Example, Task, TaskData, registered, resolve, write_squad
from l2kd_ray.tasks.readers import hub
from l2kd_ray.tasks.spec import TaskSpec


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def labelled(path: Path, count: int, start: int = 0) -> Path:
    rows = [{"text": f"text {n}", "label": n % 2} for n in range(start, start + count)]
    return lines(path, *rows)


def get(spec: Any, **options: Any) -> Task:
    options = {"data_dir": None, "data_seed": 0, "caps": {}, "where": "study.yaml", **options}
    return resolve(TaskSpec.model_validate(spec), **options)


def identity(data: TaskData) -> Any:
    """The fields that others hash."""

    def plain(value: Any) -> Any:
        if not dataclasses.is_dataclass(value):
            return value
        fields = [f for f in dataclasses.fields(value) if f.metadata.get("identity", True)]
        return {f.name: plain(getattr(value, f.name)) for f in fields}

    return plain(data)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "mine",
        "train": str(labelled(tmp_path / "a.jsonl", 40)),
        "test": str(labelled(tmp_path / "b.jsonl", 10, start=40)),
        "labels": ["no", "yes"],
    }


# A user's own task ------------------------------------------------------------------------------


def test_own_files_need_no_more_than_their_names(own: dict[str, Any]) -> None:
    task = get(own)
    assert (task.kind, task.metric) == ("classify", "em")
    assert {split: data.rows for split, data in task.splits.items()} == {
        "train": 36,
        "dev": 4,
        "test": 10,
    }
    train, dev = task.splits["train"].examples(), task.splits["dev"].examples()
    assert {e.context for e in train + dev} == {f"text {n}" for n in range(40)}
    assert {e.answers for e in train} == {("no",), ("yes",)}
    assert task.splits["test"].carve is None
    assert task.splits["test"].carve_seed is None


def test_text_to_text_is_the_kind_of_what_has_answers(tmp_path: Path) -> None:
    row = {"context": "c", "question": "q", "answer": "a"}
    path = str(lines(tmp_path / "a.jsonl", row, {**row, "context": "d"}))
    task = get({"name": "mine", "train": path, "dev": path, "test": path, "max_test": 1})
    assert (task.kind, task.metric) == ("text-to-text", "rouge")
    task = get(
        {"name": "mine", "train": path, "dev": path, "test": path, "max_test": 1, "metric": "em"}
    )
    assert (task.kind, task.metric) == ("text-to-text", "em")


def test_relative_files_lie_beside_the_working_directory_or_the_study(
    own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = {**own, "train": "a.jsonl", "test": "b.jsonl"}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    task = get(relative, base=tmp_path)
    assert task == get(own)
    assert task.splits["test"].source.location == str(tmp_path / "b.jsonl")
    with pytest.raises(InputError, match=r"a\.jsonl: cannot read the file"):
        get(relative)


def test_identity_is_of_content(own: dict[str, Any], tmp_path: Path) -> None:
    first = get(own)
    copy = {**own, "train": str(labelled(tmp_path / "other" / "x.jsonl", 40))}
    for split in ("train", "dev", "test"):
        assert identity(get(copy).splits[split]) == identity(first.splits[split])  # type: ignore[index]
    changed = {**own, "train": str(labelled(tmp_path / "other" / "y.jsonl", 41))}
    assert identity(get(changed).splits["train"]) != identity(first.splits["train"])
    assert identity(get(changed).splits["test"]) == identity(first.splits["test"])
    for key, value in (("labels", ["a", "b"]), ("question", "?"), ("dev_fraction", 0.2)):
        other = get({**own, key: value})
        assert identity(other.splits["train"]) != identity(first.splits["train"]), key


def test_what_does_not_matter_is_no_part_of_identity(own: dict[str, Any]) -> None:
    plain, seeded = get(own), get(own, data_seed=1)
    assert identity(plain.splits["test"]) == identity(seeded.splits["test"])
    assert identity(plain.splits["dev"]) != identity(seeded.splits["dev"])
    loose = get(own, caps={"train": 36, "test": 1000})
    assert loose == plain  # caps that take nothing away
    capped = get(own, caps={"test": 3}).splits["test"]
    assert (capped.cap, capped.cap_seed, capped.rows) == (3, 0, 3)
    assert len(capped.examples()) == 3


def test_the_tasks_own_caps_go_first(own: dict[str, Any]) -> None:
    task = get({**own, "max_train": 7}, caps={"train": 5, "dev": 2})
    assert {split: data.rows for split, data in task.splits.items()} == {
        "train": 7,
        "dev": 2,
        "test": 10,
    }
    assert len(task.splits["train"].examples()) == 7
    small = get({**own, "max_train": 5}).splits["train"].examples()
    assert set(small) <= set(task.splits["train"].examples())


def test_a_changed_file_is_noticed_when_it_is_read(own: dict[str, Any]) -> None:
    data = get(own).splits["test"]
    labelled(Path(own["test"]), 10, start=50)  # of the same size
    with pytest.raises(InputError, match="has changed since the study was planned"):
        data.examples()
    Path(own["test"]).unlink()
    with pytest.raises(InputError, match="cannot read the file"):
        data.examples()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"test": None}, r"mine has no test split(?s:.*)expected: a test file"),
        ({"train": None}, "mine has no train split"),
        ({"test": "nowhere.jsonl"}, r"nowhere\.jsonl: cannot read the file"),
        ({"test": "data.parquet"}, r"does not tell its format(?s:.*)\.jsonl"),
        ({"format": "squad", "labels": None}, "not valid JSON"),
        ({"format": "squad"}, r"mine\.labels: the format of the task.s data has no use for"),
        ({"columns": {"text": "sentence"}}, r"no column sentence(?s:.*)\['text', 'label'\]"),
        ({"labels": ["no"]}, "no such label"),
    ],
)
def test_own_tasks_are_refused(own: dict[str, Any], change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        get({key: value for key, value in {**own, **change}.items() if value is not None})


def test_content_no_format_may_hold_is_refused(own: dict[str, Any], tmp_path: Path) -> None:
    for rows, says in (
        ([], "contains no examples"),
        ([{"text": "\ud800", "label": 0}], "no valid Unicode"),
    ):
        with pytest.raises(InputError, match=says):
            get({**own, "test": str(lines(tmp_path / "c.jsonl", *rows))})


def test_too_little_for_a_dev_split(own: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine: 1 training examples are too few(?s:.*)dev"):
        get({**own, "train": str(labelled(tmp_path / "c.jsonl", 1))})


# Answers of a teacher -----------------------------------------------------------------------------


def by_a_teacher(path: Path, examples: list[Example]) -> str:
    write_squad(path, [replace(row, answers=(f"teacher's {row.context}",)) for row in examples])
    return str(path)


def inputs(data: TaskData) -> list[tuple[str, str]]:
    return [(row.context, row.question) for row in data.examples()]


@pytest.mark.parametrize("change", [{}, {"max_train": 7}, {"dev_fraction": 0.5}])
def test_distil_is_the_training_split_in_the_words_of_a_teacher(
    own: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    plain = get({**own, **change})
    gold = plain.splits["train"].source.read()
    named = {**own, **change, "distil": by_a_teacher(tmp_path / "d.json", gold)}
    for seed in (0, 1):
        splits = get(named, data_seed=seed).splits
        train, distil = splits["train"], splits["distil"]
        assert (distil.rows, inputs(distil)) == (train.rows, inputs(train))
        assert all(row.answers == (f"teacher's {row.context}",) for row in distil.examples())
        assert {**splits} == {**get({**own, **change}, data_seed=seed).splits, "distil": distil}
        assert identity(distil) != identity(train)


def test_distil_may_hold_the_rows_trained_on_alone(own: dict[str, Any], tmp_path: Path) -> None:
    train = get({**own, "max_train": 7}).splits["train"]
    file = by_a_teacher(tmp_path / "d.json", train.examples())
    splits = get({**own, "max_train": 7, "distil": file}).splits
    assert inputs(splits["distil"]) == inputs(train)
    assert splits["distil"].rows == 7
    with pytest.raises(InputError, match=r"(?s)got: .*7 examples.*40, one for.*the 36 trained on"):
        get({**own, "distil": file})
    with pytest.raises(InputError, match="example 0: the teacher's answers do not belong to this"):
        get({**own, "max_train": 7, "distil": file}, data_seed=1)


def test_distil_keeps_dialogues_whole(tmp_path: Path) -> None:
    rows = [{"context": f"{n}", "question": "q", "answer": "a", "group": n // 3} for n in range(60)]
    path = str(lines(tmp_path / "a.jsonl", *rows))
    spec = {
        "name": "mine",
        "train": path,
        "test": path,
        "max_train": 20,
        "columns": {"group": "group"},
    }
    gold = get(spec).splits["train"].source.read()
    splits = get({**spec, "distil": by_a_teacher(tmp_path / "d.json", gold)}).splits
    assert inputs(splits["distil"]) == inputs(splits["train"])


def test_distil_is_refused_where_it_is_of_other_rows(own: dict[str, Any], tmp_path: Path) -> None:
    gold = get(own).splits["train"].source.read()
    other = [gold[1], gold[0], *gold[2:]]
    grouped = [replace(row, group="g") for row in gold]
    for rows, says in (
        (
            gold[:-1],
            r"(?s)d\.json: the teacher's answers do not belong to.*39 examples.*expected: 40",
        ),
        (other, r"(?s)d\.json: example 0: .*text 1.*text 0"),
        (grouped, r"(?s)d\.json: example 0: .*group"),
    ):
        with pytest.raises(InputError, match=says):
            get({**own, "distil": by_a_teacher(tmp_path / "d.json", rows)})
    with pytest.raises(InputError, match=r"nowhere\.json: cannot read the file"):
        get({**own, "distil": "nowhere.json"})


def test_distil_is_never_picked_up_from_a_folder(tmp_path: Path) -> None:
    rows = [Example(str(n), f"c{n}", "q", ("positive",)) for n in range(20)]
    for split in ("train", "test", "distil"):
        of_split = rows[:5] if split == "test" else rows
        write_squad(tmp_path / f"sst_to_squad-{split}-v2.0.json", of_split)
    assert get("sst", data_dir=tmp_path).splits.keys() == {"train", "dev", "test"}
    file = str(tmp_path / "sst_to_squad-distil-v2.0.json")
    named = get({"name": "sst", "distil": file}, data_dir=tmp_path)
    assert named.splits["distil"].rows == named.splits["train"].rows


# Named tasks ------------------------------------------------------------------------------------


def test_named_files_are_found_in_the_folder_of_all_sets_and_in_their_own(tmp_path: Path) -> None:
    labelled(tmp_path / "sst2" / "train.jsonl", 30)
    labelled(tmp_path / "sst2" / "test.jsonl", 5)
    task = get("sst", data_dir=tmp_path)
    assert (task.kind, task.metric) == ("classify", "em")
    assert task == get("sst", data_dir=tmp_path / "sst2")
    example = task.splits["test"].examples()[0]
    assert example.question == "Is this review negative or positive?"
    assert example.answers == ("negative",)
    # Another task's folder is not mistaken for one's own.
    with pytest.raises(InputError, match=r"(?s)data of ag cannot be found.*agnews/train\.jsonl"):
        get("ag", data_dir=tmp_path / "sst2")


def test_the_originals_files_go_first(tmp_path: Path) -> None:
    question = {"id": "1", "question": "squad?", "answers": [{"text": "positive"}]}
    paragraphs = [{"context": f"c{n}", "qas": [{**question, "id": str(n)}]} for n in range(20)]
    labelled(tmp_path / "sst2" / "train.jsonl", 30)
    labelled(tmp_path / "sst2" / "test.jsonl", 5)
    (tmp_path / "l2kd").mkdir()
    for split in ("train", "test"):
        path = tmp_path / "l2kd" / f"sst_to_squad-{split}-v2.0.json"
        of_split = paragraphs[:5] if split == "test" else paragraphs
        path.write_text(json.dumps({"data": [{"paragraphs": of_split}]}))
    task = get("sst", data_dir=tmp_path)
    assert {data.source.reader for data in task.splits.values()} == {"squad"}
    assert task == get("sst", data_dir=tmp_path / "l2kd")
    assert task.splits["test"].examples()[0].question == "squad?"


def test_a_named_task_keeps_its_metric_over_own_files(tmp_path: Path) -> None:
    row = {"context": "c", "answer": "; phone", "group": "d"}
    path = str(lines(tmp_path / "a.jsonl", row, {**row, "context": "d"}))
    task = get({"name": "woz.en", "train": path, "dev": path, "test": path, "max_test": 1})
    assert task.metric == "dsem"
    example = task.splits["test"].examples()[0]
    assert (example.question, example.group) == ("What is the change in state?", "d")


def test_missing_data_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        get("wikisql", data_dir=tmp_path)
    message = str(error.value)
    assert "study.yaml: data_dir: the data of wikisql cannot be found" in message
    assert str(tmp_path / "l2kd" / "wikisql_to_squad-train-v2.0.json") in message
    assert str(tmp_path / "wikisql" / "wikisql.json.bz2") in message
    with pytest.raises(InputError, match=r"data_dir: the data of wikisql are not on the hub"):
        get("wikisql")


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"did you mean rnnlg\.hotel\?"):
        get("rnnlg.hotle")
    with pytest.raises(InputError, match=r"did you mean gen\.rest\?"):
        get("gen.res")


def test_the_list_of_named_tasks() -> None:
    tasks = registered()
    paper = {"e2enlg", "rnnlg.rest", "rnnlg.hotel", "rnnlg.tv", "rnnlg.laptop", "woz.en", "wikisql"}
    assert paper < tasks.keys()
    assert {
        "cnn_dailymail",
        "sst",
        "srl",
        "ag",
        "amazon",
        "yelp",
        "dbpedia",
        "yahoo",
    } < tasks.keys()
    assert all(name == task.name and task.description for name, task in tasks.items())
    assert tasks["woz.en"].metric == "dsem"
    assert "woz/woz_train_en.json" in tasks["woz.en"].files
    in_words = {name for name, task in tasks.items() if task.extras == ("bleu", "slot_error")}
    assert in_words == {name for name in tasks if name.startswith(("e2e", "rnnlg."))} | {
        "gen.rest",
        "gen.hotel",
        "gen.tv",
    }
    beside = {"f1", "em", "spearman", "uas", "las_udeprel"}
    assert all(beside.issuperset(t.extras) for name, t in tasks.items() if name not in in_words)


def rnnlg(folder: Path, train: int = 40) -> Path:
    rows = [Example(str(n), f"inform(name=n{n})", "q", (f"n{n} .",)) for n in range(train)]
    write_squad(folder / "rnnlg.rest_to_squad-train-v2.0.json", rows)
    write_squad(folder / "rnnlg.rest_to_squad-test-v2.0.json", rows[-10:])
    return folder


def test_extras_are_beside_the_metric(tmp_path: Path) -> None:
    folder = rnnlg(tmp_path)
    assert get("rnnlg.rest", data_dir=folder).extras == ("bleu", "slot_error")
    task = get({"name": "rnnlg.rest", "metric": "bleu"}, data_dir=folder)
    assert (task.metric, task.extras) == ("bleu", ("rouge", "slot_error"))
    assert get("gen.rest").extras == ("bleu", "slot_error")
    assert get("gen.state").extras == ()


def test_a_metric_is_one_of_which_more_is_better() -> None:
    with pytest.raises(InputError, match="no such metric"):
        get({"name": "gen.rest", "metric": "slot_error"})


def test_what_was_seen_is_all_of_training_whatever_is_taken_of_it(tmp_path: Path) -> None:
    folder = rnnlg(tmp_path)
    task = get("rnnlg.rest", data_dir=folder)
    assert task.seen is not None
    assert len(task.seen.examples()) == 40 > task.splits["train"].rows
    capped = get("rnnlg.rest", data_dir=folder, data_seed=1, caps={"train": 3, "test": 2})
    assert identity(capped.seen) == identity(task.seen)  # type: ignore[arg-type]
    assert get("gen.rest").seen is None


def test_wikisql_without_tables_says_that_its_schema_is_partial(tmp_path: Path) -> None:
    sentence = {"original": "q", "table-id": "1", "variables": {}}
    query = "SELECT A_FIELD FROM TABLE AS TABLEalias0 ;"
    splits = ("train", "dev", "test")
    sentences = [{**sentence, "question-split": split} for split in splits]
    entry = {"sql": [query], "variables": [], "sentences": sentences}
    (tmp_path / "wikisql").mkdir()
    packed = bz2.compress(json.dumps([entry]).encode())
    (tmp_path / "wikisql" / "wikisql.json.bz2").write_bytes(packed)
    (note,) = get("wikisql", data_dir=tmp_path).notes
    assert note.startswith("partial schema")
    assert get("gen.rest").notes == ()


# The hub ----------------------------------------------------------------------------------------


@pytest.fixture
def a_hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """A hub of one dataset at commit cc..., its splits in the returned mapping."""
    rows = [{"sentence": f"s{n}", "label": n % 2} for n in range(30)]
    found = {"train": rows, "validation": rows[:4], "test": rows[:6]}
    monkeypatch.setattr(hub, "commit", lambda hub_id, revision: "c" * 40)
    monkeypatch.setattr(hub, "splits", lambda hub_id, config, revision: list(found))

    def read(options: Any) -> Any:
        return ((f"row {n}", row) for n, row in enumerate(found[options["split"]]))

    monkeypatch.setattr(hub, "rows", read)
    return found


HUB = {"name": "mine", "hub": "org/set", "columns": {"text": "sentence"}, "labels": ["no", "yes"]}


def test_a_hub_dataset_is_its_id_commit_and_splits(a_hub: Any) -> None:
    task = get(HUB)
    assert (task.kind, task.metric) == ("classify", "em")
    assert {split: data.rows for split, data in task.splits.items()} == {
        "train": 30,
        "dev": 4,
        "test": 6,
    }
    source = task.splits["dev"].source
    assert source.digest == "c" * 40
    assert dict(source.options) == {
        "column.text": "sentence",
        "commit": "c" * 40,
        "hub": "org/set",
        "label.0": "no",
        "label.1": "yes",
        "split": "validation",
    }
    assert task.splits["dev"].examples()[1].answers == ("yes",)
    assert identity(get({**HUB, "hub": "org/other"}).splits["dev"]) != identity(task.splits["dev"])


def test_a_hub_dataset_without_dev_is_carved_and_without_test_refused(a_hub: Any) -> None:
    del a_hub["validation"]
    task = get(HUB)
    assert (task.splits["train"].rows, task.splits["dev"].rows) == (27, 3)
    del a_hub["test"]
    with pytest.raises(InputError, match=r"(?s)no split test.*\['train'\]"):
        get(HUB)
    assert get({**HUB, "splits": {"test": "train"}, "max_test": 9}).splits["test"].rows == 9
    with pytest.raises(InputError, match="no split nope"):
        get({**HUB, "splits": {"test": "train", "dev": "nope"}})


def test_no_other_split_of_a_hub_dataset_is_taken_for_test(a_hub: Any) -> None:
    """Dev and test would be the same rows."""
    del a_hub["test"]
    with pytest.raises(InputError, match=r"(?s)no split test.*\['train', 'validation'\]"):
        get(HUB)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_hubs_split_that_a_study_names_for_another_is_not_dev(a_hub: Any, split: Any) -> None:
    task = get({**HUB, "splits": {split: "validation"}, "max_test": 3, "dev_fraction": 0.5})
    assert dict(task.splits[split].source.options)["split"] == "validation"
    assert task.splits["dev"].source == task.splits["train"].source
    assert task.splits["dev"].carve is not None


def test_named_tasks_come_from_the_hub_where_no_folder_is_given(a_hub: Any) -> None:
    for row in a_hub["train"]:
        row["text"] = row["sentence"]
    source = get("sst").splits["train"].source
    assert source.location == "SetFit/sst2"
    assert dict(source.options)["label.1"] == "positive"


def test_labels_of_the_registry_are_not_those_of_another_hub_dataset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`sst` counts from negative; this set counts from positive, and its ClassLabel says so."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["good", "bad"])}
    )
    rows = {"text": [f"t{n}" for n in range(20)], "label": [0, 1] * 10}
    table = datasets.Dataset.from_dict(rows, features)
    monkeypatch.setattr(hub, "commit", lambda hub_id, revision: "c" * 40)
    monkeypatch.setattr(hub, "splits", lambda hub_id, config, revision: ["train", "test"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: table)
    spec = {"name": "sst", "hub": "org/mine", "max_test": 9}
    task = get(spec)
    assert [row.answers for row in task.splits["test"].source.read()[:2]] == [("good",), ("bad",)]
    named = get({**spec, "labels": ["x", "y"]}).splits["test"].source.read()
    assert [row.answers for row in named[:2]] == [("x",), ("y",)]


# ------------------------------------------------------------------------------------------------


def test_importing_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys, l2kd_ray.tasks\n"
        "heavy = {'torch', 'ray', 'pandas', 'datasets', 'huggingface_hub', 'sacrebleu'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
