"""Work in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_parts(work: Callable[[Sequence[T]], R], items: Sequence[T], size: int) -> Iterator[R]:
    """The results of `work` on `size` items at a time.

    Where the device has no memory for so many, that part is done again, and all later ones are
    done, with half as many. Raises: torch.OutOfMemoryError if it has none for one item.
    """
    start = 0
    while start < len(items):
        try:
            found = work(items[start : start + size])
        except torch.OutOfMemoryError:
            size //= 2
            if size == 0:
                raise
            continue
        yield found
        start += size
