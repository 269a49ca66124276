"""What every task is made of: (context, question, answers) items of text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One item of a task. `id` is unique within its split."""

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    """At least one; training uses the first, metrics take them all as references."""
    group: str | None = None
    """What belongs together, such as the dialogue of a turn, for metrics over groups."""
