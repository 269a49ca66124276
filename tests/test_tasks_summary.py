"""What is counted of a task's data, against counts by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2kd_ray.report.blocks import Table
from l2kd_ray.report.data_section import data_notes, data_section, data_table, rows_line
from l2kd_ray.study.data import SplitData
from l2kd_ray.tasks import Task, resolve
from l2kd_ray.tasks.examples import RowCounts, Tally
from l2kd_ray.tasks.spec import TaskSpec
from l2kd_ray.tasks.summary import SplitSummary


def rows(path: Path, pairs: list[tuple[str, str]], answer: str = "label") -> Path:
    lines = (json.dumps({"text": text, answer: label}) + "\n" for text, label in pairs)
    path.write_text("".join(lines))
    return path


def task(folder: Path, train: list[tuple[str, str]], test: list[tuple[str, str]]) -> Task:
    files = {"train": rows(folder / "train.jsonl", train), "test": rows(folder / "t.jsonl", test)}
    spec = TaskSpec.model_validate({"name": "mine", "dev_fraction": 0.25, **files})
    return resolve(spec, data_dir=None, data_seed=1, caps={"train": 20}, where="study")


def test_rows_labels_and_overlap_are_counted(tmp_path: Path) -> None:
    train = [(f"text {n}", "good" if n % 4 else "bad") for n in range(40)]
    test = [("new 1", "good"), ("new 1", "good"), ("new 2", "bad"), ("new 3", "fair")]
    mine = task(tmp_path, train, test)
    learnt = {(e.context, e.answers[0]) for e in mine.splits["train"].examples()}
    known = sorted(learnt)[0]
    rows(tmp_path / "t.jsonl", [*test, known])
    summaries = task(tmp_path, train, [*test, known]).summaries
    assert (summaries["train"].rows.rows, summaries["train"].kept) == (40, 20)
    assert (summaries["train"].in_train, summaries["train"].unseen_labels) == (0, ())
    assert (summaries["dev"].rows.rows, summaries["dev"].kept) == (40, 10)
    found = summaries["test"]
    assert found.kept == found.rows.rows == 5
    labels = [label for _, label in [*test, known]]
    assert found.labels == {label: labels.count(label) for label in set(labels)}
    assert (found.unseen, found.unseen_labels) == (1, ("fair",))
    assert (found.repeated, found.in_train) == (1, 1)
    assert found.majority == pytest.approx(100 * max(found.labels.values()) / 5)


def test_free_text_has_no_labels(tmp_path: Path) -> None:
    train = rows(tmp_path / "a.jsonl", [(f"text {n}", f"answer {n}") for n in range(20)], "answer")
    spec = TaskSpec.model_validate(
        {"name": "mine", "train": train, "test": train, "dev": train, "question": "what ?"}
    )
    found = resolve(spec, data_dir=None, data_seed=1, caps={"test": 5}, where="study").summaries
    assert found["test"] == SplitSummary(RowCounts(20), kept=5, in_train=5)


@pytest.mark.parametrize(
    ("summary", "cut", "words"),
    [
        (SplitSummary(RowCounts(9), 9), None, []),
        (SplitSummary(RowCounts(9), 9), {"contexts": 0, "answers": 0}, []),
        (
            SplitSummary(RowCounts(9), 9),
            {"contexts": 2, "context_tokens": 30},
            ["2 of 9", "30 tokens"],
        ),
        (SplitSummary(RowCounts(9), 9), {"answers": 1, "answer_tokens": 4}, ["1 of 9", "4 tokens"]),
        (SplitSummary(RowCounts(9), 9), {"left_out": 3}, ["3 are left out"]),
        (SplitSummary(RowCounts(9), 9, in_train=1), {}, ["1 of 9"]),
        (
            SplitSummary(RowCounts(9, {"no answer": Tally(2, "a.csv:3")}), 9),
            {},
            ["2 rows left out: no answer", "a.csv:3"],
        ),
        (SplitSummary(RowCounts(9), 9, {"x": 9}), {}, ["one label (x)"]),
        (SplitSummary(RowCounts(9), 9, unscorable=4), {}, ["4 of 9", "no reference"]),
        (SplitSummary(RowCounts(9), 9, {"x": 6, "y": 3}, ("y",)), {}, ["3 of 9", "(y)"]),
    ],
)
def test_what_weakens_a_study_is_said_with_its_numbers(
    summary: SplitSummary, cut: dict[str, int] | None, words: list[str]
) -> None:
    notes = data_notes([SplitData("mine", "test", summary, cut)])
    assert len(notes) == bool(words)
    assert all(word in notes[0] for word in words)


def test_the_table_has_what_was_counted_and_the_line_what_is_kept() -> None:
    data = [
        SplitData("a", "train", SplitSummary(RowCounts(1200), 1000), None),
        SplitData("a", "dev", SplitSummary(RowCounts(90), 90), None),
        SplitData(
            "a", "test", SplitSummary(RowCounts(90), 80), {"contexts": 2, "context_tokens": 7}
        ),
    ]
    frame = data_table(data).frame
    assert list(frame) == ["Task", "Split", "Read", "Kept", "Cut", "Tokens lost"]
    assert frame["Cut"].isna().tolist() == [True, True, False]
    assert rows_line(data) == "a 1,000 / 90 / 80"


def test_references_that_the_metric_cannot_compare_are_counted(tmp_path: Path) -> None:
    answers = ["yes, it is", "!!", "no", "\U0001f600"]
    pairs = [(f"text {n}", answer) for n, answer in enumerate(answers * 5)]
    train, test = rows(tmp_path / "a.jsonl", pairs[:12], "answer"), tmp_path / "b.jsonl"
    spec = {"name": "mine", "train": train, "test": rows(test, pairs[12:], "answer")}
    task = resolve(
        TaskSpec.model_validate({**spec, "question": "what ?", "metric": "rouge"}),
        data_dir=None, data_seed=1, caps={}, where="study",
    )  # fmt: skip
    assert task.summaries["test"].unscorable == 4


def test_what_was_left_out_and_converted_is_listed_with_its_place() -> None:
    counts = RowCounts(5, {"no answer": Tally(2, "a.csv:3")}, {"empty id": Tally(1, "a.csv:7")})
    (section,) = data_section([SplitData("a", "train", SplitSummary(counts, 5), None)])
    (changes,) = (b for b in section.blocks if isinstance(b, Table) and b.name == "data_changes")
    assert changes.frame.to_numpy().tolist() == [
        ["a", "train", "left out", "no answer", 2, "a.csv:3"],
        ["a", "train", "converted", "empty id", 1, "a.csv:7"],
    ]
