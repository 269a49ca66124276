"""The `distil` files: a task's training rows with answers that a teacher decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.data import Source, TaskData
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.readers import READERS
from l2kd_ray.tasks.readers.files import digest


def find(file: Path, train: TaskData, gold: list[Example]) -> TaskData:
    """The rows of `train` in a file of answers.

    The file holds all training rows (as the original's do), or only those of `train`.

    Args:
        gold: all examples of `train`'s source, before any carving or capping.

    Raises:
        InputError: the file cannot be read, or does not match this training split row for row.
    """
    source = Source("squad", READERS["squad"].version, digest(file), location=str(file))
    decoded, chosen = source.read(), train.select(gold)
    if len(decoded) == len(chosen) < len(gold):  # written by the stage `decode`
        _check(file, decoded, chosen)
        return TaskData(train.task, "distil", source, None, None, None, rows=len(chosen))
    if len(decoded) != len(gold):
        raise InputError(
            "the teacher's answers do not belong to this training split",
            where=str(file),
            got=f"{len(decoded)} examples",
            expected=f"{len(gold)}, one for each of {train.source.location}"
            + (f", or the {len(chosen)} trained on" if len(chosen) < len(gold) else ""),
        )
    _check(file, decoded, gold)
    return replace(train, split="distil", source=source)


def _check(file: Path, decoded: Sequence[Example], gold: Sequence[Example]) -> None:
    """Refuse a file with other inputs, whose rows would be carved and capped differently."""
    for number, rows in enumerate(zip(decoded, gold, strict=True)):
        inputs, expected = [(row.context, row.question, row.group) for row in rows]
        if inputs != expected:
            raise InputError(
                "the teacher's answers do not belong to this training split",
                where=f"{file}: example {number}",
                got=inputs,
                expected=f"(context, question, group) = {expected}",
            )
