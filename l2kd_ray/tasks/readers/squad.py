"""SQuAD-like JSON, the form of the original L2KD and LAMOL data, read and written.

    {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text"}]}]}]}]}

Several answers are references. An id such as `en_3_1` (decaNLP's WOZ: language, dialogue, turn)
puts the example into the group `en_3`, unless the item has a "group".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Example, Row
from l2kd_ray.tasks.readers.files import parse_json, read_text
from l2kd_ray.tasks.readers.values import no_answer

_FORM = '{"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}'
_TURN = re.compile(r"(.*_\d+)_\d+")


def read(location: str, options: Mapping[str, str]) -> Iterator[Row]:
    document = parse_json(read_text(location), location)
    number = 0
    for i, entry in enumerate(_list(document, "data", location)):
        for j, paragraph in enumerate(_list(entry, "paragraphs", f"{location}: data[{i}]")):
            where = f"{location}: data[{i}].paragraphs[{j}]"
            context = _text(paragraph, "context", where)
            for k, qa in enumerate(_list(paragraph, "qas", where)):
                yield from _rows(qa, context, number, f"{where}.qas[{k}]", options)
                number += 1


def looks_like(path: Path) -> bool:
    """Whether a .json file may be in this form: no list, and no JSON object a line."""
    text = read_text(path).lstrip(" \t\r\n")
    first, _, rest = text.partition("\n")
    if text.startswith("[") or not rest.strip():
        return not text.startswith("[")
    try:
        return not isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return True


def write(path: str | Path, examples: Iterable[Example]) -> None:
    """Write a file that `read` reads back as these examples (of one split: no id twice).

    Raises:
        ValueError: an example without an answer, or with an empty one, which `read` refuses.
    """
    paragraphs = []
    for example in examples:
        if not example.answers or not all(answer.strip() for answer in example.answers):
            raise ValueError(f"the example {example.id} has an empty answer: {example.answers}")
        qa = {
            "id": example.id,
            "question": example.question,
            "answers": [{"text": answer} for answer in example.answers],
            "group": example.group,
        }
        paragraphs.append({"context": example.context, "qas": [qa]})
    document = {"data": [{"title": "", "paragraphs": paragraphs}]}
    Path(path).write_bytes(json.dumps(document, ensure_ascii=False).encode())


def _rows(
    qa: Any, context: str, number: int, where: str, options: Mapping[str, str]
) -> Iterator[Row]:
    question = _text(qa, "question", where)
    answers = tuple(_text(answer, "text", where) for answer in _list(qa, "answers", where))
    if not any(answer.strip() for answer in answers):
        yield no_answer(where, answers, options)
        return
    if not all(answer.strip() for answer in answers):
        raise InputError("an answer is empty", where=where, key="answers", got=answers)
    found = qa.get("id", number)
    name = "" if found is None else str(found)
    turn = _TURN.fullmatch(name)
    group = qa.get("group", turn and turn.group(1))
    yield Example(name, context, question, answers, None if group is None else str(group))


def _list(value: Any, key: str, where: str) -> list[Any]:
    items = value.get(key) if isinstance(value, dict) else None
    if not isinstance(items, list):
        raise InputError(
            "not in the form of SQuAD", where=where, key=key, got=items, expected=_FORM
        )
    return items


def _text(value: Any, key: str, where: str) -> str:
    text = value.get(key) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise InputError("text is missing", where=where, key=key, got=text, expected=_FORM)
    return text
