"""Tables of text: JSONL, CSV and the hub's rows, with columns renamed by the user.

The context is the column `context` or `text`. The answer is `answer`, `answers` (a list of
references) or `label`, a text or a number. The question (for pairs: the second text) is the column
`question`, else the option `question`, else, for labels, `CLASSIFY_QUESTION`. `id` and `group` are
read where they exist.

Options: `column.<role>` (the column of a role; "a + b" joins two columns by a space),
`label.<value>` (the text of a label, often of a number) and `question`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.readers.files import parse_json, read_text

CLASSIFY_QUESTION = "What category does the text belong to?"
TableRow = tuple[str, Mapping[str, Any]]
"""(where the row is, its cells)."""


def read_jsonl(location: str, options: Mapping[str, str]) -> list[Example]:
    return read_rows(jsonl_rows(location), options)


def read_csv(location: str, options: Mapping[str, str]) -> list[Example]:
    return read_rows(csv_rows(location), options)


def read_rows(rows: Iterator[TableRow], options: Mapping[str, str]) -> list[Example]:
    return [_example(cells, number, options, where) for number, (where, cells) in enumerate(rows)]


def jsonl_rows(location: str) -> Iterator[TableRow]:
    # Not splitlines, which also splits at U+2028 and the like; JSON texts may contain these.
    for number, line in enumerate(read_text(location).split("\n"), start=1):
        if line.strip():
            where = f"{location}:{number}"
            cells = parse_json(line, location, first_line=number)
            if not isinstance(cells, dict):
                raise InputError("not a JSON object", where=where, got=cells, expected="{...}")
            yield where, cells


def csv_rows(location: str) -> Iterator[TableRow]:
    """Rows under a header; cells are separated by tabs if the file's name ends in .tsv."""
    delimiter = "\t" if Path(location).suffix == ".tsv" else ","
    text = io.StringIO(read_text(location), newline="")
    reader = csv.DictReader(text, delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"not valid CSV: {error}",
                where=f"{location}:{reader.reader.line_num}",
                fix="quote cells that hold quotes or line breaks, or write the data as JSONL",
            ) from None
        if cells is None:
            return
        where = f"{location}:{reader.line_num}"
        if None in cells or None in cells.values():
            raise InputError(
                "the row and the header have different lengths",
                where=where,
                got=list(cells.values()),
                expected=f"the cells {', '.join(reader.fieldnames or ())}",
            )
        yield where, cells


ROWS: Mapping[str, Callable[[str], Iterator[TableRow]]] = {"jsonl": jsonl_rows, "csv": csv_rows}


def has_labels(rows: Iterator[TableRow], options: Mapping[str, str]) -> bool:
    """True if the answers of a table are labels, so that its task is classification."""
    where, cells = next(rows, ("", {}))
    return (
        bool(cells) and _pick(cells, ("answer", "answers", "label"), options, where)[0] == "label"
    )


def _example(
    cells: Mapping[str, Any], number: int, options: Mapping[str, str], where: str
) -> Example:
    _, context = _pick(cells, ("context", "text"), options, where)
    if not isinstance(context, str):
        raise InputError("the context is not text", where=where, got=context, expected="text")
    role, value = _pick(cells, ("answer", "answers", "label"), options, where)
    answers = _answers(value, options, where)
    identity = cells.get(options.get("column.id", "id"), number)
    group = cells.get("group")
    return Example(
        id=str(identity),
        context=context,
        question=_question(cells, role, options, where),
        answers=answers,
        group=None if group is None else str(group),
    )


def _pick(
    cells: Mapping[str, Any], roles: Sequence[str], options: Mapping[str, str], where: str
) -> tuple[str, Any]:
    """The first of the roles that has a column, and its cell; renamed roles come first."""
    for role in sorted(roles, key=lambda role: f"column.{role}" not in options):
        renamed = options.get(f"column.{role}")
        if renamed is None and role in cells:
            return role, cells[role]
        if renamed is not None:
            parts = [renamed] if renamed in cells else renamed.split(" + ")
            if not all(part in cells for part in parts):
                raise _no_column(renamed, cells, where)
            joined = " ".join(str(cells[part]) for part in parts)
            return role, cells[parts[0]] if len(parts) == 1 else joined
    raise _no_column(" or ".join(roles), cells, where)


def _no_column(name: str, cells: Mapping[str, Any], where: str) -> InputError:
    return InputError(
        f"there is no column {name}",
        where=where,
        got=list(cells),
        expected=f"a column {name}",
        fix="name the columns of the task: columns: {context: ..., question: ..., answer: ...}",
    )


def _question(cells: Mapping[str, Any], role: str, options: Mapping[str, str], where: str) -> str:
    column = options.get("column.question", "question")
    if column in cells:
        if isinstance(question := cells[column], str):
            return question
        raise InputError("the question is not text", where=where, got=question, expected="text")
    if "column.question" in options:
        raise _no_column(column, cells, where)
    default = CLASSIFY_QUESTION if role == "label" else None
    if (question := options.get("question", default)) is not None:
        return question
    raise InputError(
        "there is no question",
        where=where,
        got=list(cells),
        expected="a column question, or one question for all: the task's key `question`",
    )


def _answers(value: Any, options: Mapping[str, str], where: str) -> tuple[str, ...]:
    labels = {key: text for key, text in options.items() if key.startswith("label.")}
    answers = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, float) and math.isfinite(item):
            item = f"{item:.7g}"  # gives 3.8, also for a column of single precision
        if not isinstance(item, str | int) or (isinstance(item, str) and not item.strip()):
            raise InputError("an answer is empty", where=where, got=value, expected="text")
        text = labels.get(f"label.{item}", str(item))
        # An integer beyond the named labels is a mistake; other texts are taken as they are.
        if labels and text not in labels.values() and text.lstrip("-").isdigit():
            raise InputError(
                "no such label", where=where, got=item, expected=", ".join(labels.values())
            )
        answers.append(text)
    if not answers:
        raise InputError("an answer is empty", where=where, got=value, expected="text")
    return tuple(answers)
