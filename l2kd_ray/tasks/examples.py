"""The common form of all tasks' data: (context, question, answers) items of text.

A reader yields `Row`s: an `Example`, a `LeftOut` for a row that becomes none, and a `Converted`
before an example of which a value is not taken as it stands in the data. `RowCounts` counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """An item of a task; `id` is unique within its split."""

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    """One or more references; training uses the first, metrics compare with all."""
    group: str | None = None
    """Identifies examples that belong together (a dialogue's turns), for metrics over groups.
    """


@dataclass(frozen=True)
class LeftOut:
    """A row of the data that is left out: where it is, and a short reason, fit to be counted."""

    where: str
    why: str


@dataclass(frozen=True)
class Converted:
    """A value that is not taken as it stands: where it is, and a short name of the change."""

    where: str
    what: str


Row = Example | LeftOut | Converted


@dataclass(frozen=True)
class Tally:
    """A number of rows, and where the first of them is."""

    count: int
    first: str


@dataclass(frozen=True)
class RowCounts:
    """Counts of the rows of a source, before any carving or capping."""

    kept: int = 0
    """Number of examples."""
    left_out: Mapping[str, Tally] = field(default_factory=dict)
    """Rows that are no examples, by reason, such as "no answer"."""
    converted: Mapping[str, Tally] = field(default_factory=dict)
    """Values not taken as they stand, by the change, such as "label by number"."""

    @property
    def rows(self) -> int:
        """Number of rows read."""
        return self.kept + sum(tally.count for tally in self.left_out.values())
