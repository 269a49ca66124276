"""The section of a study that describes a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from l2kd_ray.door import Plugin
from l2kd_ray.section import FilePath, Name, Section, TextOrNumber, by_name

TaskKind = Literal["text-to-text", "classify", "pair", "regress", "tag", "parse"]
"""The kind of a task.

`pair`: the label of two texts; `regress`: the number of a text, or of a pair; `tag` and `parse`: a
label for each word.
"""
Format = str | Plugin
"""The format of a file: the name of a built-in reader, or a plug-in."""
Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Part = Split | Literal["distil"]
"""A split, or the training split with a teacher's answers."""
Metric = str | Plugin
"""The scoring of answers: the name of a built-in metric, or a plug-in."""


class TaskSpec(Section):
    """A task of the study: a name of the registry, the user's own files, or a hub dataset."""

    name: Name
    kind: TaskKind | None = None
    train: FilePath | None = None
    dev: FilePath | None = None
    test: FilePath | None = None
    distil: FilePath | None = None
    """The training split with answers that a teacher decoded: SQuAD-like JSON, row by row."""
    format: str | None = None
    hub: str | None = Field(None, pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$")
    config: str | None = None
    revision: str | None = None
    splits: Mapping[Split, str] = Field(default_factory=dict)
    """The hub's names of the splits, if they differ from train, dev (validation) and test."""
    columns: Mapping[Literal["context", "question", "answer", "text", "label", "id"], str] = Field(
        default_factory=dict
    )
    labels: tuple[TextOrNumber, ...] = ()
    """Texts of integer labels, by number."""
    scheme: Literal["bioes", "iob2"] | None = None
    """The scheme that tags are converted to (default: bioes)."""
    question: str | None = None
    metric: str | None = None
    max_train: int | None = Field(None, ge=1)
    max_dev: int | None = Field(None, ge=1)
    max_test: int | None = Field(None, ge=1)
    dev_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of train that becomes dev if upstream has no dev split."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return by_name(value, "name")
