"""The registry's description of a named task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from l2kd_ray.tasks.spec import Format, Split, TaskKind

Files = Mapping[Split, str]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class Entry:
    """The description of a named task."""

    kind: TaskKind
    metric: str
    description: str
    files: tuple[tuple[Format, Files], ...] = ()
    """Sets of files; the first one found is read. A set needs its train and test files."""
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


def squad(name: str) -> tuple[Format, Files]:
    return "squad", {split: f"{name}_to_squad-{split}-v2.0.json" for split in SPLITS}


def jsonl(folder: str) -> tuple[Format, Files]:
    return "jsonl", {split: f"{folder}/{split}.jsonl" for split in SPLITS}
