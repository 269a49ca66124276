"""Labelled sentences: what the readers read and refuse, tag schemes, and the made-up tasks."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from helpers.reading import read

from l2kd_ray.errors import InputError
from l2kd_ray.tasks import Example, Task, family, resolve
from l2kd_ray.tasks.readers import conll
from l2kd_ray.tasks.sentences import SENTENCE_SIZES, TRANSITIONS
from l2kd_ray.tasks.spec import Split, TaskSpec
from l2kd_ray.tasks.tagging import Scheme, spans, tags, words

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
SCHEMES: tuple[Scheme, ...] = ("bioes", "iob2")


def write(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def pairs(examples: list[Example]) -> list[tuple[str, str]]:
    return [(example.context, example.answers[0]) for example in examples]


# Schemes ----------------------------------------------------------------------------------------


def test_tags_and_sets_of_spans_are_the_same_thing() -> None:
    """Every set of non-overlapping spans of two types over at most four words, spelled and read."""
    for n in range(1, 5):
        alternatives = ["O", *(f"{part}-{kind}" for part in "BIES" for kind in "xy")]
        read = {tuple(spans(row)) for row in product(alternatives, repeat=n)}
        for scheme in SCHEMES:
            spelled = {tuple(tags(found, n, scheme)) for found in read}
            assert len(spelled) == len(read)
            assert {tuple(spans(row)) for row in spelled} == read


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("I-x I-x O I-y", [(0, 1, "x"), (3, 3, "y")]),  # IOB1
        ("I-x B-x I-x I-y", [(0, 0, "x"), (1, 2, "x"), (3, 3, "y")]),
        ("B-x I-x B-x O", [(0, 1, "x"), (2, 2, "x")]),  # IOB2
        ("B-x I-x E-x S-x S-x", [(0, 2, "x"), (3, 3, "x"), (4, 4, "x")]),  # BIOES
        ("E-x E-x I-x S-x I-x", [(0, 0, "x"), (1, 1, "x"), (2, 2, "x"), (3, 3, "x"), (4, 4, "x")]),
        ("B-a-b I-a-b B- no I-a", [(0, 1, "a-b"), (4, 4, "a")]),
    ],
)
def test_spans_are_read_as_conlleval_reads_them(given: str, found: list[Any]) -> None:
    assert spans(words(given)) == found


# Readers ----------------------------------------------------------------------------------------

COLUMNS = """-DOCSTART- -X- -X- O

U.N. NNP I-NP I-ORG
official NN I-NP O
Ekeus NNP I-NP I-PER

Baghdad NNP I-NP I-LOC
New NNP I-NP B-LOC
York NNP I-NP I-LOC
"""


def test_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", COLUMNS)
    assert pairs(read(conll.read_conll, path, {})) == [
        ("U.N. official Ekeus", "S-ORG O S-PER"),
        ("Baghdad New York", "S-LOC B-LOC E-LOC"),
    ]
    found = read(conll.read_conll, path, {"scheme": "iob2", "question": "who?"})
    assert found[1] == Example("1", "Baghdad New York", "who?", ("B-LOC B-LOC I-LOC",))
    chunks = read(conll.read_conll, path, {"column.text": "1", "column.label": "2"})
    assert pairs(chunks)[0] == ("NNP NN NNP", "B-NP I-NP E-NP")


def test_a_space_inside_a_word_separates_no_words(tmp_path: Path) -> None:
    (example,) = read(conll.read_conll, write(tmp_path / "a.conll", "a b\tB-x\r\nc\tO\r\n"), {})
    assert words(example.context) == ["a\u00a0b", "c"]
    assert example.answers == ("S-x O",)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a O\nb\n", {}, r"a\.conll:2: the rows have different numbers of cells"),
        ("a\nb\n", {}, r"a\.conll:1: the row has too few columns"),
        ("a O\nb X-y\n", {}, r"a\.conll:2: not a tag"),
        ("a O\n\tO\n", {}, r"a\.conll:2: the word is empty"),
        ("a O\n", {"column.label": "2"}, "too few columns"),
        (
            "a O\n",
            {"column.label": "ner"},
            r"columns\.label: the columns of a CoNLL file are given by number",
        ),
    ],
)
def test_columns_refused(tmp_path: Path, content: str, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(conll.read_conll, write(tmp_path / "a.conll", content), options)


def row(number: str, form: str, head: str, relation: str) -> str:
    return "\t".join([number, form, "_", "_", "_", "_", head, relation, "_", "_"])


def test_conllu_skips_what_is_no_word(tmp_path: Path) -> None:
    rows = [
        "# text = don't go",
        row("1-2", "don't", "_", "_"),
        row("1", "do", "3", "aux"),
        row("2", "n't", "3", "advmod:neg"),
        row("2.1", "now", "_", "_"),
        row("3", "go on", "0", "root"),
    ]
    (example,) = read(conll.read_conllu, write(tmp_path / "a.conllu", "\n".join(rows) + "\n\n"), {})
    assert words(example.context) == ["do", "n't", "go\u00a0on"]
    assert example.answers == ("3:aux 3:advmod:neg 0:root",)
    assert example.question == ""


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("1", "a", "2", "det")], r"a\.conllu:1: the word has no valid head"),
        ([row("1", "a", "_", "_")], "no valid head"),
        ([row("1", "a", "0", "root"), row("3", "b", "1", "obj")], "ID 2"),
        (["1\ta\t0"], "10 cells"),
    ],
)
def test_conllu_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(conll.read_conllu, write(tmp_path / "a.conllu", "\n".join(rows)), {})


def test_unlabelled_text(tmp_path: Path) -> None:
    examples = read(conll.read_text_lines, write(tmp_path / "a.txt", "a  b c\n\n d\n"), {})
    assert pairs(examples) == [("a b c", ""), ("d", "")]


def test_a_users_own_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", COLUMNS)
    spec: dict[str, Any] = {"name": "mine", "train": path, "dev": path, "test": path, "max_test": 1}
    task = resolve(TaskSpec(**spec), data_dir=None, data_seed=0, caps={}, where="test")
    assert (task.kind, task.metric, task.splits["dev"].rows) == ("tag", "span_f1", 2)
    spec |= {"scheme": "iob2", "columns": {"label": "2"}}
    task = resolve(TaskSpec(**spec), data_dir=None, data_seed=0, caps={}, where="test")
    assert task.splits["train"].examples()[0].answers == ("B-NP I-NP I-NP",)


@pytest.mark.parametrize(
    ("file", "spec", "key", "roles"),
    [
        ("a.conll", {"columns": {"context": "0"}}, "columns.context", "text, label"),
        ("a.conll", {"columns": {"text": "1", "answer": "2"}}, "columns.answer", "text, label"),
        ("a.conll", {"columns": {"group": "0"}}, "columns.group", "text, label"),
        ("a.conll", {"labels": ["O", "B-x"]}, "labels", "text, label"),
        ("a.conllu", {"columns": {"text": "2"}}, "columns.text", "none"),
        ("a.conllu", {"labels": ["root"]}, "labels", "none"),
        ("a.txt", {"columns": {"label": "1"}, "format": "text"}, "columns.label", "none"),
        ("a.txt", {"labels": ["x"], "format": "text"}, "labels", "none"),
    ],
)
def test_columns_and_labels_that_are_not_read_are_refused(
    tmp_path: Path, file: str, spec: dict[str, Any], key: str, roles: str
) -> None:
    content = row("1", "a", "0", "root") if file == "a.conllu" else COLUMNS
    path = write(tmp_path / file, content)
    files = {"train": path, "dev": path, "test": path, "max_test": 1}
    task = TaskSpec(name="mine", **files, **spec)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"mine\.{key}: (?s:.*)roles: {roles}"):
        resolve(task, data_dir=None, data_seed=0, caps={}, where="test")


# The made-up tasks ------------------------------------------------------------------------------


def make(name: str, data_seed: int = 0) -> Task:
    return resolve(TaskSpec(name=name), data_dir=None, data_seed=data_seed, caps={}, where="test")


def every(task: Task) -> list[Example]:
    return [example for split in SPLITS for example in task.splits[split].examples()]


@pytest.mark.parametrize("name", ["made.tags.a", "made.tags.b", "made.trees.a", "made.trees.b"])
def test_made_splits_are_sized_disjoint_and_seeded(name: str) -> None:
    task = make(name)
    assert {split: task.splits[split].rows for split in SPLITS} == SENTENCE_SIZES
    examples = every(task)
    assert len({example.context for example in examples}) == len(examples)
    assert examples == every(make(name))
    assert examples != every(make(name, data_seed=1))
    assert all(len(words(e.context)) == len(words(e.answers[0])) for e in examples)
    assert family(name) == ()  # no causal LM's tokenizer depends on them


@pytest.mark.parametrize("domain", "ab")
def test_made_tags_are_legal_and_follow_the_chain(domain: str) -> None:
    tagged = [words(example.answers[0]) for example in every(make(f"made.tags.{domain}"))]
    assert all(tags(spans(row), len(row), "bioes") == row for row in tagged)
    steps = [step for row in tagged for step in pairwise(row)]
    assert {after for before, after in steps if before == "B-place"} == {"I-place", "E-place"}
    for tag in ("E-person", "S-place"):
        nexts = [after for before, after in steps if before == tag]
        for after, probability in TRANSITIONS[tag].items():
            assert nexts.count(after) / len(nexts) == pytest.approx(probability, abs=0.06)


@pytest.mark.parametrize("domain", "ab")
def test_made_trees_are_projective_trees(domain: str) -> None:
    for example in every(make(f"made.trees.{domain}")):
        heads = [int(label.partition(":")[0]) for label in words(example.answers[0])]
        assert heads.count(0) == 1
        arcs = [tuple(sorted((word, head))) for word, head in enumerate(heads, start=1)]
        assert not any(a < c < b < d for a, b in arcs for c, d in arcs)
        for word in range(1, len(heads) + 1):
            for _ in heads:
                word = heads[word - 1] if word else 0
            assert word == 0, "a cycle"


def test_domains_give_words_other_meanings() -> None:
    usual: list[dict[str, str]] = []
    for domain in "ab":
        seen: dict[str, list[str]] = {}
        for example in every(make(f"made.tags.{domain}")):
            for word, tag in zip(words(example.context), words(example.answers[0]), strict=True):
                seen.setdefault(word, []).append(tag)
        assert sum(len(set(found)) > 1 for found in seen.values()) > 0.9 * len(seen)
        usual.append({word: max(set(found), key=found.count) for word, found in seen.items()})
    shared = usual[0].keys() & usual[1].keys()
    assert len(shared) > 30
    assert sum(usual[0][word] != usual[1][word] for word in shared) > len(shared) / 2
