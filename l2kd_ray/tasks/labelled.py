"""Labelled tasks as a classifier reads them: one text or two, and a label or a number.

An example's `context` is the text, or the first of two. Its `question` is the second one if the
task's kind is `pair`, or `regress` with a question that is not empty. `answers` holds the label's
text, or the number's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.spec import TaskKind


def texts(example: Example, kind: TaskKind) -> tuple[str, ...]:
    """The texts to be labelled: one or two."""
    two = kind == "pair" or (kind == "regress" and example.question != "")
    return (example.context, example.question) if two else (example.context,)


def labels(examples: Iterable[Example]) -> tuple[str, ...]:
    """The labels that occur, sorted: the classes of a head."""
    return tuple(sorted({example.answers[0] for example in examples}))


def number(text: str) -> float | None:
    """The finite number that a text spells; None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def check(kind: TaskKind, examples: Sequence[Example], task: str, where: str) -> None:
    """Check that examples fit their task's kind. Raises: InputError."""
    if kind == "pair" and len(examples) > 1 and len({e.question for e in examples}) == 1:
        raise InputError(
            "a task of kind pair has the same second text in every row",
            where=where,
            key=f"tasks.{task}",
            got=examples[0].question,
            expected="a second text in every row",
            fix="name its column: columns: {question: ...}",
        )
    if kind == "regress":
        for example in examples:
            if number(example.answers[0]) is None:
                raise InputError(
                    f"the answer of example {example.id} is not a number",
                    where=where,
                    key=f"tasks.{task}",
                    got=example.answers[0],
                    expected="a finite number, as the task's kind is regress",
                )
