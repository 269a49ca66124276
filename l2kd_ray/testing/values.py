"""Other valid values of a section's field, for tests that change one setting at a time."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError


def others(section: BaseModel, field: str) -> Iterator[Any]:
    """Yield usual values that the section accepts for `field`, without the present one."""
    model, value = type(section), getattr(section, field)
    given = {name: getattr(section, name) for name in section.model_fields_set}
    for candidate in _candidates(model.model_fields[field].annotation, value):
        try:
            changed = model.model_validate({**given, field: candidate})
        except ValidationError:
            continue
        if getattr(changed, field) != value:
            yield candidate


def _candidates(annotation: Any, value: object) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value * 2, value / 2, value - 1, 0)
    for leaf in _leaves(annotation):
        if typing.get_origin(leaf) is typing.Literal:
            yield from typing.get_args(leaf)
        elif leaf is bool:
            yield from (True, False)
        elif leaf is int:
            yield from (1, 2, 8, 64)
        elif leaf is float:
            yield from (0.5, 0.25, 2.0)
        elif isinstance(leaf, type) and issubclass(leaf, BaseModel):
            yield {}
        elif typing.get_origin(leaf) is tuple:
            inner = next(iter(typing.get_args(leaf)), None)
            yield from ((one,) for one in _candidates(inner, None))
    yield None


def _leaves(annotation: Any) -> Iterator[Any]:
    """The members of a union, without the metadata of `Annotated`."""
    if typing.get_origin(annotation) is typing.Annotated:
        yield from _leaves(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Literal, tuple) or not typing.get_args(
        annotation
    ):
        yield annotation
    else:
        for inner in typing.get_args(annotation):
            yield from _leaves(inner)
