"""Examples as a stage: what was read upstream is what every other stage reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import Context
from l2kd_ray.core.store import Store
from l2kd_ray.families.examples import Examples, Labelled
from l2kd_ray.tasks import Example, TaskData

EXAMPLES = [
    Example("b", "first \u2028 line\r\nsecond", "?", ("one", "another"), "talk 1"),
    Example("a", "", "what?", ("",)),
    Example("c", "a\tb", "Grüße?", ('"',), "talk 1"),
]


@dataclass(frozen=True)
class Data:
    """Stands for a split: its examples are those above."""

    task: str = "mine"
    rows: int = len(EXAMPLES)

    def examples(self) -> list[Example]:
        return EXAMPLES


def test_examples_keep_their_order_their_texts_and_their_groups(
    store: Store, tmp_path: Path
) -> None:
    stage = Examples(cast("TaskData", Data()))
    assert obtain(stage, store)["examples"] == len(EXAMPLES)
    context = Context(store, tmp_path)
    assert stage.load(context) == EXAMPLES
    assert Labelled(stage, "pair").load(context) == EXAMPLES


def test_a_pair_has_two_texts_and_a_text_one() -> None:
    stage = Examples(cast("TaskData", Data()))
    assert Labelled(stage, "pair").texts(EXAMPLES[2]) == ("a\tb", "Grüße?")
    assert Labelled(stage, "classify").texts(EXAMPLES[2]) == ("a\tb",)
