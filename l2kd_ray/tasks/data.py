"""A task as the rest of the package sees it: where its data come from and how a stage reads them.

These are values that can be hashed: equal identity means equal examples. Fields whose metadata say
`identity: False` tell where something lies or how much of it there is, and identify nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from l2kd_ray.errors import InputError
from l2kd_ray.tasks import draws
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.readers import reader_of
from l2kd_ray.tasks.readers.files import digest
from l2kd_ray.tasks.spec import Format, Metric, Part, TaskKind


@dataclass(frozen=True)
class Source:
    """One upstream file, hub split or generator."""

    reader: Format
    """A name of `READERS`, or a reader from outside."""
    version: int
    """Of the reader: raised when its output changes."""
    digest: str
    """sha256 of the file's bytes, or the hub's commit, or sha256 of a generator's name."""
    options: tuple[tuple[str, str], ...] = ()
    """Whatever else the reader reads (columns, labels, question, split ...), sorted."""
    location: str = field(default="", metadata={"identity": False}, compare=False)
    """The file's absolute path, or the hub id (which is an option, too)."""

    def read(self) -> list[Example]:
        """Every example, in upstream order.

        Raises:
            InputError: the data cannot be read, or are no longer those of `digest`.
        """
        reader = reader_of(self.reader)
        if reader.of_file and (found := digest(self.location)) != self.digest:
            raise InputError(
                "the file has changed since the study was planned",
                where=self.location,
                got=f"sha256 {found[:12]}",
                expected=f"sha256 {self.digest[:12]}",
                fix="put the former file back, or start the study again with the new one",
            )
        return _checked(reader.read(self.location, dict(self.options)), self.location)


@dataclass(frozen=True)
class TaskData:
    """One split of one task, as a stage reads it."""

    task: str
    split: Part
    source: Source
    carve: tuple[float, Literal["train", "dev"]] | None
    """(dev_fraction, side) where the dev split is made from train."""
    cap: int | None
    """At most so many examples; None where there are no more anyway."""
    data_seed: int | None
    """None where nothing is drawn."""
    skip: int | None = None
    """The examples are those beside a cap of this size."""
    rows: int = field(default=0, metadata={"identity": False}, compare=False)
    """Number of examples after carve and cap."""

    def examples(self) -> list[Example]:
        """The examples of the split, in upstream order.

        Raises:
            InputError: the data cannot be read, or are no longer those of the source's digest.
        """
        return self.select(self.source.read())

    def select(self, examples: list[Example]) -> list[Example]:
        """The part of the source's examples that belongs to this split."""
        if self.data_seed is None:
            return examples
        if self.carve is not None:
            fraction, side = self.carve
            examples = draws.carve(
                examples,
                dev_fraction=fraction,
                side=side,
                data_seed=self.data_seed,
                task=self.task,
            )
        if self.cap is not None:
            examples = draws.cap(
                examples,
                self.cap,
                data_seed=self.data_seed,
                task=self.task,
                skip=self.skip or 0,
            )
        return examples


@dataclass(frozen=True)
class Task:
    """A task with its three splits, and `distil` where the study names that file."""

    name: str
    kind: TaskKind
    metric: Metric
    splits: Mapping[Part, TaskData]
    extras: tuple[Metric, ...] = ()
    """Scores of an evaluation beside the metric."""
    seen: TaskData | None = None
    """Everything trained on, carved off or capped away, where inputs of test are known to be in it:
    what they score without those is told apart (leak-free)."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the data when reading their scores."""
        notes = (reader_of(data.source.reader).note for data in self.splits.values())
        return tuple(dict.fromkeys(note for note in notes if note))


def _checked(examples: list[Example], where: str) -> list[Example]:
    """Refuse what no format may hold."""
    if not examples:
        raise InputError("no examples in it", where=where, expected="at least one example")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise InputError("two examples have this id", where=where, key="id", got=example.id)
        seen.add(example.id)
        for text in (example.id, example.context, example.question, *example.answers):
            if not _is_unicode(text):
                raise InputError(
                    f"the example {example.id} is no valid Unicode text", where=where, got=text
                )
    return examples


def _is_unicode(text: str) -> bool:
    """Whether `text` can be written: JSON's escapes can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
