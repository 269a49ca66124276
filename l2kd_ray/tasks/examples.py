"""The common form of all tasks' data: (context, question, answers) items of text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """An item of a task; `id` is unique within its split."""

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    """One or more references; training uses the first, metrics compare with all."""
    group: str | None = None
    """Identifies examples that belong together (a dialogue's turns), for metrics over groups.
    """
