"""What is known of a named task beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from l2kd_ray.tasks.spec import Format, Split, TaskKind

Files = Mapping[Split, str]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class Entry:
    """A named task."""

    kind: TaskKind
    metric: str
    description: str
    files: tuple[tuple[Format, Files], ...] = ()
    """Sets of files, the first that is found is read; a set needs its train and test files."""
    hub: str | None = None
    config: str | None = None
    splits: Mapping[Split, str] = field(default_factory=dict)
    """The hub's names of the splits, where they are not as usual; it has no others then."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of the hub's table, by role."""
    file_columns: Mapping[str, str] = field(default_factory=dict)
    """Of upstream's own tables, by role."""
    labels: tuple[str, ...] = ()
    question: str | None = None
    """For rows that bring none."""
    extras: tuple[str, ...] = ()
    """Scores beside the metric."""
    leaks: bool = False
    """Whether inputs of the test split are known to occur in training."""


def squad(name: str) -> tuple[Format, Files]:
    return "squad", {split: f"{name}_to_squad-{split}-v2.0.json" for split in SPLITS}


def jsonl(folder: str) -> tuple[Format, Files]:
    return "jsonl", {split: f"{folder}/{split}.jsonl" for split in SPLITS}
