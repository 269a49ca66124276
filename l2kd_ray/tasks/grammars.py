"""The grammars of the generated tasks: about 200 words in all, one right answer per context.

An item (`Dialogue`) is a tuple of turns, each (context, answer); except in dialogue tasks it has
one turn. A grammar lists its items by kind, so that the kinds can be dealt out evenly.

The three data-to-text tasks share their acts, their question and some values, and word everything
differently: a model that learns the hotels last forgets how to describe restaurants. A value in the
input determines which of two wordings is right, so that the answer can be learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from l2kd_ray.tasks.metrics import DATA_TO_TEXT
from l2kd_ray.tasks.spec import TaskKind

Dialogue = tuple[tuple[str, str], ...]

_AREAS = ("north", "south", "east", "west", "center")
_PRICES = ("cheap", "moderate", "pricey", "fancy")
_FOODS = (
    "thai", "italian", "french", "indian", "chinese", "greek", "mexican", "turkish", "korean",
    "spanish",
)  # fmt: skip
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CITIES = ("paris", "rome", "london", "berlin")
_GOALS = ("madrid", "oslo", "dublin", "vienna")
_PEOPLE = ("anna", "tom", "maria", "john", "lisa", "paul")
_ROOMS = ("kitchen", "bedroom", "garden", "office", "hall")
_PLACES = (
    "blue moon", "golden fork", "red lion", "old mill", "green leaf", "royal spice", "lucky star",
    "silver spoon", "corner table", "little rose",
)  # fmt: skip


@dataclass(frozen=True)
class Grammar:
    """A generated task: its items, question and metric."""

    kind: TaskKind
    metric: str
    question: str
    description: str
    items: Callable[[], list[list[Dialogue]]]
    """Items by kind; no context occurs twice in a grammar."""
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Act:
    """A dialogue act over some slots, with its wordings.

    The first slot's value determines the wording.
    """

    name: str
    slots: tuple[str, ...]
    wordings: tuple[str, ...]

    def items(self, values: Mapping[str, Sequence[str]]) -> list[Dialogue]:
        return [
            self._item(chosen, values) for chosen in product(*(values[slot] for slot in self.slots))
        ]

    def _item(self, chosen: tuple[str, ...], values: Mapping[str, Sequence[str]]) -> Dialogue:
        filled = dict(zip(self.slots, chosen, strict=True))
        context = ";".join(f"{slot}={value}" for slot, value in filled.items())
        which = values[self.slots[0]].index(chosen[0]) % len(self.wordings)
        return ((f"{self.name}({context})", self.wordings[which].format(**filled)),)


def data_to_text(
    values: Mapping[str, Sequence[str]], *acts: Act
) -> Callable[[], list[list[Dialogue]]]:
    return lambda: [act.items(values) for act in acts]


_RESTAURANT = data_to_text(
    {"name": _PLACES, "food": _FOODS, "area": _AREAS, "price": _PRICES},
    Act("inform", ("area", "food", "name"), (
        "{name} serves {food} food in the {area} .",
        "in the {area} you can eat {food} food at {name} .",
    )),
    Act("inform", ("price", "food", "name"), (
        "{name} is a {price} {food} restaurant .",
        "for {price} {food} dishes try {name} .",
    )),
    Act("inform", ("price", "area", "name"), (
        "{name} is a {price} place to eat in the {area} .",
        "{name} has a {price} menu and is in the {area} .",
    )),
    Act("recommend", ("food", "area", "price", "name"), (
        "how about {name} ? it has {price} {food} food in the {area} .",
    )),
    Act("confirm", ("food", "area", "price"), (
        "so you want to eat {price} {food} food in the {area} ?",
    )),
    Act("no_match", ("food", "area", "price"), (
        "sorry , nobody cooks {price} {food} food in the {area} .",
    )),
)  # fmt: skip

_HOTEL = data_to_text(
    {
        "name": ("park view", "grand palace", "sunset lodge", "river house", "hill top",
                 "city gate", "ocean inn", "garden court"),
        "stars": _NUMBERS[:5],
        "area": _AREAS,
        "price": _PRICES,
    },
    Act("inform", ("area", "stars", "name"), (
        "guests of {name} sleep under {stars} stars , in the {area} part of town .",
        "the {area} part of town is home of {name} with its {stars} stars .",
    )),
    Act("inform", ("price", "stars", "name"), (
        "a night at {name} with {stars} stars is {price} .",
        "{name} asks a {price} rate for its {stars} stars .",
    )),
    Act("inform", ("price", "area", "name"), (
        "a {price} bed waits at {name} , {area} part of town .",
        "the {area} part of town has {price} rooms : {name} .",
    )),
    Act("recommend", ("stars", "area", "price", "name"), (
        "my tip is {name} with {stars} stars , {price} rooms , {area} part of town .",
    )),
    Act("confirm", ("stars", "area", "price"), (
        "shall i look for {stars} stars and a {price} bed , {area} part of town ?",
    )),
    Act("no_match", ("stars", "area", "price"), (
        "no {price} bed with {stars} stars is free , {area} part of town .",
    )),
)  # fmt: skip

_TV = data_to_text(
    {
        "name": ("apollo", "hera", "zeus", "atlas", "orion", "titan", "vega", "nova"),
        "size": ("small", "medium", "large", "huge", "giant"),
        "color": ("black", "white", "grey", "blue", "red"),
        "price": _PRICES,
    },
    Act("inform", ("color", "size", "name"), (
        "the {name} television comes with a {size} {color} screen .",
        "{color} and {size} is what the {name} television looks like .",
    )),
    Act("inform", ("price", "size", "name"), (
        "its {size} screen makes the {name} television {price} .",
        "buyers call the {size} {name} television {price} .",
    )),
    Act("inform", ("price", "color", "name"), (
        "you get the {name} television in {color} , which is {price} .",
        "the {color} {name} television sells at a {price} price .",
    )),
    Act("recommend", ("size", "color", "price", "name"), (
        "our best buy : {name} , a {size} {color} television , {price} too .",
    )),
    Act("confirm", ("size", "color", "price"), (
        "do you mean a {color} television , {size} and {price} ?",
    )),
    Act("no_match", ("size", "color", "price"), (
        "we sell no {price} television that is {size} and {color} .",
    )),
)  # fmt: skip


def _filled(answer: str, form: str, **values: Sequence[str]) -> list[Dialogue]:
    """Items of a form with every combination of its values; the answer may use them, too."""
    combinations = (dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))
    return [((form.format(**chosen), answer.format(**chosen)),) for chosen in combinations]


def intent() -> list[list[Dialogue]]:
    music = ("jazz", "rock", "pop", "folk")
    return [
        _filled("play music", "play some {x} in the {y} on {z}", x=music, y=_ROOMS, z=_DAYS)
        + _filled("play music", "{y} would like to hear {x} on {z}", x=music, y=_PEOPLE, z=_DAYS),
        _filled("set alarm", "wake {y} at {x} on {z}", x=_NUMBERS, y=_PEOPLE, z=_DAYS)
        + _filled("set alarm", "on {z} i must get up at {x}", x=_NUMBERS, z=_DAYS),
        _filled(
            "get weather",
            "will it {x} in {y} on {z}",
            x=("rain", "snow"),
            y=_CITIES + _GOALS,
            z=_DAYS,
        )
        + _filled("get weather", "is it warm in {y} on {z}", y=_CITIES + _GOALS, z=_DAYS),
        _filled("order food", "bring {x} food to the {y} at {z}", x=_FOODS, y=_ROOMS, z=_NUMBERS)
        + _filled("order food", "{y} would like some {x} dishes", x=_FOODS, y=_PEOPLE),
        _filled("call person", "ring {y} in {x} on {z}", x=_CITIES, y=_PEOPLE, z=_DAYS)
        + _filled("call person", "i must talk to {y} at {x}", x=_NUMBERS, y=_PEOPLE),
        _filled("light room", "make it bright in the {y} at {x}", x=_NUMBERS, y=_ROOMS)
        + _filled("light room", "the {y} is too dark for {x}", x=_PEOPLE, y=_ROOMS)
        + _filled("light room", "on {x} it is too dark in the {y}", x=_DAYS, y=_ROOMS),
    ]


def slots() -> list[list[Dialogue]]:
    return [
        [
            item
            for way in ("i want to fly", "take a train")
            for item in _filled(
                "from: {x}; to: {y}; day: {z}",
                way + " from {x} to {y} on {z}",
                x=_CITIES, y=_GOALS, z=_DAYS,
            )
        ],
        _filled(
            "name: {x}; people: {y}; day: {z}",
            "reserve a table at {x} for {y} people on {z}",
            x=_PLACES, y=_NUMBERS[1:6], z=_DAYS,
        ),
        _filled(
            "who: {x}; day: {y}; hour: {z}",
            "meet {x} on {y} at {z}",
            x=_PEOPLE, y=_DAYS, z=_NUMBERS,
        ),
        _filled(
            "food: {x}; room: {y}; hour: {z}",
            "i would like {x} food in the {y} at {z}",
            x=_FOODS, y=_ROOMS, z=_NUMBERS,
        ),
    ]  # fmt: skip


def dialogues() -> list[list[Dialogue]]:
    """Dialogues of three turns: which food, which area, which price, and some requests.

    There is one dialogue for each (person, day, area). Each context names the person, the day and a
    value that only one of their dialogues has, so that no two dialogues, and hence no two splits,
    share a context. Answers have the form of `metrics.parse_state`.
    """
    return [[_dialogue(*chosen) for chosen in product(_PEOPLE, _DAYS, range(len(_AREAS)))]]


def _dialogue(person: str, day: str, number: int) -> Dialogue:
    which = 2 * number + _DAYS.index(day)
    food, price = _FOODS[which % len(_FOODS)], _PRICES[which % len(_PRICES)]
    area = _AREAS[number]
    request = ("", " phone", " menu")[which % 3]
    ending = f" and its{request}" if request else ""
    return (
        (f"on {day} {person} would like {food} food", f"food: {food};"),
        (f"where -- {person} likes the {area} on {day}", f"area: {area};"),
        (
            f"the {area} on {day} -- {person} wants a {price} place{ending}",
            f"price: {price};{request}",
        ),
    )


def _in_words(description: str, items: Callable[[], list[list[Dialogue]]]) -> Grammar:
    question = "what is the natural language form ?"
    return Grammar("text-to-text", "rouge", question, description, items, DATA_TO_TEXT)


GRAMMARS: Mapping[str, Grammar] = {
    "gen.rest": _in_words("restaurants in words", _RESTAURANT),
    "gen.hotel": _in_words("hotels in words", _HOTEL),
    "gen.tv": _in_words("televisions in words", _TV),
    "gen.intent": Grammar(
        "classify", "em", "what does the user want ?", "which of six intents a request has", intent
    ),
    "gen.slots": Grammar(
        "text-to-text", "nf1", "what are the slots ?", "the slots that a request fills", slots
    ),
    "gen.state": Grammar(
        "text-to-text",
        "dsem",
        "what is the change in state ?",
        "what a turn changes in a dialogue's state",
        dialogues,
    ),
}
