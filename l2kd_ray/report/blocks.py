"""The blocks of a report, which the HTML page and the Markdown file render."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from l2kd_ray.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTING, PROBABILITY = -1, -2
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Prose:
    """A paragraph in the two marks of Markdown that both pages know: **strong** and `code`."""

    words: str


@dataclass(frozen=True)
class Verbatim:
    """Text shown as it is: a command, a traceback."""

    text: str


@dataclass(frozen=True)
class Measured:
    """A number with its interval, as one cell that sorts by the number; NaN is undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def bounded(self) -> bool:
        return not math.isnan(self.low)


def measured(
    frame: pd.DataFrame, value: str, low: str, high: str, scale: float = 1.0
) -> pd.Series[Any]:
    """Three columns of a frame as one column of cells, numbered from 0."""
    numbers = scale * frame[[value, low, high]].to_numpy(dtype=float)
    return pd.Series([Measured(*row) for row in numbers.tolist()], dtype=object)


@dataclass(frozen=True)
class Table:
    """A frame with display names as columns. Text columns are aligned left, numbers right."""

    name: str
    caption: str
    frame: pd.DataFrame
    digits: Mapping[str, int] = field(default_factory=dict)
    """Decimals of columns of floats; 1 where not given (`digits_of`)."""
    strong: frozenset[tuple[int, str]] = frozenset()
    """Cells (row number, column) set in bold; the caption says what bold means."""
    codes: frozenset[str] = frozenset()
    """Columns of keys: monospaced, cut short on the page, whole when copied."""
    wrapped: frozenset[str] = frozenset()
    """Columns of sentences, which the page breaks into lines."""

    def rows(self) -> list[list[tuple[str, object]]]:
        """Column and value of each cell, row by row."""
        rows = self.frame.itertuples(index=False, name=None)
        return [list(zip(self.frame.columns, row, strict=True)) for row in rows]

    def digits_of(self, column: str) -> int:
        return self.digits.get(column, 1)

    def is_number(self, column: str) -> bool:
        values = self.frame[column]
        cells = len(values) > 0 and all(isinstance(value, Measured) for value in values)
        return cells or bool(pd.api.types.is_numeric_dtype(values))


@dataclass(frozen=True)
class Picture:
    """A drawn figure; `alt` says in words what it shows."""

    name: str
    alt: str
    caption: str
    figure: Figure

    def save(self, path: str | Path) -> None:
        """Write it to a file in the format of its suffix: .pdf, .svg, .png (200 dpi) ..."""
        form = Path(path).suffix.removeprefix(".")
        Path(path).write_bytes(style.drawn(self.figure, form, self.name))

    def _repr_svg_(self) -> str:
        """The picture in a notebook."""
        return style.drawn(self.figure, "svg", self.name).decode()


@dataclass(frozen=True)
class Fold:
    """Blocks that the page shows when asked."""

    summary: str
    blocks: tuple[Block, ...]


_MOST_OPEN = 12
"""Rows of a table that is shown without being asked for."""


def folded(table: Table, summary: str) -> Table | Fold:
    """The table itself, or a fold with it if it is long."""
    return table if len(table.frame) <= _MOST_OPEN else Fold(summary, (table,))


Block = Prose | Verbatim | Table | Picture | Fold


@dataclass(frozen=True)
class ReportSection:
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
    sections: tuple[ReportSection, ...]
    doubts: tuple[str, ...] = ()
    """Reasons to doubt the headline, which stand above it."""

    def pictures(self) -> list[Picture]:
        return [block for section in self.sections for block in _pictures(section.blocks)]


def _pictures(blocks: tuple[Block, ...]) -> list[Picture]:
    found = []
    for block in blocks:
        if isinstance(block, Picture):
            found.append(block)
        elif isinstance(block, Fold):
            found += _pictures(block.blocks)
    return found


def text(value: object, digits: int = 1) -> str:
    """A value as a cell shows it: a dash for nothing, a true minus sign, thousands set apart.

    `digits` are decimals of a float; `SETTING` stands for four significant ones, `PROBABILITY` for
    three decimals of a p-value, which is never shown as 0.
    """
    if isinstance(value, Measured):
        shown = text(value.value, digits)
        return f"{shown} ({between(value, digits)})" if value.bounded else shown
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if isinstance(value, float):
        return _number(value, digits)
    return str(value)


def between(cell: Measured, digits: int = 1) -> str:
    """`2.4 to 3.8`, or a dash."""
    if not cell.bounded:
        return NOTHING
    return f"{text(cell.low, digits)} to {text(cell.high, digits)}"


def signed(value: float, digits: int = 1) -> str:
    """`+1.2`, of a difference."""
    shown = text(value, digits)
    return f"+{shown}" if value > 0 and shown.strip("0.") else shown


def _number(value: float, digits: int) -> str:
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else f"{MINUS}\N{INFINITY}"
    if digits == PROBABILITY:
        return "<0.001" if value < 0.0005 else f"{value:.3f}"
    shown = f"{value:.4g}" if digits == SETTING else f"{value:,.{digits}f}"
    if float(shown.replace(",", "")) == 0:
        shown = shown.removeprefix("-")
    return shown.replace("-", MINUS)
