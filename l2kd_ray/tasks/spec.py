"""The section of a study that describes a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from l2kd_ray.door import Plugin
from l2kd_ray.errors import InputError
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
Role = Literal["context", "question", "answer", "text", "label", "id", "group"]
"""The part of an example that a column holds."""
ROLES: tuple[Role, ...] = get_args(Role)
Metric = str | Plugin
"""The scoring of answers: the name of a built-in metric, or a plug-in."""


def _distinct(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse labels that would make two numbers one, or a number mean two labels."""
    for number, label in enumerate(labels):
        if not label.strip():
            raise InputError(f"the text of label {number} is blank")
        if label in labels[:number]:
            raise InputError(f"two labels have the text {label!r}")
        if label.lstrip("-").isdigit() and int(label) != number:
            raise InputError(
                f"{label!r} stands for label {number}, as labels are counted from 0, and "
                "is a number itself; leave `labels` out to take the data's numbers as they are"
            )
    return labels


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
    columns: Mapping[Role, str] = Field(default_factory=dict)
    labels: Annotated[tuple[TextOrNumber, ...], AfterValidator(_distinct)] = ()
    """Texts of integer labels, by number."""
    unanswered: Literal["leave out"] | None = None
    """`leave out`: rows without an answer are left out and counted (default: refused)."""
    quoting: Literal["csv", "none"] | None = None
    """Whether quotes mark the cells of a table (default: in .csv, not in .tsv)."""
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
