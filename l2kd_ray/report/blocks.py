"""What a report is made of, before it is a page: the pages (HTML, Markdown) render these blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTING = -1
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Prose:
    """A paragraph in the two marks of Markdown that both pages know: **strong** and `code`."""

    words: str


@dataclass(frozen=True)
class Listing:
    """Text shown as it is: a command, a traceback."""

    text: str


@dataclass(frozen=True)
class Table:
    """A frame with display names as columns. Text columns are aligned left, numbers right."""

    name: str
    caption: str
    frame: pd.DataFrame
    digits: Mapping[str, int] = field(default_factory=dict)
    """Decimals of a column of floats (1 where not given)."""
    strong: frozenset[tuple[int, str]] = frozenset()
    """Cells (row number, column) set in bold; the caption says what bold means."""
    codes: frozenset[str] = frozenset()
    """Columns of keys: monospaced, cut short on the page, whole when copied."""

    def cells(self) -> list[list[str]]:
        """The texts of the cells, row by row."""
        columns = [
            [text(value, self.digits.get(name, 1)) for value in self.frame[name].tolist()]
            for name in self.frame.columns
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def is_number(self, column: str) -> bool:
        return bool(pd.api.types.is_numeric_dtype(self.frame[column]))


@dataclass(frozen=True)
class Picture:
    """A drawn figure; `alt` says in words what it shows."""

    name: str
    alt: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Fold:
    """Blocks that the page shows when asked."""

    summary: str
    blocks: tuple[Block, ...]


Block = Prose | Listing | Table | Picture | Fold


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A whole report. `facts` are (value, what it is); `notices` what a reader must know first."""

    title: str
    subtitle: str
    headline: str
    facts: tuple[tuple[str, str], ...]
    notices: tuple[str, ...]
    sections: tuple[Section, ...]

    def pictures(self) -> list[Picture]:
        return [block for section in self.sections for block in _walk(section.blocks, Picture)]


def _walk(blocks: tuple[Block, ...], kind: type[Picture]) -> list[Picture]:
    found = []
    for block in blocks:
        if isinstance(block, kind):
            found.append(block)
        elif isinstance(block, Fold):
            found += _walk(block.blocks, kind)
    return found


def text(value: object, digits: int = 1) -> str:
    """A value as a cell shows it: a dash for nothing, a true minus sign, thousands set apart.

    `digits` are decimals of a float; `SETTING` stands for four significant ones.
    """
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        shown = f"{value:.4g}" if digits == SETTING else f"{value:,.{digits}f}"
        if float(shown.replace(",", "")) == 0:
            shown = shown.removeprefix("-")
        return shown.replace("-", "\N{MINUS SIGN}")
    return str(value)
