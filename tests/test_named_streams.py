"""Streams by name: their files, their orders, and what is said where files are missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.reading import read

from l2kd_ray.errors import InputError
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.tasks import Task, resolve
from l2kd_ray.tasks.metrics import METRICS
from l2kd_ray.tasks.readers import superni
from l2kd_ray.tasks.registry import by_split
from l2kd_ray.tasks.spec import TaskSpec
from l2kd_ray.tasks.streams import STREAMS, stream
from l2kd_ray.testing.studies import tiny


def stand_in(name: str, folder: Path) -> None:
    """Files of the upstream's shape, with rows of a few words."""
    known = stream(name)
    for task in known.tasks:
        how = {**known.task, **task}
        for split, path in by_split(task["files"]).items():
            rows = [(f"{split} text {n} of {task['name']}", "ab"[n % 2]) for n in range(6)]
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if how["format"] == "superni":
                instances = [
                    {"id": f"{n}", "input": text, "output": [label]}
                    for n, (text, label) in enumerate(rows)
                ]
                content: Any = {"Definition": ["Say a or b."], "Instances": instances}
            else:
                columns = how["columns"]
                first, second = (columns[role] for role in columns)
                content = [{first: text, second: label} for text, label in rows]
            file.write_text(json.dumps(content), "utf-8")


def study(name: str, folder: Path, **changes: Any) -> Any:
    changes = {"data_dir": str(folder), **changes}
    data = tiny(stream=name, tasks=None, methods=["finetune"], **changes)
    return resolve_study(parse_study(data, where="my.yaml", base=folder), folder / "my.yaml")


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_from_files_of_upstreams_shape(name: str, tmp_path: Path) -> None:
    stand_in(name, tmp_path)
    known, made = stream(name), study(name, tmp_path)
    assert made.tasks == [task["name"] for task in known.tasks]
    assert made.orders == list(known.orders)
    for task in known.tasks:
        metric = {**known.task, **task}["metric"]
        assert metric in METRICS
        assert made.resolved.tasks[task["name"]].metric == metric
        assert sorted(made.resolved.tasks[task["name"]].splits) == ["dev", "test", "train"]


@pytest.mark.parametrize("name", STREAMS)
def test_dev_is_carved_where_upstreams_is_its_test_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O-LoRA's and SAPT's dev files are their test files; settings are not chosen on test."""
    monkeypatch.chdir("/")
    stand_in(name, tmp_path)
    for task in stream(name).tasks:
        files = by_split(task["files"])
        shutil.copy(tmp_path / files["test"], tmp_path / files["dev"])
    for data in (str(tmp_path), "."):  # relative paths begin at the study
        for task in study(name, tmp_path, data_dir=data).resolved.tasks.values():
            assert task.splits["dev"].carve is not None
            assert task.splits["test"].carve is None
            dev, test = (
                {row.context for row in task.splits[split].examples()} for split in ("dev", "test")
            )
            assert dev
            assert not dev & test


@pytest.mark.parametrize("name", STREAMS)
def test_published_orders_are_different_orders_of_all_tasks(name: str) -> None:
    known = stream(name)
    names = sorted(task["name"] for task in known.tasks)
    assert all(sorted(order) == names for order in known.orders)
    assert len({*known.orders}) == len(known.orders)


def test_all_24_orders_where_the_paper_ran_three(tmp_path: Path) -> None:
    stand_in("standard-cl", tmp_path)
    assert len(study("standard-cl", tmp_path).orders) == 3
    every = study("standard-cl", tmp_path, orders="all").orders
    assert len(every) == 24
    assert {*stream("standard-cl").orders} <= {*every}


def test_missing_files_are_named_with_where_they_come_from(tmp_path: Path) -> None:
    stand_in("trace", tmp_path)
    (tmp_path / "FOMC" / "test.json").unlink()
    (tmp_path / "Py150" / "eval.json").unlink()  # without dev, it is carved
    with pytest.raises(InputError) as refused:
        study("trace", tmp_path)
    said = str(refused.value)
    assert said.startswith("my.yaml: stream: 1 files of the stream are missing")
    assert "FOMC/test.json" in said
    assert "BeyonderXX/TRACE" in said


def test_a_stream_that_does_not_exist_or_has_tasks_beside_it(tmp_path: Path) -> None:
    for change, match in (
        ({"stream": "long-16", "tasks": None}, "long-15"),
        ({"stream": "trace"}, "own tasks"),
    ):
        with pytest.raises(InputError, match=match):
            parse_study(tiny(**change))


def test_an_instance_may_have_several_references(tmp_path: Path) -> None:
    file = tmp_path / "task.json"
    rows = [{"id": "x", "input": "in", "output": ["a", "b"]}, {"input": "two", "output": "c"}]
    file.write_text(json.dumps({"Definition": ["Do", "it."], "Instances": rows}))
    first, second = read(superni.read, str(file), {})
    assert (first.id, first.context, first.question, first.answers) == (
        "x",
        "in",
        "Do it.",
        ("a", "b"),
    )
    assert (second.id, second.answers) == ("1", ("c",))
    for content in ([], {"Instances": [{"input": "a"}]}, {"Instances": [3]}):
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match="SuperNI"):
            list(superni.read(str(file), {}))


def test_a_task_of_superni_takes_a_question_and_leaves_out_what_has_no_answer(
    tmp_path: Path,
) -> None:
    outputs: list[Any] = [["", "x"], "", [" "], ["y", "z", "\t"], [], "x"]
    rows = [{"input": f"i{n}", "output": output} for n, output in enumerate(outputs)]
    file = tmp_path / "task.json"
    file.write_text(json.dumps({"Definition": ["Do it."], "Instances": rows}))
    files = dict.fromkeys(("train", "dev", "test"), str(file))
    spec = {"name": "mine", "format": "superni", "max_test": 1, **files}

    def task(**more: Any) -> Task:
        whole = TaskSpec.model_validate({**spec, **more})
        return resolve(whole, data_dir=None, data_seed=0, caps={}, where="study.yaml")

    with pytest.raises(InputError, match=r"Instances\[1\]: there is no answer(?s:.*)leave out"):
        task()
    left = task(unanswered="leave out")
    examples = left.splits["train"].examples()
    assert [row.answers for row in examples] == [("x",), ("y", "z"), ("x",)]
    assert {row.question for row in examples} == {"Do it."}
    counts = left.summaries["train"].rows
    assert {what: tally.count for what, tally in counts.left_out.items()} == {"no answer": 3}
    assert {what: tally.count for what, tally in counts.converted.items()} == {"empty reference": 2}
    for question in ("What?", ""):
        asked = task(unanswered="leave out", question=question).splits["train"].examples()
        assert {row.question for row in asked} == {question}
