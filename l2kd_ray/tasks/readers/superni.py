"""Tasks of Super-NaturalInstructions (Wang et al. 2022), one JSON file a task.

    {"Definition": ["..."], "Instances": [{"id", "input", "output": "..." or [references]}]}

The question is the task's key `question`, else the definition, else it is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Converted, Example, Row
from l2kd_ray.tasks.readers.files import parse_json, read_text
from l2kd_ray.tasks.readers.values import no_answer

_FORM = '{"Definition": ["..."], "Instances": [{"id", "input", "output"}]}'


def read(location: str, options: Mapping[str, str]) -> Iterator[Row]:
    document = parse_json(read_text(location), location)
    if not isinstance(document, dict) or not isinstance(document.get("Instances"), list):
        raise InputError("not a task of SuperNI", where=location, expected=_FORM)
    definition = document.get("Definition", "")
    given = " ".join(definition) if isinstance(definition, list) else str(definition)
    question = options.get("question", given)
    for number, instance in enumerate(document["Instances"]):
        yield from _rows(instance, question, number, f"{location}: Instances[{number}]", options)


def _rows(
    instance: Any, question: str, number: int, where: str, options: Mapping[str, str]
) -> Iterator[Row]:
    fields = instance if isinstance(instance, dict) else {}
    text, output = fields.get("input"), fields.get("output")
    answers = tuple(output) if isinstance(output, list) else (output,)
    if not isinstance(text, str) or not all(isinstance(one, str) for one in answers):
        raise InputError("not an instance of SuperNI", where=where, got=instance, expected=_FORM)
    kept = tuple(one for one in answers if one.strip())
    if not kept:
        yield no_answer(where, output, options)
        return
    yield from [Converted(where, "empty reference")] * (len(answers) - len(kept))
    yield Example(str(fields.get("id", number)), text, question, kept)
