"""The data of a task: where they come from, and how a stage reads them.

These are hashable values: equal identity means equal examples. Fields whose metadata say `identity:
False` (locations, sizes) are not part of the identity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from l2kd_ray.errors import InputError
from l2kd_ray.tasks import draws
from l2kd_ray.tasks.examples import Converted, Example, LeftOut, Row, RowCounts, Tally
from l2kd_ray.tasks.readers import reader_of
from l2kd_ray.tasks.readers.files import check_unchanged, digest
from l2kd_ray.tasks.spec import Format, Metric, Part, Split, TaskKind
from l2kd_ray.tasks.summary import SplitSummary


@dataclass(frozen=True)
class Source:
    """An upstream file, a split of a hub dataset, or a generator."""

    reader: Format
    """A name of `READERS`, or a plug-in."""
    version: int
    """Version of the reader, raised when its output changes."""
    digest: str
    """sha256 of the file's bytes, the hub's commit, or sha256 of a generator's name."""
    options: tuple[tuple[str, str], ...] = ()
    """All other inputs of the reader (columns, labels, question, split ...), sorted."""
    location: str = field(default="", metadata={"identity": False}, compare=False)
    """The file's absolute path, or the hub id (which is also an option)."""

    def read(self) -> list[Example]:
        """All examples, in upstream order. Raises: InputError as `read_counted` does."""
        return self.read_counted()[0]

    def read_counted(self) -> tuple[list[Example], RowCounts]:
        """All examples, in upstream order, and the counts of the other rows.

        Raises:
            InputError: the data cannot be read, or are no longer those of `digest`.
        """
        reader = reader_of(self.reader)
        if reader.of_file:
            check_unchanged("file", self.location, digest(self.location), self.digest)
        return collect(reader.read(self.location, dict(self.options)), self.location)


@dataclass(frozen=True)
class TaskData:
    """One split of one task, as a stage reads it."""

    task: str
    split: Part
    source: Source
    carve: tuple[float, Literal["train", "dev"]] | None = None
    """(dev_fraction, side) if the dev split is made from train."""
    carve_seed: int | None = None
    """Seed of that draw; None if nothing is carved."""
    cap: int | None = None
    """Maximum number of examples; None if the split has no more anyway."""
    cap_seed: int | None = None
    """Seed of the draw of `cap` examples; None without a cap."""
    skip: int | None = None
    """Size of another cap: its examples are skipped, so that the two samples are disjoint."""
    rows: int = field(default=0, metadata={"identity": False}, compare=False)
    """Number of examples after carve and cap."""
    available: int = field(default=0, metadata={"identity": False}, compare=False)
    """Number of examples before the cap."""

    def examples(self) -> list[Example]:
        """The examples of the split, in upstream order.

        Raises:
            InputError: the data cannot be read, or are no longer those of the source's digest.
        """
        return self.select(self.source.read())

    def select(self, examples: list[Example]) -> list[Example]:
        """The examples of the source that belong to this split."""
        if self.carve is not None:
            fraction, side = self.carve
            examples = draws.carve(
                examples,
                dev_fraction=fraction,
                side=side,
                data_seed=self.carve_seed or 0,
                task=self.task,
            )
        if self.cap is not None:
            examples = draws.cap(
                examples,
                self.cap,
                data_seed=self.cap_seed or 0,
                task=self.task,
                skip=self.skip or 0,
            )
        return examples

    def drawn(self, seed: int, cap: int | None = None) -> TaskData:
        """The same split with the sample that `seed` draws; all examples if there is no cap.

        `cap`: another size of the sample, at most `available`.
        """
        size = cap or self.cap
        if size is None:
            return self
        if size >= self.available:
            return replace(self, cap=None, cap_seed=None, rows=self.available)
        return replace(self, cap=size, cap_seed=seed, rows=size)


@dataclass(frozen=True)
class Task:
    """A task with its three splits, and `distil` if the study names such a file."""

    name: str
    kind: TaskKind
    metric: Metric
    splits: Mapping[Part, TaskData]
    extras: tuple[Metric, ...] = ()
    """Further scores of an evaluation."""
    seen: TaskData | None = None
    """All training data, also what is carved off or capped away, if test inputs occur in it.

    Evaluations then also score the test examples that are not in it (leak-free).
    """
    summaries: Mapping[Split, SplitSummary] = field(
        default_factory=dict, metadata={"identity": False}, compare=False
    )
    """Counts of the examples of each split."""
    remarks: tuple[str, ...] = field(default=(), metadata={"identity": False}, compare=False)
    """Sentences about how the splits came about."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the data for readers of its scores."""
        notes = (reader_of(data.source.reader).note for data in self.splits.values())
        return tuple(dict.fromkeys(note for note in notes if note))


def collect(rows: Iterable[Row], where: str) -> tuple[list[Example], RowCounts]:
    """The examples among a reader's rows, and the counts of the others.

    An id that is repeated gets "#2" and so on: the original's files repeat some. An empty id
    becomes the example's number.

    Raises:
        InputError: there are no examples, or a text is not valid Unicode.
    """
    examples: list[Example] = []
    left_out: dict[str, Tally] = {}
    converted: dict[str, Tally] = {}
    seen: set[str] = set()
    times: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, LeftOut):
            _count(left_out, row.why, row.where)
        elif isinstance(row, Converted):
            _count(converted, row.what, row.where)
        else:
            place = f"{where}: example {len(examples)}"
            if not row.id.strip():
                _count(converted, "empty id", place)
                row = replace(row, id=str(len(examples)))
            identity = row.id
            while identity in seen:
                times[row.id] += 1
                identity = f"{row.id}#{times[row.id] + 1}"
            seen.add(identity)
            if identity != row.id:
                _count(converted, "repeated id", place)
                row = replace(row, id=identity)
            for text in (row.id, row.context, row.question, row.group or "", *row.answers):
                if not _is_unicode(text):
                    raise InputError(
                        f"the example {row.id!r} is no valid Unicode text", where=where, got=text
                    )
            examples.append(row)
    if not examples:
        raise InputError(
            "it contains no examples",
            where=where,
            got="; ".join(f"{t.count} rows left out: {why}" for why, t in left_out.items()) or None,
            expected="at least one example",
        )
    return examples, RowCounts(len(examples), left_out, converted)


def _count(tallies: dict[str, Tally], name: str, where: str) -> None:
    before = tallies.get(name, Tally(0, where))
    tallies[name] = replace(before, count=before.count + 1)


def _is_unicode(text: str) -> bool:
    """True if `text` can be encoded: JSON's escapes can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
