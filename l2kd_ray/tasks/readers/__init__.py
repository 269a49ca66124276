"""Readers of upstream data, one per format: `READERS[name].read(location, options)`.

A reader's only inputs are a location and options; its output is a function of the file's bytes and
the options. Its `version` is raised when that function changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from l2kd_ray.tasks import grammars, made, sentences
from l2kd_ray.tasks.examples import Row
from l2kd_ray.tasks.generated import reader as drawn
from l2kd_ray.tasks.readers import conll, hub, nlg, squad, superni, tables, wikisql, woz
from l2kd_ray.tasks.spec import ROLES, Format


@dataclass(frozen=True)
class Reader:
    """A function that reads examples, with its version and needs."""

    version: int
    read: Callable[[str, Mapping[str, str]], Iterable[Row]]
    """(location, options) -> rows in upstream order; a plug-in may return plain examples."""
    of_file: bool = True
    """True if the location is a file."""
    per_split: bool = False
    """True if the reader needs the split (the option `split`)."""
    columns: tuple[str, ...] = ()
    """The roles of columns that a task may name."""
    labels: bool = False
    """True if a task may give texts of its labels."""
    note: str = ""
    """Remark on the format for readers of its scores."""


READERS: Mapping[str, Reader] = {
    "squad": Reader(3, squad.read),
    "superni": Reader(1, superni.read),
    "jsonl": Reader(2, tables.read_jsonl, columns=ROLES, labels=True),
    "csv": Reader(2, tables.read_csv, columns=ROLES, labels=True),
    "rnnlg": Reader(1, nlg.read_rnnlg, per_split=True),
    "e2e": Reader(1, nlg.read_e2e, per_split=True),
    "woz": Reader(1, woz.read),
    "wikisql": Reader(1, wikisql.read, per_split=True, note=wikisql.NOTE),
    "conll": Reader(2, conll.read_conll, columns=("text", "label")),
    "conllu": Reader(2, conll.read_conllu),
    "text": Reader(2, conll.read_text_lines),
    "lines": Reader(1, tables.read_lines),
    "hub": Reader(2, hub.read, of_file=False, columns=ROLES, labels=True),
    "generated": Reader(1, drawn(grammars.draw), of_file=False, per_split=True),
    "made": Reader(1, drawn(made.draw), of_file=False, per_split=True),
    "sentences": Reader(1, drawn(sentences.draw), of_file=False, per_split=True),
}


def reader_of(name: Format) -> Reader:
    """A built-in reader, or a plug-in: (path, options) -> rows in upstream order.

    Raises: InputError if the plug-in cannot be imported.
    """
    if isinstance(name, str):
        return READERS[name]
    # The version of a plug-in is always 0: its source digest is part of its identity.
    return Reader(0, name.load(), columns=ROLES, labels=True)
