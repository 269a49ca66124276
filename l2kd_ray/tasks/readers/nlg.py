"""Data-to-text as released: RNNLG (shawnwun/RNNLG) and the E2E challenge (tuetschek/e2e-dataset).

Both hold several texts for one meaning. Training has one example per text; dev and test keep the
texts together as references. This is how the original L2KD files were made: RNNLG's second text is
the output of a handcrafted system, which they treat like the first.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.readers.files import (
    decode,
    lines,
    parse_json,
    read_bytes,
    read_text,
    unpack,
)
from l2kd_ray.tasks.readers.tables import table_rows

NLG_QUESTION = "what is the natural language form ?"
_E2E_FILES = {"train": "trainset.csv", "dev": "devset.csv", "test": "testset_w_refs.csv"}


def read_rnnlg(location: str, options: Mapping[str, str]) -> list[Example]:
    """A list of [act, text, text] after lines of comment."""
    # Comments become empty lines, so that an error still names the line of the file.
    kept = ("" if line.startswith("#") else line for _, line in lines(read_text(location)))
    rows = parse_json("\n".join(kept), location)
    if not isinstance(rows, list):
        raise InputError(
            "not in RNNLG's form", where=location, expected="a list of [act, text, ...]"
        )
    for number, row in enumerate(rows):
        strings = isinstance(row, list) and all(isinstance(cell, str) for cell in row)
        if not strings or len(row) < 2 or not all(cell.strip() for cell in row):
            raise InputError(
                "not in RNNLG's form",
                where=f"{location}: record {number}",
                got=row,
                expected="[act, text, ...], no text empty",
            )
    return _examples(((row[0], row[1:]) for row in rows), options["split"])


def read_e2e(location: str, options: Mapping[str, str]) -> list[Example]:
    """The released zip, or one of its CSV files (columns mr and ref)."""
    texts_of: dict[str, list[str]] = {}
    pairs = list(_e2e_pairs(location, options["split"]))
    if options["split"] == "train":
        return _examples(((meaning, [text]) for meaning, text in pairs), "train")
    for meaning, text in pairs:
        texts_of.setdefault(meaning, []).append(text)
    return _examples(texts_of.items(), options["split"])


def _examples(items: Iterable[tuple[str, list[str]]], split: str) -> list[Example]:
    unfolded = [
        (meaning, answers)
        for meaning, texts in items
        for answers in ([(text,) for text in texts] if split == "train" else [tuple(texts)])
    ]
    return [
        Example(str(number), meaning, NLG_QUESTION, answers)
        for number, (meaning, answers) in enumerate(unfolded)
    ]


def _e2e_pairs(location: str, split: str) -> Iterator[tuple[str, str]]:
    data = read_bytes(location)
    if zipfile.is_zipfile(io.BytesIO(data)):
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
        wanted = [name for name in names if name.rpartition("/")[2] == _E2E_FILES[split]]
        if not wanted:
            raise InputError(
                "the archive is not that of the E2E challenge",
                where=location,
                got=names,
                expected=_E2E_FILES[split],
            )
        data = unpack(data, location, wanted[0])
        location = f"{location}: {wanted[0]}"
    for where, row in table_rows(decode(data, location), location):
        meaning, text = row.get("mr"), row.get("ref")
        if not meaning or not text or not text.strip():
            raise InputError(
                "not in E2E's form",
                where=where,
                got=row,
                expected="the columns mr and ref, none empty",
            )
        yield meaning, text
