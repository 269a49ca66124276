"""Labelled tasks as a classifier reads them: a text or two, and a label or a number.

An example's `context` is the text, or the first of two; its `question` is the second one where the
task's kind is `pair`, or `regress` and the question is not empty. `answers` holds the label's
text, or the number's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.spec import TaskKind


def texts(example: Example, kind: TaskKind) -> tuple[str, ...]:
    """What is to be labelled: one text or two."""
    two = kind == "pair" or (kind == "regress" and example.question != "")
    return (example.context, example.question) if two else (example.context,)


def labels(examples: Iterable[Example]) -> tuple[str, ...]:
    """The labels that occur, in order: the classes of a head."""
    return tuple(sorted({example.answers[0] for example in examples}))


def number(text: str) -> float | None:
    """The finite number that a text is."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def check(kind: TaskKind, examples: Sequence[Example], task: str, where: str) -> None:
    """Raises: InputError where the examples are not of their task's kind."""
    if kind == "pair" and len(examples) > 1 and len({e.question for e in examples}) == 1:
        raise InputError(
            "a task of pairs has one and the same second text everywhere",
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
                    f"the answer of example {example.id} is no number",
                    where=where,
                    key=f"tasks.{task}",
                    got=example.answers[0],
                    expected="a finite number, as the task's kind is regress",
                )
