"""Labelled sentences: CoNLL columns, CoNLL-U, and unlabelled text, one sentence per line.

    context   "U.N. official Ekeus"    the words; a space inside a word becomes U+00A0
    answer    "S-ORG O S-PER"          tags (`conll`), in BIOES whatever the file has
              "2:compound 0:root ..."  head:relation (`conllu`)
              ""                       nothing is known (`text`)

Options of `conll`: `column.text` and `column.label`, the columns by number from 0, or from -1
backwards (default: the first and the last); `scheme`, the tags' scheme (`bioes`, `iob2`). IOB1,
IOB2 and BIOES are read alike and need not be told apart. All take `question` (default: none).

Cells are separated by tabs, or else by blanks; no other white space separates anything. CoNLL-U's
multiword tokens and empty nodes are not words of the basic tree, and no rows either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import cast

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Converted, Example, LeftOut, Row
from l2kd_ray.tasks.readers.files import lines, read_text
from l2kd_ray.tasks.tagging import LabelledSentence, Scheme, spans, tags

_TAG = re.compile(r"O|[BIES]-[^ \t]+")
_BLANKS = re.compile(r"[ \t]+")
ColumnRow = tuple[str, list[str]]
"""(where the row is, its cells)."""


def read_conll(location: str, options: Mapping[str, str]) -> Iterator[Row]:
    columns = [
        _number(options.get("column.text", "0"), "text", location),
        _number(options.get("column.label", "-1"), "label", location),
    ]
    scheme = cast(Scheme, options.get("scheme", "bioes"))
    blocks = list(_blocks(location))
    marks = [row for rows in blocks for row in rows if row[1][0] == "-DOCSTART-"]
    yield from (LeftOut(where, "-DOCSTART-") for where, _ in marks)
    kept = [[row for row in rows if row[1][0] != "-DOCSTART-"] for rows in blocks]
    sentences = [rows for rows in kept if rows]
    _check_separators(sentences)
    # Columns that are counted from the end are others where rows have other numbers of cells.
    together = [[row for rows in sentences for row in rows]] if min(columns) < 0 else sentences
    for rows in together:
        _check_lengths(rows)
    yield from _rows(
        ((rows[0][0], _retagged(rows, columns, scheme)) for rows in sentences), options
    )


def read_conllu(location: str, options: Mapping[str, str]) -> Iterator[Row]:
    blocks = _blocks(location, comment="#")
    return _rows(((rows[0][0], _tree(rows)) for rows in blocks), options)


def read_text_lines(location: str, options: Mapping[str, str]) -> Iterator[Row]:
    split = (
        (f"{location}:{n}", _BLANKS.split(line.strip(" \t")))
        for n, line in lines(read_text(location))
    )
    return _rows(((where, (words, ())) for where, words in split if words != [""]), options)


def _rows(
    sentences: Iterable[tuple[str, LabelledSentence]], options: Mapping[str, str]
) -> Iterator[Row]:
    for number, (where, (words, labels)) in enumerate(sentences):
        if any(" " in word for word in words):
            yield Converted(where, "space in a word, now U+00A0")
        context = " ".join(word.replace(" ", "\u00a0") for word in words)
        yield Example(str(number), context, options.get("question", ""), (" ".join(labels),))


def _blocks(location: str, comment: str | None = None) -> Iterator[list[ColumnRow]]:
    """The blocks of rows between lines that are empty, or hold blanks and tabs alone."""
    numbered = lines(read_text(location))
    read = (pair for pair in numbered if comment is None or not pair[1].startswith(comment))
    for blank, block in groupby(read, key=lambda pair: not pair[1].strip(" \t")):
        if not blank:
            yield [(f"{location}:{number}", _cells(line)) for number, line in block]


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else _BLANKS.split(line.strip(" \t"))


def _check_separators(sentences: Sequence[Sequence[ColumnRow]]) -> None:
    """Refuse cells separated by tabs in one place and by blanks in another.

    They show where splitting at both gives all rows one number of cells, and a larger one than
    splitting at tabs does.
    """
    rows = [row for rows in sentences for row in rows]
    at_both = [sum(len(_BLANKS.split(cell)) for cell in cells) for _, cells in rows]
    if len(set(at_both)) == 1 and any(len(cells) < at_both[0] for _, cells in rows):
        where, cells = next(row for row in rows if len(row[1]) < at_both[0])
        raise InputError(
            "the cells are separated by tabs in one place and by blanks in another",
            where=where,
            got=cells,
            expected="tabs alone, or blanks alone",
        )


def _check_lengths(rows: Sequence[ColumnRow]) -> None:
    """Refuse rows with different numbers of cells."""
    for where, cells in rows:
        if len(cells) != len(rows[0][1]):
            raise InputError(
                "the rows have different numbers of cells",
                where=where,
                got=cells,
                expected=f"{len(rows[0][1])} cells, as in {rows[0][0]}",
            )


def _number(column: str, role: str, location: str) -> int:
    try:
        return int(column)
    except ValueError:
        raise InputError(
            "the columns of a CoNLL file are given by number",
            where=location,
            key=f"columns.{role}",
            got=column,
            expected="a number from 0, or from -1 backwards",
        ) from None


def _word_and_tag(row: ColumnRow, columns: Sequence[int]) -> tuple[str, str]:
    where, cells = row
    # A row of one cell has a word and no tag, and its last column would be the word.
    if len(cells) < 2 or any(not -len(cells) <= column < len(cells) for column in columns):
        raise InputError(
            "the row has too few columns",
            where=where,
            got=cells,
            expected=f"columns {columns[0]} (the word) and {columns[1]} (its tag)",
            fix="name the columns of the task: columns: {text: '0', label: '-1'}",
        )
    word, tag = (cells[column] for column in columns)
    if not word:
        raise InputError("the word is empty", where=where, got=cells, expected="a word")
    if not _TAG.fullmatch(tag):
        raise InputError(
            "not a tag of IOB1, IOB2 or BIOES", where=where, got=tag, expected="O, or as in B-PER"
        )
    return word, tag


def _retagged(
    rows: Sequence[ColumnRow], columns: Sequence[int], scheme: Scheme
) -> LabelledSentence:
    words, given = zip(*(_word_and_tag(row, columns) for row in rows), strict=True)
    return words, tags(spans(given), len(words), scheme)


def _tree(rows: Sequence[ColumnRow]) -> LabelledSentence:
    # Multiword tokens have ids such as 1-2, empty nodes such as 1.1.
    rows = [row for row in rows if not re.fullmatch(r"\d+[-.]\d+", row[1][0])]
    words, labels = [], []
    for number, (where, cells) in enumerate(rows, start=1):
        if len(cells) != 10 or cells[0] != str(number) or not cells[1]:
            raise InputError(
                "not a word of CoNLL-U", where=where, got=cells, expected=f"10 cells, ID {number}"
            )
        head, relation = cells[6], cells[7]
        if not head.isdecimal() or int(head) > len(rows) or not re.fullmatch(r"[^ \t]+", relation):
            raise InputError(
                "the word has no valid head",
                where=where,
                got=(head, relation),
                expected=f"HEAD from 0 to {len(rows)}, and DEPREL",
            )
        words.append(cells[1])
        labels.append(f"{int(head)}:{relation}")
    return words, labels
