"""Tables of text: JSONL, CSV and the hub's rows, with columns renamed by the user.

The context is the column `context` or `text`. The answer is `answer`, `answers` (a list of
references) or `label`, a text or a number. The question (for pairs: the second text) is the column
`question`, else the option `question`, else, for labels, `CLASSIFY_QUESTION`. `id` is read where it
exists, a group only from the column that `column.group` names.

Options: `column.<role>` (the column of a role; "a + b" joins two columns by a space),
`label.<number>` (the text of a label), `question`, `quoting` (of CSV: `csv`, `none`) and
`unanswered` (`leave out`: rows without an answer are left out, and not refused).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Converted, Example, Row
from l2kd_ray.tasks.readers.files import lines, parse_json, read_text
from l2kd_ray.tasks.readers.values import label, labels_of, no_answer, plain

CLASSIFY_QUESTION = "What category does the text belong to?"
_ANSWER = ("answer", "answers", "label")
_LIST = re.compile(r"[ \t\r\n]*\[")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
TableRow = tuple[str, Mapping[str, Any]]
"""(where the row is, its cells)."""
csv.field_size_limit(2**31 - 1)  # cells of whole articles; the default is 131,072 characters


def read_jsonl(location: str, options: Mapping[str, str]) -> Iterator[Row]:
    return read_rows(jsonl_rows(location, options), options)


def read_csv(location: str, options: Mapping[str, str]) -> Iterator[Row]:
    return read_rows(csv_rows(location, options), options)


def read_lines(location: str, options: Mapping[str, str]) -> Iterator[Row]:
    """Texts, one a line, as answers to no question; blank lines are none."""
    for number, line in lines(read_text(location)):
        if line.strip():
            yield Example(str(number), "", "", (line,))


def read_rows(rows: Iterator[TableRow], options: Mapping[str, str]) -> Iterator[Row]:
    labels = labels_of(options)
    for number, (where, cells) in enumerate(rows):
        yield from _row(cells, number, labels, options, where)


def jsonl_rows(location: str, options: Mapping[str, str]) -> Iterator[TableRow]:
    """One JSON object a line, or a list of them."""
    if _LIST.match(text := read_text(location)):
        items = enumerate(parse_json(text, location))
        rows = ((f"{location}: item {number}", cells) for number, cells in items)
    else:
        rows = (
            (f"{location}:{number}", parse_json(line, location, first_line=number))
            for number, line in lines(text)
            if line.strip(" \t")
        )
    for where, cells in rows:
        if not isinstance(cells, dict):
            raise InputError("not a JSON object", where=where, got=cells, expected="{...}")
        yield where, cells


def csv_rows(location: str, options: Mapping[str, str]) -> Iterator[TableRow]:
    """Rows under a header; in a file whose name ends in .tsv, tabs separate and no quotes mark."""
    tabs = Path(location).suffix.lower() == ".tsv"
    quoting = options.get("quoting")
    quoted = quoting == "csv" or not (tabs or quoting)
    rows = table_rows(read_text(location), location, "\t" if tabs else ",", quoted=quoted)
    return rows if quoted or quoting else map(_surely_unquoted, rows)


def table_rows(
    text: str, location: str, delimiter: str = ",", *, quoted: bool = True
) -> Iterator[TableRow]:
    """The rows of a table under its header. A column without a name (an index) is not read."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    names: list[str] = []
    while (row := _next(reader, location)) is not None:
        where = f"{location}:{reader.line_num}"
        if not row:
            continue
        if not names:
            names = row
            if twice := [name for name in names if name.strip() and names.count(name) > 1]:
                raise InputError(
                    "two columns have this name", where=where, got=twice[0], expected="one"
                )
        elif len(row) != len(names):
            raise InputError(
                "the row and the header have different lengths",
                where=where,
                got=row,
                expected=f"the cells {', '.join(names)}",
                fix="" if quoted else "if quotes mark its cells: the task's key `quoting: csv`",
            )
        else:
            cells = zip(names, row, strict=True)
            yield where, {name: cell for name, cell in cells if name.strip()}


def _next(reader: Any, location: str) -> list[str] | None:
    try:
        row: list[str] | None = next(reader, None)
    except csv.Error as error:
        raise InputError(
            f"not valid CSV: {error}",
            where=f"{location}:{reader.line_num}",
            fix="quote cells that hold quotes or line breaks, write the data as JSONL, or, if "
            "quotes are text: the task's key `quoting: none`",
        ) from None
    return row


def _surely_unquoted(row: TableRow) -> TableRow:
    """Refuse a row with a cell that a writer of CSV has quoted, as it seems."""
    where, cells = row
    for cell in (*cells.values(), *cells):
        if (
            cell.startswith('"')
            and _QUOTED.fullmatch(cell)
            and ('""' in cell[1:-1] or cell in cells)
        ):
            raise InputError(
                "a cell looks quoted, and the cells of a .tsv are read without quoting",
                where=where,
                got=cell,
                expected="the task's key `quoting`",
                fix="quoting: csv, if quotes mark cells; quoting: none, if they are text",
            )
    return row


ROWS: Mapping[str, Callable[[str, Mapping[str, str]], Iterator[TableRow]]] = {
    "jsonl": jsonl_rows,
    "csv": csv_rows,
}


def has_labels(rows: Iterator[TableRow], options: Mapping[str, str]) -> bool:
    """True if the answers of a table are labels, so that its task is classification."""
    where, cells = next(rows, ("", {}))
    return bool(cells) and _pick(cells, _ANSWER, options, where)[0] == "label"


def _row(
    cells: Mapping[str, Any],
    number: int,
    labels: Sequence[str],
    options: Mapping[str, str],
    where: str,
) -> Iterator[Row]:
    _, context = _pick(cells, ("context", "text"), options, where)
    if not isinstance(context, str):
        raise InputError("the context is not text", where=where, got=context, expected="text")
    role, value = _pick(cells, _ANSWER, options, where)
    answers, changes = _answers(value, labels, where)
    if not answers:
        yield no_answer(where, value, options)
        return
    name = _cell(cells, options, "id", where) if "column.id" in options else cells.get("id", number)
    group = _cell(cells, options, "group", where) if "column.group" in options else None
    yield from (Converted(where, change) for change in changes)
    yield Example(
        id="" if name is None else str(name),
        context=context,
        question=_question(cells, role, options, where),
        answers=tuple(answers),
        group=None if group is None else str(group),
    )


def _pick(
    cells: Mapping[str, Any], roles: Sequence[str], options: Mapping[str, str], where: str
) -> tuple[str, Any]:
    """The first of the roles that has a column, and its cell; renamed roles come first."""
    for role in sorted(roles, key=lambda role: f"column.{role}" not in options):
        if f"column.{role}" in options:
            return role, _cell(cells, options, role, where)
        if role in cells:
            return role, cells[role]
    raise _no_column(" or ".join(roles), cells, where)


def _cell(cells: Mapping[str, Any], options: Mapping[str, str], role: str, where: str) -> Any:
    """The cell of a renamed role, or the text of two or more columns joined by " + "."""
    name = options[f"column.{role}"]
    parts = [name] if name in cells else name.split(" + ")
    if not all(part in cells for part in parts):
        raise _no_column(name, cells, where)
    values = [cells[part] for part in parts]
    if len(values) == 1:
        return values[0]
    if not all(isinstance(value, str) for value in values):
        raise InputError("a joined cell is not text", where=where, got=values, expected="text")
    return " ".join(values)


def _no_column(name: str, cells: Mapping[str, Any], where: str) -> InputError:
    return InputError(
        f"there is no column {name}",
        where=where,
        got=list(cells),
        expected=f"a column {name}",
        fix=_columns_to_name(list(cells)),
    )


def _columns_to_name(have: Sequence[str]) -> str:
    if len(have) == 1 and ";" in have[0]:
        return "its cells are apart by semicolons: write it with commas, or as .tsv with tabs"
    if "text" in have or "label" in have:
        columns = "{text: ...}" if "label" in have else "{label: ...}"
    else:
        columns = "{text: ..., label: ...}, or {context: ..., question: ..., answer: ...}"
    return f"name the columns of the task: columns: {columns}"


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


def _answers(value: Any, labels: Sequence[str], where: str) -> tuple[list[str], list[str]]:
    """The answers, none where they are missing, and the names of the changes made to them."""
    answers: list[str | None] = []
    changes: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        text = plain(item, where)
        if text is not None and labels:
            text, change = label(text, labels, where)
            changes += [change] if change else []
        answers.append(text)
    given = [answer for answer in answers if answer is not None]
    if given and len(given) < len(answers):
        raise InputError("an answer is empty", where=where, got=value, expected="text")
    return given, changes
