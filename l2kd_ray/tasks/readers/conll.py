"""Labelled sentences: CoNLL columns, CoNLL-U, and unlabelled text, one sentence per line.

    context   "U.N. official Ekeus"    the words; a space inside a word becomes U+00A0
    answer    "S-ORG O S-PER"          tags (`conll`), in BIOES whatever the file has
              "2:compound 0:root ..."  head:relation (`conllu`)
              ""                       nothing is known (`text`)

Options of `conll`: `column.text` and `column.label`, the columns by number from 0, or from -1
backwards (default: the first and the last); `scheme`, the tags' scheme (`bioes`, `iob2`). IOB1,
IOB2 and BIOES are read alike and need not be told apart. All take `question` (default: none).

CoNLL-U's multiword tokens and empty nodes are not words of the basic tree, and are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.readers.files import read_text
from l2kd_ray.tasks.tagging import LabelledSentence, Scheme, spans, tags

_TAG = re.compile(r"O|[BIES]-\S+")
ColumnRow = tuple[str, list[str]]
"""(where the row is, its cells)."""


def read_conll(location: str, options: Mapping[str, str]) -> list[Example]:
    columns = [
        _number(options.get("column.text", "0"), "text", location),
        _number(options.get("column.label", "-1"), "label", location),
    ]
    scheme = cast(Scheme, options.get("scheme", "bioes"))
    sentences = (
        [_word_and_tag(row, columns) for row in rows]
        for rows in _blocks(location)
        if rows[0][1][0] != "-DOCSTART-"
    )
    return _examples((_retagged(sentence, scheme) for sentence in sentences), options)


def read_conllu(location: str, options: Mapping[str, str]) -> list[Example]:
    return _examples((_tree(rows) for rows in _blocks(location, comment="#")), options)


def read_text_lines(location: str, options: Mapping[str, str]) -> list[Example]:
    lines = (line.split() for line in read_text(location).split("\n"))
    return _examples(((line, ()) for line in lines if line), options)


def _examples(sentences: Iterator[LabelledSentence], options: Mapping[str, str]) -> list[Example]:
    return [
        Example(
            str(number),
            " ".join(word.replace(" ", "\u00a0") for word in words),
            options.get("question", ""),
            (" ".join(labels),),
        )
        for number, (words, labels) in enumerate(sentences)
    ]


def _blocks(location: str, comment: str | None = None) -> Iterator[list[ColumnRow]]:
    """The blocks of rows between empty lines."""
    rows: list[ColumnRow] = []
    for number, line in enumerate(read_text(location).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            if rows:
                yield rows
            rows = []
        elif comment is None or not line.startswith(comment):
            cells = line.split("\t") if "\t" in line else line.split()
            rows.append((f"{location}:{number}", cells))
    if rows:
        yield rows


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


def _retagged(sentence: Sequence[tuple[str, str]], scheme: Scheme) -> LabelledSentence:
    words, given = zip(*sentence, strict=True)
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
        if not head.isdecimal() or int(head) > len(rows) or not re.fullmatch(r"\S+", relation):
            raise InputError(
                "the word has no valid head",
                where=where,
                got=(head, relation),
                expected=f"HEAD from 0 to {len(rows)}, and DEPREL",
            )
        words.append(cells[1])
        labels.append(f"{int(head)}:{relation}")
    return words, labels
