"""Rows of any Unicode text, written by others' libraries: read as they were, or refused.

Refused are a NUL, half of a surrogate pair, a blank answer, and nothing else but what a format
cannot hold: then the writer's own reader gives other rows, too.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.reading import read
from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.data import collect
from l2kd_ray.tasks.readers import READERS, nlg, squad, wikisql, woz
from l2kd_ray.tasks.tagging import words

ODD = [
    *'"\',;\\\t\r\n\0 #{}[]', '""', "\r\n", "\ufeff", "\u00a0", "\u3000", "\u2028", "\x85", "\x0b",
    "\x1c", "\ud800", "\U0001f600", "e\u0301", "NA", "nan", "null", "1.0", "true", "-DOCSTART-",
]  # fmt: skip
pieces = st.sampled_from(ODD) | st.text(max_size=6)
texts = st.lists(pieces, max_size=5).map("".join)
Rows = list[tuple[str, str, str]]
rows = st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=5)
NAMES = ("context", "question", "answer")


def records(items: Rows) -> list[dict[str, str]]:
    return [dict(zip(NAMES, item, strict=True)) for item in items]


def table(items: Rows, **how: Any) -> str:
    out = io.StringIO()
    csv.writer(out, **how).writerows([NAMES, *items])
    return out.getvalue()


def frame(items: Rows) -> Any:
    return pytest.importorskip("pandas").DataFrame(records(items))


def dataset(items: Rows) -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(records(items))


def plain(items: Rows) -> str | None:
    """Tabs between cells and no quoting; None if a cell holds a tab or a line end."""
    if any(set(cell) & set("\t\r\n") for item in items for cell in item):
        return None
    return "".join("\t".join(row) + "\n" for row in [NAMES, *items])


def to_stream(write: Callable[[io.BytesIO], object]) -> str:
    out = io.BytesIO()
    write(out)
    return out.getvalue().decode()


WRITERS: dict[str, Callable[[Rows], str | None]] = {
    "csv.csv": lambda items: table(items),
    "csv, all quoted, LF.csv": lambda items: table(
        items, quoting=csv.QUOTE_ALL, lineterminator="\n"
    ),
    "csv, quoted.tsv": lambda items: table(items, delimiter="\t"),
    "plain.tsv": plain,
    "json.jsonl": lambda items: "\n".join(map(json.dumps, records(items))),
    "json, no escapes.jsonl": lambda items: "\n".join(
        json.dumps(record, ensure_ascii=False) for record in records(items)
    ),
    "json, a list.json": lambda items: json.dumps(records(items), indent=1),
    "pandas.csv": lambda items: frame(items).to_csv(),
    "pandas, quoted.tsv": lambda items: frame(items).to_csv(sep="\t", index=False),
    "pandas, lines.json": lambda items: frame(items).to_json(orient="records", lines=True),
    "pandas.json": lambda items: frame(items).to_json(orient="records"),
    "datasets.json": lambda items: to_stream(dataset(items).to_json),
    "datasets.csv": lambda items: to_stream(dataset(items).to_csv),
}


def readable(items: Rows) -> bool:
    """Whether no rule of the contract refuses the rows."""
    text = "".join(cell for item in items for cell in item)
    return all(
        (
            not any("\ud800" <= letter <= "\udfff" for letter in text),
            all(answer.strip() for _, _, answer in items),
        )
    )


def own_reading(name: str, content: str) -> Rows | None:
    """The rows that Python's own reader finds in a table; None if it finds none."""
    delimiter = "\t" if name.endswith(".tsv") else ","
    how = csv.QUOTE_NONE if name == "plain.tsv" else csv.QUOTE_MINIMAL
    stream = io.StringIO(content, newline="")
    try:
        _, *found = csv.reader(stream, delimiter=delimiter, quoting=how, strict=True)
    except csv.Error:
        return None
    return [tuple(row[-3:]) for row in found if row]  # type: ignore[misc]


def check(name: str, items: Rows, encoding: str, folder: Path) -> None:
    try:
        content = WRITERS[name](items)
    except (UnicodeEncodeError, ValueError, OverflowError):  # the writer refuses surrogates
        assert not readable(items)
        return
    if content is None:
        return
    path = folder / name
    try:
        path.write_bytes(content.encode(encoding))
    except UnicodeEncodeError:
        assert not readable(items)
        return
    options = {"quoting": "csv"} if "quoted.tsv" in name else {}
    reader = "csv" if name.endswith(("csv", "tsv")) else "jsonl"
    refused = None
    try:
        found = collect(READERS[reader].read(str(path), options), str(path))[0]
    except InputError as error:
        refused = str(error)
    # pandas ends lines with LF and then does not quote a CR, which so becomes a line's end.
    fits = reader == "jsonl" or own_reading(name, content) == items
    if refused is not None:
        unquoted = "looks quoted" in refused and name == "plain.tsv"
        assert not readable(items) or "\0" in content or not fits or unquoted, refused
        return
    assert readable(items)
    expected = items if fits else own_reading(name, content)
    assert [(e.context, e.question, *e.answers) for e in found] == expected
    assert [example.id for example in found] == [str(n) for n in range(len(found))]
    if path.suffix == ".json":
        assert not squad.looks_like(path) or content.count("\n") < 2


encodings = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])


@pytest.mark.parametrize("name", WRITERS)
def test_rows_come_through_or_are_refused(name: str, tmp_path: Path) -> None:
    run([name], 20, tmp_path)


@pytest.mark.drill
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("suffixes", [("csv",), ("tsv",), ("json", "jsonl")], ids="/".join)
def test_ten_thousand_files_come_through_or_are_refused(
    suffixes: tuple[str, ...], tmp_path: Path
) -> None:
    run([name for name in WRITERS if name.endswith(suffixes)], 10_000, tmp_path)


def run(names: list[str], number: int, folder: Path) -> None:
    @settings(max_examples=number, derandomize=True, database=None)
    @given(name=st.sampled_from(names), items=rows, encoding=encodings)
    def holds(name: str, items: Rows, encoding: str) -> None:
        check(name, items, encoding, folder)

    holds()


# Labelled sentences -------------------------------------------------------------------------------

no_separator = texts.map(lambda text: "".join(c for c in text if c not in " \t\r\n\0\ud800"))
sentences = st.lists(
    st.lists(st.tuples(no_separator.filter(len), st.sampled_from(["O", "S-x\u00a0y"])), min_size=1),
    min_size=1,
    max_size=4,
)


def sentences_hold(items: Any, separator: str, end: str, folder: Path) -> None:
    blocks = ["".join(f"{word}{separator}{tag}{end}" for word, tag in block) for block in items]
    path = folder / "a.conll"
    path.write_bytes(end.join(blocks).encode("utf-8-sig"))  # a first U+FEFF would be such a mark
    found = read(READERS["conll"].read, str(path))
    kept = [[pair for pair in block if pair[0] != "-DOCSTART-"] for block in items]
    assert [
        list(zip(words(example.context), words(example.answers[0]), strict=True))
        for example in found
    ] == [block for block in kept if block]


@pytest.mark.parametrize("number", [60, pytest.param(10_000, marks=pytest.mark.drill)])
def test_sentences_come_through(number: int, tmp_path: Path) -> None:
    @settings(max_examples=number, derandomize=True, database=None)
    @given(
        items=sentences,
        separator=st.sampled_from([" ", "\t", "  "]),
        end=st.sampled_from(["\n", "\r\n", "\r"]),
    )
    def holds(items: Any, separator: str, end: str) -> None:
        sentences_hold(items, separator, end, tmp_path)

    holds()


# Anything else is refused -------------------------------------------------------------------------

keys = st.sampled_from(
    ["data", "paragraphs", "qas", "context", "answers", "dialogue", "sql", "sentences", "variables"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("number", [60, pytest.param(10_000, marks=pytest.mark.drill)])
@pytest.mark.parametrize(
    "reader", [squad.read, woz.read, wikisql.read, nlg.read_rnnlg, READERS["jsonl"].read]
)
def test_json_of_another_form_is_refused(reader: Any, number: int, tmp_path: Path) -> None:
    @settings(max_examples=number, derandomize=True, database=None)
    @given(value=values)
    def holds(value: Any) -> None:
        path = tmp_path / "a.json"
        path.write_text(json.dumps(value))
        with suppress(InputError):
            collect(reader(str(path), {"split": "train"}), str(path))

    holds()
