"""Sections of a study file: frozen, validated mappings that record which of their keys are read.

A setting that is set but never read is a mistake of the user (a typing error, a key of another
method). So while the stages of a study are built, `reading` records which fields are accessed;
`study.unread` then refuses the others.
"""

from __future__ import annotations

import json
import math
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from l2kd_ray.errors import InputError

# The name of a task, a study or an arm: it becomes part of paths, columns and tokens.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80)]

# Paths and URLs

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))", re.ASCII)
_ONE_SLASH = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:/|(?:s3|gs|gcs|file):)(?!/)", re.IGNORECASE)


def expanded(text: str) -> str:
    """A path or URL with its home folder (`~`) and variables (`$NAME`, `${NAME}`) in place.

    `file:///a` becomes `/a`. Raises: InputError for a variable that is not set, and for what would
    silently become a folder of a strange name.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1] or match[2])
        if not found:
            raise InputError(
                f"the variable {match[1] or match[2]} is not set", got=text, fix="set it"
            )
        return found

    if not text or text != text.strip() or "\0" in text:
        raise InputError("a path is not empty, and has no blanks at its ends", got=text)
    path = os.path.expanduser(_VARIABLE.sub(value, text))
    if path.startswith("~"):
        raise InputError("no such user", got=text, fix="name a home folder, or write ./~...")
    if _ONE_SLASH.match(path):
        scheme, _, rest = path.partition(":")
        raise InputError(
            "a URL with fewer than two slashes after its scheme",
            got=text,
            fix=f"write {scheme}://{rest.lstrip('/')}, or ./{path} for a folder of that name",
        )
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path) if path.startswith("file:///") else ""
        if not path:
            raise InputError("a file URL has three slashes", got=text, expected="file:///a/folder")
    return path


def _file(value: object) -> object:
    if not isinstance(value, str):
        return value
    path = expanded(value)
    if "://" in path:
        raise InputError(
            "files are read from folders, and not from URLs", got=value, fix="copy it to a folder"
        )
    return path


def _location(value: object) -> object:
    return expanded(value) if isinstance(value, str) else value


FilePath = Annotated[Path, BeforeValidator(_file)]
"""A path of the user's, relative to the working directory or to the study file."""
Location = Annotated[str, BeforeValidator(_location)]
"""A path or URL, or a name that stands for something else."""
Command = Annotated[str, "a command"]
"""A command or URL: its variables, which may be secrets, are put in place where it is run."""
_EXPANDS = [typing.get_args(kind)[1] for kind in (FilePath, Location, Command)]
"""The marks of a field whose variables are put in place."""

# Texts


def in_quotes(value: object) -> str:
    """How a value that YAML does not read as a text is written to be one, such as '1.0'."""
    return f"'{json.dumps(value)}'"


def by_name(value: object, key: str) -> object:
    """A section given as one text, which stands for its `key`; other values are returned as they
    are.

    Raises: InputError for a number, boolean or null, which YAML makes of names such as 1e3.
    """
    if isinstance(value, str):
        return {key: value}
    if value is None or isinstance(value, bool | int | float):
        raise InputError("a name is a text", got=value, fix=f"quote it: {in_quotes(value)}")
    return value


def list_of_one(value: object) -> object:
    """One number or text as a list of it; other values are returned as they are."""
    return [value] if isinstance(value, int | str) else value


def digits_as_text(value: object) -> object:
    """A whole number as the text of its digits: in a study file it has no other form."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


TextOrNumber = Annotated[str, BeforeValidator(digits_as_text)]

_ALMOST_BOOLS = {"yes", "no", "on", "off", "y", "n"}
"""Texts in YAML 1.2 that YAML 1.1 reads as booleans."""
# A context variable, so that threads and nested `reading` blocks do not mix their records.
_reads: ContextVar[set[tuple[int, str]] | None] = ContextVar("_reads", default=None)


class Section(BaseModel):
    """A frozen mapping of the study file.

    It refuses unknown keys, infinite and undefined numbers, variables outside of paths and
    commands, and true or false where a number is expected (pydantic would read them as 1 and 0).
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _values_are_what_they_seem(cls, value: object) -> object:
        if isinstance(value, Mapping):
            for name, item in value.items():
                _check_value(str(name), item, cls.model_fields.get(str(name)))
        return value

    # Reads are recorded here and not declared by each method: a declaration could be wrong, while
    # a key that no built stage has accessed has no effect for certain.
    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        reads = _reads.get()
        if reads is not None and not name.startswith("_"):
            if name in type(self).__pydantic_fields__:
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


def _check_value(name: str, item: object, field: FieldInfo | None) -> None:
    """Raise InputError for a value that the field, or a key of no field, would misread."""
    kinds = {object} if field is None else _leaves(field.annotation)
    if not kinds & {bool, object} and _holds(item, lambda one: isinstance(one, bool)):
        raise InputError(
            "true and false are neither numbers nor names",
            key=name,
            got=item,
            fix="write a number, or quote it: 'true'",
        )
    if field is None and isinstance(item, float) and not math.isfinite(item):
        raise InputError("not a finite number", key=name, got=item)
    # A field of unknown type, such as one of a transformers config, would take the text `no` for
    # true.
    if field is None and isinstance(item, str) and item.lower() in _ALMOST_BOOLS:
        raise InputError("a text, in YAML 1.2", key=name, got=item, expected="true or false")
    expands = field and any(one in _EXPANDS for one in (*kinds, *field.metadata))
    if not expands and _holds(item, _names_a_variable):
        raise InputError(
            "variables are put in place in paths and commands alone",
            key=name,
            got=item,
            fix="write the value",
        )


def _leaves(annotation: Any) -> set[Any]:
    """The plain types that an annotation consists of; `object` if it allows any value."""
    if annotation is Any:
        return {object}
    inside = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return {type(choice) for choice in inside}
    return set().union(*map(_leaves, inside)) if inside else {annotation}


def _holds(value: object, test: Callable[[object], bool]) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds(item, test) for item in value)
    return test(value)


def _names_a_variable(value: object) -> bool:
    return isinstance(value, str) and "${" in value and _VARIABLE.search(value) is not None
