"""Sections of a study file: frozen, validated mappings that record which of their keys are read.

A setting that is set but never read is a mistake of the user (a typing error, a key of another
method). So while the stages of a study are built, `reading` records which fields are accessed;
`study.unread` then refuses the others.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

# The name of a task, a study or an arm: it becomes part of paths, columns and tokens.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80)]

# A context variable, so that threads and nested `reading` blocks do not mix their records.
_reads: ContextVar[set[tuple[int, str]] | None] = ContextVar("_reads", default=None)


class Section(BaseModel):
    """A frozen mapping of the study file.

    It refuses unknown keys, infinite and undefined numbers, and true or false where a number is
    expected (pydantic would read them as 1 and 0).
    """

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
                    raise ValueError(f"{name}: true and false are neither numbers nor names")
                if field is None and isinstance(item, float) and not math.isfinite(item):
                    raise ValueError(f"{name}: {item} is not a finite number")
        return value

    # Reads are recorded here and not declared by each method: a declaration could be wrong, while
    # a key that no built stage has accessed has no effect for certain.
    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        reads = _reads.get()
        if reads is not None and not name.startswith("_"):
            if name in type(self).model_fields:
                reads.add((id(self), name))  # by identity: equal sections may stand under two keys
            elif name == "model_extra":
                reads.update((id(self), extra) for extra in value or ())
        return value

    def keys_set(self) -> Iterator[tuple[str, Section, str]]:
        """Yield (dotted key, section, field) for each field that is set and holds no section."""
        for name in sorted(self.model_fields_set):
            value = self.__dict__.get(name, (self.model_extra or {}).get(name))
            if isinstance(value, Section):
                below = value.keys_set()
                yield from ((f"{name}.{key}", section, field) for key, section, field in below)
            else:
                yield name, self, name


@contextmanager
def reading() -> Iterator[set[tuple[int, str]]]:
    """A context that records every section field accessed within it, as (id of the section, field).

    If contexts are nested, the outer one also receives the records of the inner one.
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
    """The plain types that an annotation consists of; `object` if it allows any value."""
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
