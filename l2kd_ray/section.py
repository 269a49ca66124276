"""Sections of a study file: frozen, checked mappings that note which of their keys are read.

A setting that is set and that nobody reads is a mistake of the user's (a typing error, a key of
another method), so while the stages of a study are built, `reading` notes which fields are looked
at; `study.unread` then refuses the rest.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

# One name of a task, of a study, of an arm: it becomes part of paths, columns and tokens.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80)]

_reads: ContextVar[set[tuple[int, str]] | None] = ContextVar("_reads", default=None)


class Section(BaseModel):
    """A frozen mapping of the study file. Unknown keys, infinite and undefined numbers are refused,
    and so is true or false where a number is meant (pydantic takes them for 1 and 0)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: object) -> object:
        if isinstance(value, Mapping):
            for name, item in value.items():
                field = cls.model_fields.get(str(name))
                kinds = _leaves(field.annotation) if field is not None else {object}
                if not kinds & {bool, object} and _holds_a_bool(item):
                    raise ValueError(f"{name}: true and false are no numbers and no names")
                if field is None and isinstance(item, float) and not math.isfinite(item):
                    raise ValueError(f"{name}: {item} is no finite number")
        return value

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        reads = _reads.get()
        if reads is not None and not name.startswith("_"):
            if name in type(self).model_fields:
                reads.add((id(self), name))
            elif name == "model_extra":
                reads.update((id(self), extra) for extra in value or ())
        return value

    def keys_set(self) -> Iterator[tuple[str, Section, str]]:
        """(dotted key, section, field) of every field that is set here and holds no section."""
        for name in sorted(self.model_fields_set):
            value = self.__dict__.get(name, (self.model_extra or {}).get(name))
            if isinstance(value, Section):
                below = value.keys_set()
                yield from ((f"{name}.{key}", section, field) for key, section, field in below)
            else:
                yield name, self, name


@contextmanager
def reading() -> Iterator[set[tuple[int, str]]]:
    """Within, every field of a section that is looked at is noted: (id of the section, field).

    Where one stands within another, the outer one has what the inner one has.
    """
    reads: set[tuple[int, str]] = set()
    token = _reads.set(reads)
    try:
        yield reads
    finally:
        _reads.reset(token)
        if (outer := _reads.get()) is not None:
            outer |= reads


def _leaves(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of; `object` where anything goes."""
    if annotation is Any:
        return {object}
    inside = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return {type(choice) for choice in inside}
    return set().union(*map(_leaves, inside)) if inside else {annotation}


def _holds_a_bool(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_a_bool, value))
    return isinstance(value, bool)
