"""The generated tasks of small grammars (`grammars.yaml`), learned by a tiny student in minutes.

A seeded order of each kind of item, dealt out in turn, so that every split has items of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product, zip_longest
from string import Formatter

from l2kd_ray.tasks import packaged
from l2kd_ray.tasks.draws import shuffled
from l2kd_ray.tasks.generated import Dialogue, Drawn
from l2kd_ray.tasks.spec import Split

_SIZES: Mapping[Split, int] = {"train": 400, "dev": 50, "test": 100}
Values = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Form:
    """A context with places for values, and its right answers."""

    context: str
    answers: tuple[str, ...]
    """The value that the context names first determines which one is right."""

    def pairs(self, values: Values) -> Iterator[tuple[str, str]]:
        """(context, answer) for every combination of the values."""
        slots = [slot for _, slot, _, _ in Formatter().parse(self.context) if slot]
        for chosen in product(*(values[slot] for slot in slots)):
            filled = dict(zip(slots, chosen, strict=True))
            which = values[slots[0]].index(chosen[0]) % len(self.answers)
            yield self.context.format(**filled), self.answers[which].format(**filled)


@dataclass(frozen=True)
class Grammar:
    """The items of a generated task."""

    question: str
    values: Values
    kinds: tuple[tuple[Form, ...], ...] = ()
    """The forms of each kind of item; none: the items are `dialogues`."""

    def items(self) -> list[list[Dialogue]]:
        """Items by kind; no context occurs twice in a grammar."""
        if not self.kinds:
            return [list(dialogues(self.values, self.question))]
        return [
            [
                ((context, self.question, answer),)
                for form in kind
                for context, answer in form.pairs(self.values)
            ]
            for kind in self.kinds
        ]


@cache
def grammars() -> Mapping[str, Grammar]:
    """The grammars by the name of their task."""
    return packaged.read("grammars.yaml", Grammar)


def draw(task: str, data_seed: str) -> Drawn:
    """The sizes of a task's splits, and its items in a seeded order."""
    return _SIZES, _dealt(task, int(data_seed))


def _dealt(task: str, data_seed: int) -> Iterator[Dialogue]:
    """One item of each kind, then the next of each, until all are dealt."""
    kinds = [
        shuffled(
            kind, data_seed=data_seed, stream="generate", task=task, key=lambda item: item[0][0]
        )
        for kind in grammars()[task].items()
    ]
    for deal in zip_longest(*kinds):
        yield from (item for item in deal if item is not None)


def dialogues(values: Values, question: str) -> Iterator[Dialogue]:
    """Dialogues of three turns: which food, which area, which price, and some requests.

    There is one dialogue for each (person, day, area). Each context names the person, the day and a
    value that only one of their dialogues has, so that no two dialogues, and hence no two splits,
    share a context. Answers have the form of `metrics.parse_state`.
    """
    areas, days, foods, prices = (values[slot] for slot in ("area", "day", "food", "price"))
    for person, (i, day), (j, area) in product(values["person"], enumerate(days), enumerate(areas)):
        which = 2 * j + i
        food, price = foods[which % len(foods)], prices[which % len(prices)]
        request = ("", " phone", " menu")[which % 3]
        ending = f" and its{request}" if request else ""
        yield (
            (f"on {day} {person} would like {food} food", question, f"food: {food};"),
            (f"where -- {person} likes the {area} on {day}", question, f"area: {area};"),
            (
                f"the {area} on {day} -- {person} wants a {price} place{ending}",
                question,
                f"price: {price};{request}",
            ),
        )
