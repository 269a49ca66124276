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


def find(file: Path, samples: Sequence[TaskData], gold: list[Example]) -> TaskData:
    """The training rows in a file of answers.

    The file holds all training rows (as the original's do), or those of the only sample.

    Args:
        samples: the training split, as each seed draws it.
        gold: all examples of its source, before any carving or capping.

    Raises:
        InputError: the file cannot be read, or does not match this training split row for row.
    """
    source = Source("squad", READERS["squad"].version, digest(file), location=str(file))
    train, decoded = samples[0], source.read()
    chosen = train.select(gold)
    if len(decoded) == len(chosen) < len(gold):  # written by the stage `decode`
        if len(samples) > 1:
            raise InputError(
                "the teacher's answers are of one sample, and each seed draws its own",
                where=str(file),
                got=f"{len(decoded)} examples, and {len(samples)} seeds",
                expected=f"{len(gold)}, one for each of {train.source.location}",
                fix="answer the whole training file, or write seeds: {train: [...], data: N}",
            )
        _check(file, decoded, chosen)
        return TaskData(train.task, "distil", source, rows=len(chosen))
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
