"""WOZ 2.0 dialogues (nmrksic/neural-belief-tracker), one example per turn, as decaNLP's woz.en.

    context   "food, price range -- north please"   what the system asked or confirmed, the user
    answer    "area: north, food: thai; phone"      slots informed; requested ("None": neither)

Slots come from `turn_label`, the annotation; decaNLP takes the difference of belief states, which
differs in 3 % of the turns. The group is the dialogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.readers.files import parse_json, read_text

WOZ_QUESTION = "What is the change in state?"


def read(location: str, options: Mapping[str, str]) -> list[Example]:
    dialogues = parse_json(read_text(location), location)
    examples = []
    try:
        for i, dialogue in enumerate(dialogues):
            for j, turn in enumerate(dialogue["dialogue"]):
                context, answer = _context(turn), _answer(turn["turn_label"])
                examples.append(Example(f"{i}_{j}", context, WOZ_QUESTION, (answer,), str(i)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            "not in WOZ's form",
            where=f"{location}: turn {len(examples)} of all",
            got=f"{type(error).__name__}: {error}",
            expected="[{dialogue: [{transcript, system_acts, turn_label}]}]",
        ) from None
    return examples


def _context(turn: Mapping[str, Any]) -> str:
    """The system's acts (a requested slot, or a [slot, value] to confirm) and the user's text."""
    acts = [act if isinstance(act, str) else ": ".join(act) for act in turn["system_acts"]]
    utterance = " ".join(turn["transcript"].split())
    return f"{', '.join(acts)} -- {utterance}" if acts else utterance


def _answer(labels: list[tuple[str, str]]) -> str:
    informed = ", ".join(f"{slot}: {value}" for slot, value in labels if slot != "request")
    requested = ", ".join(value for slot, value in labels if slot == "request")
    return f"{informed}; {requested}".strip() if labels else "None"
