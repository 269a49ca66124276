"""Translation of a pydantic validation error into an InputError."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from l2kd_ray.errors import InputError, did_you_mean
from l2kd_ray.section import in_quotes

UNKNOWN_KEY = "unknown key"
_BRANCHES = {
    *("float", "int", "str", "RandomOrders", "SearchOrders", "CrossedSeeds"),
    *("Grid", "Range", "Workers"),
}


def refusal(
    error: ValidationError, model: type[BaseModel], where: str, key: str = ""
) -> InputError:
    """The most specific problem in `error`; `key` is the key of `model` in the study file.

    The key ends with a colon if it is not a section, such as `search:`.
    """
    problems = error.errors(include_url=False)
    # A validator of ours says most. Else, a union reports each branch; the deepest location, with
    # the fewest problems beside it, is the branch that the user meant.
    beside = Counter(one["loc"][:-1] for one in problems)
    first = max(
        problems,
        key=lambda one: (_cause(one) is not None, len(one["loc"]), -beside[one["loc"][:-1]]),
    )
    location, cause = _location(first["loc"]), _cause(first)
    parts = (key, *map(str, location), cause.key if cause else "")
    dotted = ".".join(part for part in parts if part).replace(":.", ": ")
    if cause is not None:
        return cause.replaced(where=where, key=dotted)
    if first["type"] == "extra_forbidden":
        keys = known_keys(model, location)
        return InputError(
            UNKNOWN_KEY,
            where=where,
            key=dotted,
            got=first["input"],
            expected=f"one of {', '.join(keys)}" if keys else "",
            fix=did_you_mean(location[-1], keys),
        )
    if first["type"] == "missing":
        return InputError("a key is missing", where=where, key=dotted)
    same = [one for one in problems if _location(one["loc"]) == location]
    messages = dict.fromkeys(_plain(one["msg"]) for one in same)
    got = None if isinstance(first["input"], dict) and not location else first["input"]
    if first["type"] == "value_error":  # a validator of a plug-in's options
        return InputError("; ".join(messages), where=where, key=dotted, got=got)
    quote = any(one["type"] in ("string_type", "literal_error") for one in same)
    quote &= got is None or isinstance(got, bool | int | float)
    return InputError(
        "not accepted",
        where=where,
        key=dotted,
        got=got,
        expected="; or ".join(messages),
        fix=f"for a text, quote it: {in_quotes(got)}" if quote else "",
    )


def _cause(problem: ErrorDetails) -> InputError | None:
    """The error that a validator raised, if it is one of ours."""
    cause = problem.get("ctx", {}).get("error")
    return cause if isinstance(cause, InputError) else None


def _plain(message: str) -> str:
    """A pydantic message in terms of YAML."""
    message = message.removeprefix("Value error, ").removeprefix("Input should be ")
    message = re.sub(r"a valid dictionary or instance of \w+", "a mapping", message)
    return message.replace("a valid tuple", "a list")


def known_keys(model: type[BaseModel], location: Sequence[object]) -> list[str]:
    """The valid keys in place of an unknown one."""
    found = [model]
    for part in location[:-1]:
        fields = [one.model_fields[str(part)] for one in found if str(part) in one.model_fields]
        found = [below for field in fields for below in sections_of(field)] if fields else found
    return [name for one in found for name in one.model_fields]


def sections_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The section classes that a field may hold."""
    kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _location(parts: Sequence[object]) -> list[object]:
    """A pydantic location without the names of union branches."""
    return [
        part
        for part in parts
        if not (isinstance(part, str) and ("[" in part or "(" in part or part in _BRANCHES))
    ]
