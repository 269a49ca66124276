"""Readers: what they read, and that each refusal names the place and the way out."""

from __future__ import annotations

import bz2
import csv
import hashlib
import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers.reading import read
from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.errors import InputError
from l2kd_ray.tasks import write_squad
from l2kd_ray.tasks.data import collect
from l2kd_ray.tasks.examples import Example, Tally
from l2kd_ray.tasks.readers import READERS, hub, nlg, squad, tables, wikisql, woz
from l2kd_ray.tasks.readers.files import digest

texts = st.text(max_size=40)
answers = texts.filter(str.strip)
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
rows = st.lists(st.tuples(texts, texts, st.lists(answers, min_size=1, max_size=3)), max_size=8)


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def squad_text(items: list[tuple[str, str, list[str]]]) -> str:
    paragraphs = [
        {
            "context": context,
            "qas": [{"id": f"q{n}", "question": question, "answers": [{"text": a} for a in texts]}],
        }
        for n, (context, question, texts) in enumerate(items)
    ]
    return json.dumps({"data": [{"title": "dummy", "paragraphs": paragraphs}]})


def content(examples: list[Example]) -> list[tuple[str, str, list[str]]]:
    return [(e.context, e.question, list(e.answers)) for e in examples]


# Round trips of arbitrary text ------------------------------------------------------------------


@settings(max_examples=40)
@given(items=rows)
def test_squad_round_trip(tmp_path_factory: pytest.TempPathFactory, items: Any) -> None:
    path = write(tmp_path_factory.getbasetemp() / "round.json", squad_text(items))
    assert content(read(squad.read, path, {})) == items


ids = st.text(max_size=8) | st.sampled_from(["en_3_1", "en_3_2", "x", "x#2"])
examples_of_a_split = st.lists(
    st.builds(
        Example,
        id=ids,
        context=texts,
        question=texts,
        answers=st.lists(answers, min_size=1, max_size=3).map(tuple),
        group=st.none() | texts,
    ),
    max_size=8,
    unique_by=lambda example: example.id,
)


@settings(max_examples=100)
@given(examples=examples_of_a_split)
def test_squad_reads_what_it_wrote(
    tmp_path_factory: pytest.TempPathFactory, examples: list[Example]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.json"
    write_squad(path, examples)
    assert read(squad.read, str(path), {}) == examples


@pytest.mark.parametrize("texts", [(), ("",), ("a", " \n")])
def test_squad_writes_no_answer_that_it_would_not_read(
    tmp_path: Path, texts: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="the example 7 has an empty answer"):
        write_squad(tmp_path / "a.json", [Example("7", "c", "q", texts)])


@settings(max_examples=40)
@given(items=rows, ascii=st.booleans())
def test_jsonl_round_trip(
    tmp_path_factory: pytest.TempPathFactory, items: Any, ascii: bool
) -> None:
    lines = [
        json.dumps({"context": c, "question": q, "answers": a}, ensure_ascii=ascii)
        for c, q, a in items
    ]
    path = write(tmp_path_factory.getbasetemp() / "round.jsonl", "\n".join(lines))
    assert content(read(tables.read_jsonl, path, {})) == items


@settings(max_examples=40)
@given(
    items=st.lists(st.tuples(cells, cells, cells.filter(str.strip)), max_size=8), tabs=st.booleans()
)
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, items: Any, tabs: bool) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_ALL)
    writer.writerows([("context", "question", "answer"), *items])
    path = tmp_path_factory.getbasetemp() / ("round.tsv" if tabs else "round.csv")
    found = read(tables.read_csv, write(path, out.getvalue()), {"quoting": "csv"})
    assert content(found) == [(c, q, [a]) for c, q, a in items]


# Tables -----------------------------------------------------------------------------------------


def test_table_of_labels_maps_numbers_and_asks_for_the_category(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "bad", "label": 0}\n\n{"text": "so", "label": 1}')
    options = {"label.0": "negative", "label.1": "positive"}
    examples = read(tables.read_jsonl, path, options)
    assert [e.answers for e in examples] == [("negative",), ("positive",)]
    assert [e.id for e in examples] == ["0", "1"]
    assert {e.question for e in examples} == {tables.CLASSIFY_QUESTION}
    asked = read(tables.read_jsonl, path, {**options, "question": "good?"})
    assert {e.question for e in asked} == {"good?"}


def test_columns_are_renamed_and_joined(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "key,title,body,gold\n7,T,B,yes\n")
    options = {
        "column.id": "key",
        "column.text": "title + body",
        "column.label": "gold",
    }
    assert read(tables.read_csv, path, options) == [
        Example("7", "T B", tables.CLASSIFY_QUESTION, ("yes",))
    ]


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"\xef\xbb\xbftext,label\nx,y\n")
    assert read(tables.read_csv, path, {})[0].context == "x"


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": ', ":2", "not valid JSON"),
        ("a.jsonl", "[1]", ": item 0", "not a JSON object"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"}', ":2", "no column answer"),
        ("a.jsonl", '{"text": "a", "label": " "}', ":1", "there is no answer"),
        ("a.jsonl", '{"text": "a", "answers": []}', ":1", "there is no answer"),
        ("a.jsonl", '{"text": "a", "answer": null}', ":1", "there is no answer"),
        ("a.jsonl", '{"text": 3, "label": "b"}', ":1", "context is not text"),
        ("a.jsonl", '{"context": "a", "answer": "b"}', ":1", "no question"),
        ("a.jsonl", '{"context": "a", "answer": "b", "question": 1}', ":1", "question is not text"),
        ("a.csv", "text,label\na\n", ":2", "have different lengths"),
        ("a.csv", "text,label\na,b,c\n", ":2", "have different lengths"),
        ("a.csv", 'text,label\n"a"b,c\n', ":2", "not valid CSV"),
        ("a.csv", "text,kind\na,b\n", ":2", "no column answer"),
        ("a.csv", b"text,label\na,b\n\xff,b\n", ":3", "not UTF-8"),
    ],
)
def test_tables_refuse(tmp_path: Path, name: str, text: str | bytes, line: str, says: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(InputError, match=says) as error:
        read(READERS["csv" if name.endswith("csv") else "jsonl"].read, path)
    assert error.value.where == path + line


def test_missing_column_lists_those_that_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sentence,label\na,b\n")
    with pytest.raises(InputError, match=r"(?s)\['sentence', 'label'\].*columns:"):
        read(tables.read_csv, path, {})
    with pytest.raises(InputError, match=r"columns: \{label: \.\.\.\}"):
        read(tables.read_csv, write(tmp_path / "b.csv", "text,category\na,b\n"), {})
    for role in ("text", "question", "label"):
        with pytest.raises(InputError, match="no column nope"):
            read(tables.read_csv, path, {"column.text": "sentence", f"column.{role}": "nope"})


def test_number_without_a_label_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,2\n")
    with pytest.raises(InputError, match=r"(?s)no such label.*0 \(no\), 1 \(yes\)"):
        read(tables.read_csv, path, {"label.0": "no", "label.1": "yes"})


# SQuAD ------------------------------------------------------------------------------------------


def test_squad_dialogue_turns_are_grouped_and_ids_made_unique(tmp_path: Path) -> None:
    qas = [
        {"id": name, "question": "?", "answers": [{"text": "a", "answer_start": None}]}
        for name in ("en_0_0", "en_0_1", "x", "x")
    ]
    document = {"data": [{"paragraphs": [{"context": "c", "qas": qas}]}]}
    rows = squad.read(write(tmp_path / "a.json", json.dumps(document)), {})
    examples, counts = collect(rows, "a.json")
    assert [e.group for e in examples] == ["en_0", "en_0", None, None]
    assert counts.converted == {"repeated id": Tally(1, "a.json: example 3")}
    assert [e.id for e in examples] == ["en_0_0", "en_0_1", "x", "x#2"]


@pytest.mark.parametrize(
    ("name", "group"),
    [("en_3_1", "en_3"), ("woz_en_12_0", "woz_en_12"), ("q_1", None), ("7", None), ("a_b_2", None)],
)
def test_an_id_is_a_turn_if_it_ends_with_two_numbers(
    tmp_path: Path, name: str, group: str | None
) -> None:
    qas = [{"id": name, "question": "?", "answers": [{"text": "a"}]}]
    document = {"data": [{"paragraphs": [{"context": "c", "qas": qas}]}]}
    (example,) = read(squad.read, write(tmp_path / "a.json", json.dumps(document)), {})
    assert example.group == group


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ("[]", ": data"),
        ('{"data": [{}]}', "data[0]: paragraphs"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "paragraphs[0]: context"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [1]}]}]}', "qas[0]: question"),
        (
            squad_text([("c", "q", ["a"]), ("c", "q", [" "])]),
            "paragraphs[1].qas[0]: there is no answer",
        ),
        (squad_text([("c", "q", [])]), "qas[0]: there is no answer"),
    ],
)
def test_squad_refuses(tmp_path: Path, document: str, place: str) -> None:
    with pytest.raises(InputError) as error:
        read(squad.read, write(tmp_path / "a.json", document), {})
    assert place in str(error.value).split("\n")[0]


def test_broken_json_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json:3: not valid JSON"):
        read(squad.read, write(tmp_path / "a.json", '{"data":\n[\n{]}'), {})
    with pytest.raises(InputError, match="too deep"):
        read(squad.read, write(tmp_path / "a.json", "[" * 100_000), {})


# Upstream files ---------------------------------------------------------------------------------

RNNLG = """####
# Copyright
####
[["inform(a=b)", "it is b", "b it is"], ["goodbye()", "bye", "goodbye"]]
"""


def test_rnnlg_unfolds_train_and_keeps_references_of_test(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", RNNLG)
    train = read(nlg.read_rnnlg, path, {"split": "train"})
    assert content(train)[:2] == [
        ("inform(a=b)", nlg.NLG_QUESTION, ["it is b"]),
        ("inform(a=b)", nlg.NLG_QUESTION, ["b it is"]),
    ]
    assert [e.answers for e in read(nlg.read_rnnlg, path, {"split": "test"})] == [
        ("it is b", "b it is"),
        ("bye", "goodbye"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# c\n# c\n[[}", r"a\.json:3: not valid JSON"),
        ('{"a": 1}', "not in RNNLG's form"),
        ('[["act", "text"], ["act"]]', "record 1"),
        ('[["act", " "]]', "record 0"),
        ('[["act", 3]]', "record 0"),
    ],
)
def test_rnnlg_refuses(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(nlg.read_rnnlg, write(tmp_path / "a.json", text), {"split": "train"})


E2E = 'mr,ref\n"name[A], area[B]",A is in B.\n"name[A], area[B]",In B is A.\nname[C],C.\n'


def test_e2e_reads_zip_and_csv_alike(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.csv", E2E)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("e2e-dataset/trainset.csv", E2E)
        out.writestr("e2e-dataset/testset_w_refs.csv", E2E)
    for split in ("train", "test"):
        found = read(nlg.read_e2e, str(archive), {"split": split})
        assert found == read(nlg.read_e2e, plain, {"split": split})
        assert len(found) == (3 if split == "train" else 2)
    assert found[0].answers == ("A is in B.", "In B is A.")
    with pytest.raises(InputError, match=r"devset\.csv"):
        read(nlg.read_e2e, str(archive), {"split": "dev"})
    with pytest.raises(InputError, match=r"b\.csv:3: not in E2E's form"):
        read(nlg.read_e2e, write(tmp_path / "b.csv", "mr,ref\na,b\nc,\n"), {"split": "train"})


@pytest.mark.parametrize("split", ["dev", "test"])
def test_texts_of_one_meaning_are_references_but_in_training(tmp_path: Path, split: str) -> None:
    rnnlg = write(tmp_path / "a.json", RNNLG)
    assert [len(e.answers) for e in read(nlg.read_rnnlg, rnnlg, {"split": "train"})] == [1, 1, 1, 1]
    assert [len(e.answers) for e in read(nlg.read_rnnlg, rnnlg, {"split": split})] == [2, 2]
    e2e = write(tmp_path / "a.csv", E2E)
    assert [len(e.answers) for e in read(nlg.read_e2e, e2e, {"split": "train"})] == [1, 1, 1]
    assert [len(e.answers) for e in read(nlg.read_e2e, e2e, {"split": split})] == [2, 1]


def test_a_file_that_changes_within_its_clocks_tick_has_a_new_digest(tmp_path: Path) -> None:
    """The same size and time, as where a file is written twice within a coarse clock's tick."""
    path, now = tmp_path / "a.txt", time.time_ns()
    digests = []
    for text in ("first", "other"):
        path.write_text(text)
        os.utime(path, ns=(now, now))
        digests.append(digest(path))
    assert digests == [hashlib.sha256(text).hexdigest() for text in (b"first", b"other")]


WOZ = [
    {
        "dialogue": [
            {
                "system_acts": [],
                "transcript": "cheap  thai food",
                "turn_label": [["food", "thai"], ["price range", "cheap"]],
            },
            {
                "system_acts": ["area", ["food", "thai"]],
                "transcript": "north, and the phone",
                "turn_label": [["area", "north"], ["request", "phone"]],
            },
            {"system_acts": [], "transcript": "phone", "turn_label": [["request", "phone"]]},
            {"system_acts": [], "transcript": "bye", "turn_label": []},
        ]
    }
]


def test_woz_has_the_form_of_decanlp(tmp_path: Path) -> None:
    examples = read(woz.read, write(tmp_path / "a.json", json.dumps(WOZ)), {})
    assert [(e.context, e.answers[0]) for e in examples] == [
        ("cheap thai food", "food: thai, price range: cheap;"),
        ("area, food: thai -- north, and the phone", "area: north; phone"),
        ("phone", "; phone"),
        ("bye", "None"),
    ]
    assert {e.group for e in examples} == {"0"}
    assert {e.question for e in examples} == {"What is the change in state?"}


@pytest.mark.parametrize("text", ["3", '[{"dialogue": [{}]}]', "[[]]", '{"a": "b"}'])
def test_woz_refuses(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="not in WOZ's form"):
        read(woz.read, write(tmp_path / "a.json", text), {})


def wikisql_entry(sql: str, values: dict[str, str], split: str = "train") -> dict[str, Any]:
    sentence = {
        "original": " how many? ",
        "question-split": split,
        "table-id": "1",
        "variables": values,
    }
    variables = [{"name": name, "example": value} for name, value in values.items()]
    return {"sql": [sql], "variables": variables, "sentences": [sentence]}


def test_wikisql_reads_queries_and_gathers_columns_over_splits(tmp_path: Path) -> None:
    entries = [
        wikisql_entry(
            "SELECT COUNT TABLEalias0.FLEET_SERIES_FIELD FROM TABLE AS TABLEalias0"
            ' WHERE TABLEalias0.FUEL_FIELD = "var0" AND TABLEalias0.YEAR_FIELD > var1 ;',
            {"var0": "CNG and coal", "var1": "2001"},
        ),
        wikisql_entry(  # a column that begins like an aggregate, and an unaliased one
            "SELECT AVG._FINISH_FIELD FROM TABLE AS TABLEalias0 WHERE NO._FIELD = var0 ;",
            {"var0": "3"},
            "test",
        ),
    ]
    path = write(tmp_path / "a.bz2", bz2.compress(json.dumps(entries).encode()))
    (train,) = read(wikisql.read, path, {"split": "train"})
    assert train.answers == (
        "SELECT COUNT fleet series FROM table WHERE fuel = CNG and coal AND year > 2001",
    )
    assert train.context.startswith(
        "The table has columns avg. finish, fleet series, fuel, no., year and key words MAX, "
    )
    assert train.context.endswith(" -- how many?")
    (test,) = read(wikisql.read, path, {"split": "test"})
    assert test.answers == ("SELECT avg. finish FROM table WHERE no. = 3",)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"BZh9broken", "the archive is damaged"),
        (bz2.compress(b'[{"sql": ["DROP"], "variables": [], "sentences": []}]'), "record 0"),
        (bz2.compress(b"[3]"), "record 0"),
    ],
)
def test_wikisql_refuses(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(wikisql.read, write(tmp_path / "a.bz2", data), {"split": "train"})


# The hub ----------------------------------------------------------------------------------------


def test_hub_rows_take_the_labels_of_the_hub_or_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    asked: list[Any] = []

    def load(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load)
    options = {"hub": "org/set", "split": "train", "commit": "c" * 40}
    assert [e.answers for e in read(hub.read, "org/set", options)] == [("neg",), ("pos",)]
    assert asked == [(("org/set", None), {"split": "train", "revision": "c" * 40})]
    own = {**options, "label.0": "bad", "label.1": "good"}
    assert [e.answers for e in read(hub.read, "org/set", own)] == [("bad",), ("good",)]


def test_a_row_of_the_hub_without_a_label_is_refused_or_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    columns = {"text": ["a", "b", "c"], "label": [1, -1, None]}
    table = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: table)
    options = {"hub": "org/set", "split": "train", "commit": "c" * 40}
    named = {**options, "label.0": "bad", "label.1": "good"}
    for settled, label in ((options, "pos"), (named, "good")):
        with pytest.raises(InputError, match=r"org/set: train\[1\]: there is no answer"):
            read(hub.read, "org/set", settled)
        rows = hub.read("org/set", {**settled, "unanswered": "leave out"})
        examples, counts = collect(rows, "org/set")
        assert [example.answers for example in examples] == [(label,)]
        assert counts.left_out == {"no answer": Tally(2, "org/set: train[1]")}
        assert counts.rows == 3


def test_unreachable_hub_says_so_and_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(InputError, match=r"(?s)org/set.*no route'.*network.*data_dir"):
        hub.commit("org/set", None)
