"""Seeded draws over a task's examples: a dev split if upstream has none, and caps.

A draw sorts items by a hash of (data_seed, stream, task, item) and takes the first ones. It is the
same on every machine and with every library version, and a larger draw contains a smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Literal, TypeVar

from l2kd_ray.tasks.examples import Example

T = TypeVar("T")


def shuffled(
    items: Iterable[T],
    *,
    data_seed: int,
    stream: str,
    task: str,
    key: Callable[[T], object] = lambda item: item,
) -> list[T]:
    """`items` in seeded order; `key` identifies an item by a text, or by what `ascii` spells."""

    def rank(item: T) -> bytes:
        name = key(item)
        # Not `repr`: the characters that it escapes differ between versions of Python.
        text = name if isinstance(name, str) else ascii(name)
        return hashlib.sha256(ascii((data_seed, stream, task, text)).encode()).digest()

    return sorted(items, key=rank)


def carve(
    examples: Sequence[Example],
    *,
    dev_fraction: float,
    side: Literal["train", "dev"],
    data_seed: int,
    task: str,
) -> list[Example]:
    """One side of a train split that is divided into train and dev, in upstream order.

    Rows of one group, or else of one (context, question), stay on one side: data-to-text sets hold
    many answers to one input, and a dev split must not hold inputs of train. Dev is the smallest
    number of such units that holds `dev_fraction` of the rows.
    """
    units = _units(examples, lambda row, _: row.group or (row.context, row.question))
    order = shuffled(units, data_seed=data_seed, stream="carve", task=task)
    dev: set[int] = set()
    for unit in order:
        if len(dev) >= dev_fraction * len(examples):
            break
        dev.update(units[unit])
    return [row for index, row in enumerate(examples) if (index in dev) == (side == "dev")]


def cap(
    examples: Sequence[Example], size: int, *, data_seed: int, task: str, skip: int = 0
) -> list[Example]:
    """A sample of `size` examples (all if there are fewer), in upstream order.

    A larger `size` keeps the former sample. Groups are taken one after another, each from its
    start, so that a sample of dialogue turns consists of dialogues, the last one cut off. `skip`
    leaves out the sample of that size.
    """
    units = _units(examples, lambda row, index: row.group or ("row", index))
    order = shuffled(units, data_seed=data_seed, stream="cap", task=task)
    kept = [index for unit in order for index in units[unit]][skip : skip + size]
    return [examples[index] for index in sorted(kept)]


def _units(
    examples: Sequence[Example], unit: Callable[[Example, int], Hashable]
) -> dict[Hashable, list[int]]:
    units: dict[Hashable, list[int]] = {}
    for index, example in enumerate(examples):
        units.setdefault(unit(example, index), []).append(index)
    return units
