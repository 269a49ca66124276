"""Generated tasks: items drawn by a seed, and dealt out to the splits. Nothing is downloaded.

The splits of a task are cut from one sequence of items: train, then dev, then test. No two items
have the same (first) context, so that the splits share none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.spec import Split

Dialogue = tuple[tuple[str, str, str], ...]
"""The turns of a dialogue, or one alone: (context, question, answer)."""
Drawn = tuple[Mapping[Split, int], Iterator[Dialogue]]
"""The sizes of a task's splits, and its items."""


def reader(
    draw: Callable[[str, str], Drawn],
) -> Callable[[str, Mapping[str, str]], list[Example]]:
    """The reader of tasks whose items `draw(task, data_seed)` draws.

    Options: `task`, `data_seed` and `split`.
    """

    @lru_cache(maxsize=8)
    def splits(task: str, data_seed: str) -> Mapping[str, list[Example]]:
        """All splits; kept, as a study reads each of them."""
        sizes, drawn = draw(task, data_seed)
        items, found = _distinct(drawn), dict[str, list[Example]]()
        for split, size in sizes.items():
            examples: list[Example] = []
            while len(examples) < size:
                examples += _examples(next(items), len(examples))
            # The rest of a dialogue that is cut off here is dropped, so that splits share no
            # dialogue.
            found[split] = examples[:size]
        return found

    def read(location: str, options: Mapping[str, str]) -> list[Example]:
        return list(splits(options["task"], options["data_seed"])[options["split"]])

    return read


def _distinct(items: Iterator[Dialogue]) -> Iterator[Dialogue]:
    seen: set[str] = set()
    for item in items:
        if (context := item[0][0]) not in seen:
            seen.add(context)
            yield item


def _examples(item: Dialogue, start: int) -> list[Example]:
    group = str(start) if len(item) > 1 else None
    return [
        Example(str(number), context, question, (answer,), group)
        for number, (context, question, answer) in enumerate(item, start)
    ]
