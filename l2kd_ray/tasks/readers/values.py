"""Values of cells: answers, and labels by text or number, alike in every format.

Text comes through unchanged, with the blanks around it. A number becomes its shortest spelling,
JSON's true and false become "true" and "false".
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import LeftOut

_WHOLE = re.compile(r"([+-]?\d+)(?:\.0*)?")
_TRUTH = {"true": 1, "false": 0}


def labels_of(options: Mapping[str, str]) -> list[str]:
    """The texts of the labels, by number, from the options `label.0`, `label.1` ..."""
    return [options[f"label.{n}"] for n in range(sum(key.startswith("label.") for key in options))]


def plain(value: Any, where: str) -> str | None:
    """The text of an answer; None where it is missing: null, blank, or not a number (NaN).

    Raises: InputError for any other value that is neither a text nor a finite number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return _spelled(value)
    if not isinstance(value, str):
        raise InputError(
            "an answer is neither text nor a finite number", where=where, got=value, expected="text"
        )
    return value if value.strip() else None


def label(text: str, labels: Sequence[str], where: str) -> tuple[str | None, str | None]:
    """The label that a text or number names, and the change that this makes, if any.

    1, "1", "1.0", " 1" and true name label 1. The number -1 is that of no label, as on the hub.

    Raises: InputError for a text that names none.
    """
    if text in labels:
        return text, None
    bare = text.strip()
    if bare in labels:
        return bare, "label in blanks"
    found = _WHOLE.fullmatch(bare)
    number = int(found[1]) if found else _TRUTH.get(bare.lower())
    if number == -1:
        return None, None
    if number is None or not 0 <= number < len(labels):
        raise InputError(
            "no such label",
            where=where,
            got=text,
            expected="one of " + ", ".join(f"{n} ({name})" for n, name in enumerate(labels)),
            fix="correct the row, or the task's key `labels`",
        )
    return labels[number], "label by number"


def no_answer(where: str, got: Any, options: Mapping[str, str]) -> LeftOut:
    """A row without an answer, if the task leaves them out. Raises: InputError if it does not."""
    if options.get("unanswered") == "leave out":
        return LeftOut(where, "no answer")
    raise InputError(
        "there is no answer",
        where=where,
        got=got,
        expected="an answer that is not empty",
        fix="to leave such rows out: the task's key `unanswered: leave out`",
    )


def _spelled(value: float) -> str:
    """The shortest of the spellings of 7 to 17 digits that gives the number back.

    A number of single precision (a column of the hub) need only be given back in that: 3.8.
    """
    single = _single(value) == value
    spellings = (f"{value:.{digits}g}" for digits in range(7, 18))
    return next(
        text
        for text in spellings
        if float(text) == value or (single and _single(float(text)) == value)
    )


def _single(value: float) -> float:
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:  # beyond the largest of them
        return math.inf
