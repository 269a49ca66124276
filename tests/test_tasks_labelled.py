"""Labelled tasks: kinds, GLUE, what classifiers read, and the scores of a whole split."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2kd_ray.errors import InputError
from l2kd_ray.tasks import Example, Task, judge, labels, registered, resolve, score, texts
from l2kd_ray.tasks.readers import hub
from l2kd_ray.tasks.spec import Metric, TaskSpec

YES_NO = st.lists(st.tuples(*[st.sampled_from(["yes", "no"])] * 2), min_size=1, max_size=12)
CLASSES = st.lists(st.tuples(*[st.sampled_from(["a", "b", "c"])] * 2), min_size=1, max_size=12)
NUMBERS = st.lists(st.tuples(*[st.integers(-20, 20)] * 2), min_size=3, max_size=12)


def get(spec: Any, data_dir: Path | None = None) -> Task:
    task = TaskSpec.model_validate(spec)
    return resolve(task, data_dir=data_dir, data_seed=0, caps={}, where="test")


def aggregate(metric: Metric, pairs: list[tuple[Any, Any]]) -> float:
    """Over (predicted, given)."""
    examples = [Example(str(n), "c", "q", (str(given),)) for n, (_, given) in enumerate(pairs)]
    return score(metric, [str(predicted) for predicted, _ in pairs], examples)[0]


# --- scores


@given(YES_NO)
def test_f1_is_that_of_the_label_that_asserts(pairs: list[tuple[str, str]]) -> None:
    hits = pairs.count(("yes", "yes"))
    precision = hits / max(1, sum(one == "yes" for one, _ in pairs))
    recall = hits / max(1, sum(other == "yes" for _, other in pairs))
    wanted = 200 * precision * recall / (precision + recall) if hits else 0
    assert aggregate("f1", pairs) == pytest.approx(wanted)


def test_f1_knows_denials_and_counts_what_is_no_label_as_one() -> None:
    gold = ["equivalent", "not equivalent", "equivalent"]
    said = ["Equivalent", "whatever", "not equivalent"]
    assert aggregate("f1", list(zip(said, gold, strict=True))) == pytest.approx(100 * 2 / 3)


def test_f1_is_that_of_the_class_that_the_study_names() -> None:
    f1_score = pytest.importorskip("sklearn.metrics").f1_score
    gold, said = ["spam", "ham", "spam", "egg"], ["Spam", "spam", "ham", "egg"]
    for label in ("spam", "ham", "egg"):
        wanted = 100 * f1_score([g == label for g in gold], [s.lower() == label for s in said])
        pairs = list(zip(said, gold, strict=True))
        assert aggregate(f"f1({label})", pairs) == pytest.approx(wanted)
    assert aggregate("f1(a (b))", [("a (b)", "a (b)")]) == 100


@pytest.mark.parametrize(
    ("metric", "labels", "problem"),
    [
        ("f1", ["spam", "ham"], "do not tell which is the positive class"),
        ("f1", ["no", "yes", "maybe"], "do not tell which is the positive class"),
        ("f1", ["no", "false"], "do not tell which is the positive class"),
        ("f1", ["no"], "no example of this split has the positive class"),
        ("f1(egg)", ["spam", "ham"], "no example of this split has the positive class"),
        ("mcc", ["spam"], "all examples of this split have one answer"),
        ("pearson", ["1.5"], "all examples of this split have one answer"),
        ("pearson", ["spam", "ham"], "can compare with no reference"),
    ],
)
def test_a_split_whose_labels_leave_a_score_undefined_is_refused(
    metric: str, labels: list[str], problem: str, tmp_path: Path
) -> None:
    rows = [{"text": f"t{n}", "label": labels[n % len(labels)]} for n in range(20)]
    files = {**write(tmp_path, rows), "kind": "classify"}
    with pytest.raises(InputError, match=problem) as refused:
        get({**files, "metric": metric})
    assert "tasks.mine." in str(refused.value)
    assert get({**files, "metric": "em"}).metric == "em"


@given(CLASSES)
def test_mcc_is_the_correlation_of_indicators(pairs: list[tuple[str, str]]) -> None:
    """R_K from its definition by covariances (Gorodkin 2004)."""
    x, y = (np.array([[row[n] == k for k in "abc"] for row in pairs], float) for n in (0, 1))
    x, y = x - x.mean(0), y - y.mean(0)
    spread = math.sqrt((x * x).sum() * (y * y).sum())
    wanted = 100 * (x * y).sum() / spread if spread > 1e-9 else 0.0
    assert aggregate("mcc", pairs) == pytest.approx(wanted, abs=1e-9)


@given(NUMBERS)
def test_correlations_are_those_of_numpy(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, float).T

    def ranks(values: Any) -> Any:
        return [(values < v).sum() + (values == v).sum() / 2 for v in values]

    defined = len(set(x)) > 1 and len(set(y)) > 1
    for metric, transform in (("pearson", np.asarray), ("spearman", ranks)):
        wanted = 100 * np.corrcoef(transform(x), transform(y))[0, 1] if defined else 0.0
        assert aggregate(metric, pairs) == pytest.approx(wanted, abs=1e-6)  # type: ignore[arg-type]


def test_the_score_of_one_number_is_its_closeness() -> None:
    examples = [Example(str(n), "c", "q", (given,)) for n, given in enumerate(("0", "5", "2.5"))]
    each = judge("pearson", ["0.5", "0", "no number"], examples).each
    assert each == pytest.approx([90, 0, 0])


# --- what a classifier reads


def test_texts_and_labels_of_examples() -> None:
    example = Example("1", "first", "second", ("b",))
    assert texts(example, "pair") == texts(example, "regress") == ("first", "second")
    assert texts(example, "classify") == ("first",)
    assert texts(Example("1", "first", "", ("1",)), "regress") == ("first",)
    assert labels([example, Example("2", "x", "y", ("a",)), example]) == ("a", "b")


def write(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    for split in ("train", "test"):
        lines = [*map(json.dumps, rows), *[""] * (split == "test")]  # not the same file
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return {"name": "mine", **{split: folder / f"{split}.jsonl" for split in ("train", "test")}}


def test_a_regression_reads_numbers_and_needs_no_question(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n / 2} for n in range(20)]
    task = get({**write(tmp_path, rows), "kind": "regress"})
    examples = task.splits["test"].examples()
    assert (task.metric, examples[3].answers) == ("pearson", ("1.5",))
    assert texts(examples[0], task.kind) == ("t0",)


def test_pairs_read_a_column_for_the_second_text(tmp_path: Path) -> None:
    rows = [{"a": f"a{n}", "b": f"b{n}", "label": n % 2} for n in range(20)]
    spec = {**write(tmp_path, rows), "kind": "pair", "labels": ["no", "yes"]}
    task = get({**spec, "columns": {"context": "a", "question": "b"}})
    assert task.metric == "em"
    assert texts(task.splits["test"].examples()[3], task.kind) == ("a3", "b3")
    with pytest.raises(InputError, match=r"same second text in every row(?s:.*)question: \.\.\."):
        get({**spec, "columns": {"context": "a"}})


def test_an_answer_that_is_no_number_is_refused(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "high"} for n in range(20)]
    with pytest.raises(InputError, match=r"(?s)answer of example 0 is not a number.*'high'"):
        get({**write(tmp_path, rows), "kind": "regress"})
    for odd, says in ((math.nan, "there is no answer"), (math.inf, "nor a finite number")):
        with pytest.raises(InputError, match=says):
            get({**write(tmp_path, [{"text": "t", "label": odd}] * 20), "kind": "regress"})


# --- GLUE

# A row of each task in the columns of the hub.
ROWS: dict[str, dict[str, Any]] = {
    "cola": {"sentence": "They drank the pub.", "label": 0},
    "sst2": {"sentence": "hide new secretions", "label": 1},
    "mrpc": {"sentence1": "Amrozi accused.", "sentence2": "Referring to him.", "label": 1},
    "qqp": {"question1": "How is life?", "question2": "Which level?", "label": 0},
    "stsb": {"sentence1": "A plane.", "sentence2": "An air plane.", "label": 3.799999952316284},
    "mnli": {"premise": "Conceptually.", "hypothesis": "Product.", "label": 2},
    "mnli-mm": {"premise": "Conceptually.", "hypothesis": "Product.", "label": 2},
    "qnli": {"question": "When did it end?", "sentence": "It ended in 1815.", "label": 1},
    "rte": {"sentence1": "No weapons.", "sentence2": "Weapons found.", "label": 0},
}
ANSWERS = {
    "cola": "unacceptable", "sst2": "positive", "mrpc": "equivalent", "qqp": "not duplicate",
    "stsb": "3.8", "mnli": "contradiction", "mnli-mm": "contradiction",
    "qnli": "not entailment", "rte": "entailment",
}  # fmt: skip


def rows_of(name: str, number: int) -> list[dict[str, Any]]:
    """The row so many times, its texts numbered; the first one has another label."""
    return [
        {key: f"{value} {n}" if isinstance(value, str) else value for key, value in row.items()}
        for n in range(number)
        for row in [
            {**ROWS[name], "idx": n, **({} if n else {"label": int(ROWS[name]["label"] == 0)})}
        ]
    ]


def right(name: str, task: Task) -> None:
    sizes = {split: data.rows for split, data in task.splits.items()}
    assert sizes == {"train": 27, "dev": 3, "test": 5}
    example = task.splits["test"].examples()[4]
    row = ROWS[name]
    given = tuple(f"{value} 4" for value in row.values() if isinstance(value, str))
    assert (example.id, texts(example, task.kind)) == ("4", given)
    assert example.answers == (ANSWERS[name],)


@pytest.mark.parametrize("name", ROWS)
def test_glue_from_the_hub_keeps_its_hidden_labels_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"mnli": "validation_matched", "mnli-mm": "validation_mismatched"}.get(
        name, "validation"
    )
    found = {"train": 30, held: 5, held.replace("validation", "test"): 9}
    asked: list[tuple[str, str]] = []

    def read(options: Any) -> Any:
        asked.append((options["hub"], options["config"]))
        return ((f"row {n}", row) for n, row in enumerate(rows_of(name, found[options["split"]])))

    monkeypatch.setattr(hub, "commit", lambda hub_id, revision: "c" * 40)
    monkeypatch.setattr(hub, "splits", lambda hub_id, config, revision: list(found))
    monkeypatch.setattr(hub, "rows", read)
    right(name, get(f"glue.{name}"))
    assert set(asked) == {("nyu-mll/glue", name.removesuffix("-mm"))}


@pytest.mark.parametrize("name", ROWS)
def test_glue_from_a_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "glue" / name.removesuffix("-mm")
    folder.mkdir(parents=True)
    test = "test_mismatched" if name == "mnli-mm" else "test"
    for split, number in (("train", 30), (test, 5)):
        lines = map(json.dumps, rows_of(name, number))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    right(name, get(f"glue.{name}", tmp_path))


def test_the_tasks_of_glue() -> None:
    tasks = registered()
    assert {name for name in tasks if name.startswith("glue.")} == {f"glue.{name}" for name in ROWS}
    kinds = {name: tasks[f"glue.{name}"].kind for name in ROWS}
    assert {name for name, kind in kinds.items() if kind == "classify"} == {"cola", "sst2"}
    assert [name for name, kind in kinds.items() if kind == "regress"] == ["stsb"]
    scores = {name: (tasks[f"glue.{name}"].metric, tasks[f"glue.{name}"].extras) for name in ROWS}
    assert scores["cola"] == ("mcc", ("em",))
    assert scores["mrpc"] == scores["qqp"] == ("em", ("f1",))
    assert scores["stsb"] == ("pearson", ("spearman",))
