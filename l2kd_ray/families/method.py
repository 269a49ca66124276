"""A method: one step of learning, and the options it reads beside its family's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from l2kd_ray.section import Section

Order = tuple[str, ...]
Step = Callable[..., Any]
"""step(build, previous, former, task, seed) -> stage.

`previous`, the student after the tasks `former` (the initial model if there are none), learns
`task`. `build` makes the stages; `build.options` are the method's own options. A step never calls
itself for the earlier tasks: the builder does that, so that a copied method is complete."""


@dataclass(frozen=True)
class Method:
    """How a student of one family learns one more task."""

    step: Step
    name: str
    family: str = "language"
    options: type[Section] | None = None
    """The section of options that only this method reads; `key` is its key in the study file."""
    key: str = ""
    orderless: bool = False
    """True if the order of tasks does not matter: one step per task, or one for all tasks."""
    teacher: Callable[..., Any] | None = None
    """(build, task, seed) -> the model that teaches a task, or None: the report shows its score
    beside the student's."""
    check: Callable[[Any], None] | None = None
    """(build) -> None: raises InputError for settings, tasks or models that the method cannot
    use."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the method's paper that are searched most, by dotted name."""
    code: str | None = None
    """Digest of a plug-in method's source, which is part of its students' keys; else None."""

    @property
    def section(self) -> str:
        """The key of the method's options in the study file."""
        return self.key or self.name


def method(
    name: str = "",
    *,
    family: str = "language",
    options: type[Section] | None = None,
    key: str = "",
    orderless: bool = False,
    teacher: Callable[..., Any] | None = None,
    check: Callable[[Any], None] | None = None,
    published: Mapping[str, Any] | None = None,
) -> Callable[[Step], Method]:
    """A decorator that turns a step into a method, by default with the function's name."""

    def made(step: Step) -> Method:
        called = name or step.__name__
        own = published or {}
        return Method(step, called, family, options, key, orderless, teacher, check, own)

    return made


def by_name(*methods: Method) -> Mapping[str, Method]:
    return {one.name: one for one in methods}
