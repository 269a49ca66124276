"""Generated tasks from small grammars: no download, learned by a tiny student within minutes.

A grammar (see `grammars`) lists its items by kind. A seeded order of each kind, dealt out in turn,
gives train, then dev, then test: the splits share no context, and a context has one right answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from l2kd_ray.tasks.draws import shuffled
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.grammars import GRAMMARS, Dialogue
from l2kd_ray.tasks.spec import Split

GENERATED_VERSION = 1
_SIZES: Mapping[Split, int] = {"train": 400, "dev": 50, "test": 100}


def digest(task: str) -> str:
    """The identity of a task's generator."""
    return hashlib.sha256(f"{task}/{GENERATED_VERSION}".encode()).hexdigest()


def read(location: str, options: Mapping[str, str]) -> list[Example]:
    """The split `options["split"]` of the task `options["task"]` for `options["data_seed"]`."""
    task, question = options["task"], GRAMMARS[options["task"]].question
    items = _dealt(task, int(options["data_seed"]))
    for split, size in _SIZES.items():
        examples: list[Example] = []
        while len(examples) < size:
            examples += _examples(next(items), question, len(examples))
        if split == options["split"]:
            # The rest of a dialogue that is cut off here is dropped, so that splits share no
            # dialogue.
            return examples[:size]
    raise ValueError(f"no split {options['split']}")


def _dealt(task: str, data_seed: int) -> Iterator[Dialogue]:
    """One item of each kind, then the next of each, until all are dealt."""
    kinds = [
        shuffled(
            kind, data_seed=data_seed, stream="generate", task=task, key=lambda item: item[0][0]
        )
        for kind in GRAMMARS[task].items()
    ]
    for deal in zip_longest(*kinds):
        yield from (item for item in deal if item is not None)


def _examples(item: Dialogue, question: str, start: int) -> list[Example]:
    group = str(start) if len(item) > 1 else None
    return [
        Example(str(start + turn), context, question, (answer,), group)
        for turn, (context, answer) in enumerate(item)
    ]
