"""The named tasks, read from `registry.yaml`: descriptions, hub datasets, and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from l2kd_ray.tasks import packaged
from l2kd_ray.tasks.spec import SPLITS, Split, TaskKind


def by_split(path: Any) -> Any:
    """A path for each split where one path is given, with or without `{split}` in it."""
    return {s: path.format(split=s) for s in SPLITS} if isinstance(path, str) else path


Files = Annotated[Mapping[Split, str], BeforeValidator(by_split)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Entry:
    """The description of a named task."""

    kind: TaskKind
    metric: str
    description: str
    files: Mapping[str, Files] = field(default_factory=dict)
    """Sets of files by format; the first one found is read. A set needs its train and test files.
    """
    hub: str | None = None
    config: str | None = None
    splits: Mapping[Split, str] = field(default_factory=dict)
    """The hub's names of the splits if they are unusual; no other split is then read."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column names of the hub's table, by role."""
    file_columns: Mapping[str, str] = field(default_factory=dict)
    """Column names of upstream's own tables, by role."""
    labels: tuple[str, ...] = ()
    question: str | None = None
    """The question of rows that have none."""
    extras: tuple[str, ...] = ()
    """Further scores besides the metric."""
    leaks: bool = False
    """True if inputs of the test split are known to occur in training."""
    generator: Literal["generated", "made", "sentences"] | None = None
    """The reader that draws the examples of a generated task."""


@cache
def entries() -> Mapping[str, Entry]:
    """The named tasks by name; generated ones come last."""
    return packaged.read("registry.yaml", Entry)


@dataclass(frozen=True)
class Registered:
    """A named task, as `l2kd tasks` lists it."""

    name: str
    kind: TaskKind
    metric: str
    extras: tuple[str, ...]
    hub: str | None
    files: tuple[str, ...]
    """Paths tried below `data_dir`, or the file alone in `data_dir` itself."""
    description: str


def registered() -> dict[str, Registered]:
    """The named tasks by name; generated ones come last."""
    return {
        name: Registered(
            name,
            entry.kind,
            entry.metric,
            entry.extras,
            entry.hub,
            tuple(dict.fromkeys(path for set_ in entry.files.values() for path in set_.values())),
            entry.description,
        )
        for name, entry in entries().items()
    }


def family(name: str) -> tuple[str, ...]:
    """The tasks that share a vocabulary with a generated task: all grammars', or none.

    The other generated tasks have a vocabulary of their own.
    """
    grammars = tuple(task for task, entry in entries().items() if entry.generator == "generated")
    return grammars if name in grammars else ()
