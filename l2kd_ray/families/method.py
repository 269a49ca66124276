"""A method: one step of learning, and what it reads beside its family's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from l2kd_ray.families.settings import Settings
from l2kd_ray.section import Section

Order = tuple[str, ...]
Step = Callable[..., Any]
"""step(build, previous, former, task, seed) -> stage: `previous`, the student after the tasks
`former` (the initial model before any), learns `task`. `build` makes the stages, and its `options`
are the method's own. The method names itself nowhere: the builder calls it task by task."""


@dataclass(frozen=True)
class Method:
    """How a student of one family learns one more task."""

    step: Step
    name: str
    family: str = "language"
    options: type[Section] | None = None
    """The section of the study file that it reads alone, under `key`."""
    key: str = ""
    orderless: bool = False
    """Whether it learns its tasks in no order: one step a task, or one for all of them."""
    teacher: Callable[..., Any] | None = None
    """(build, task, seed) -> the model that its student of a task learns from, where the report
    shows the teacher beside the student."""
    check: Callable[[Settings], None] | None = None
    """Raises: InputError for settings of the family that it cannot have."""
    code: str | None = None
    """The digest of its source, where it comes from outside: part of its students' keys."""

    @property
    def section(self) -> str:
        """The key of the study file under which its options stand."""
        return self.key or self.name


def method(
    name: str = "",
    *,
    family: str = "language",
    options: type[Section] | None = None,
    key: str = "",
    orderless: bool = False,
    teacher: Callable[..., Any] | None = None,
    check: Callable[[Settings], None] | None = None,
) -> Callable[[Step], Method]:
    """A decorator that makes a method of a step; its name is the function's where none is given."""

    def made(step: Step) -> Method:
        called = name or step.__name__
        return Method(step, called, family, options, key, orderless, teacher, check)

    return made


def by_name(*methods: Method) -> Mapping[str, Method]:
    return {one.name: one for one in methods}
