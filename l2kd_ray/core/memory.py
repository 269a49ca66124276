"""Work in parts that fit into memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from l2kd_ray.core.stage import Context, Stage

T = TypeVar("T")
R = TypeVar("R")


def in_parts(
    work: Callable[[Sequence[T]], R], items: Sequence[T], size: int, *, again: bool = True
) -> Iterator[R]:
    """The results of `work` on `size` items at a time.

    Where the device has no memory for so many, that part is done again, and all later ones are
    done, with half as many. Raises: torch.OutOfMemoryError if it has none for one item, or not
    `again`, because other workers have gone on.
    """
    start = 0
    while start < len(items):
        try:
            found = work(items[start : start + size])
        except torch.OutOfMemoryError:
            size //= 2
            if size == 0 or not again:
                raise
        else:
            yield found
            start += size
            continue
        _release()


@dataclass
class Fitting:
    """The number of examples that go through a training's forward pass at once.

    It is halved where the device has no memory for so many, and remembered: by later trainings of
    this process that are alike, and by the next attempt at a stage of several workers.
    """

    size: int | None
    """None: all of a batch."""
    context: Context
    note: str
    alike: tuple[Any, ...]

    _known: ClassVar[dict[tuple[Any, ...], int]] = {}

    @classmethod
    def of(cls, stage: Stage, model: nn.Module, most: int | None, context: Context) -> Fitting:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        alike = (stage.kind, parameters, context.device, context.world_size)
        note = context.store.micro_batch_note(stage.kind, stage.key)
        noted = context.store.read(note) if context.world_size > 1 else None
        sizes = [most, noted and int(noted), cls._known.get(alike)]
        return cls(min((size for size in sizes if size), default=None), context, note, alike)

    def run(self, step: Callable[[int | None], R], number: int, examples: int) -> R:
        """The result of a step; one that fails for want of memory is done again with half as many.

        `number` of the step, and how many examples it has.

        Raises: torch.OutOfMemoryError where one example is too many, or with several workers, of
        which the others wait for this one: the next attempt of the group begins with half as many.
        """
        while True:
            try:
                return step(self.size)
            except torch.OutOfMemoryError:
                if examples == 1 or self.size == 1:
                    raise
                self._halve(number, examples)
                if self.context.world_size > 1:
                    self.context.store.write(self.note, str(self.size).encode())
                    raise
            _release()

    def _halve(self, number: int, examples: int) -> None:
        before = min(self.size or examples, examples)
        self.size = before // 2
        self._known[self.alike] = self.context.notes["micro_batch"] = self.size
        print(
            f"step {number + 1}: no memory for {before} examples at once; {self.size} from here on",
            file=sys.stderr,
        )


def _release() -> None:
    """Give back what the allocator keeps in pieces that are too small; once no error holds them."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
