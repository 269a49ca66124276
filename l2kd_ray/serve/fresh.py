"""Values that are slow to compute, shared by all who ask and renewed while somebody asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_PATIENCE_S = 0.5
"""How long a request waits for a newer value."""
_LEAST_AGE_S = 2.0
_SHARE = 0.1
"""A value is used for at least `_LEAST_AGE_S`, and for so long that computing takes at most this
share of the time: the sweep that is watched needs the cores."""


class Fresh(Generic[T]):
    """A value computed in a thread, one computation at a time.

    A request gets the newest value there is within `_PATIENCE_S`, which may be one of a moment ago.
    """

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._value: T | None = None
        self._error: Exception | None = None
        self._until = 0.0
        self._task: asyncio.Task[None] | None = None

    async def get(self) -> T | None:
        """The value; None while the first one is being computed. Raises: what computing raised."""
        if self._task is None and time.monotonic() >= self._until:
            self._task = asyncio.create_task(self._renew())
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_PATIENCE_S)
        if self._error is not None:
            raise self._error
        return self._value

    async def _renew(self) -> None:
        started = time.monotonic()
        try:
            self._value, self._error = await asyncio.to_thread(self._compute), None
        except Exception as error:  # said on each page that needs the value
            self._error = error
        ended = time.monotonic()
        self._until = ended + max(_LEAST_AGE_S, (ended - started) / _SHARE)
        self._task = None
