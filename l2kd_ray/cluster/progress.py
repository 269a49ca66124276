"""The progress of a sweep by its stage pool, for whoever shows it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray

from l2kd_ray.core.stage import Stage
from l2kd_ray.study.plan import in_sequence

PATIENCE_S = 180.0
"""Seconds without any answer of the pool after which it counts as dead."""
_ANSWER_S = 30.0  # the machine may be very busy
_EVERY_S = 0.5
Show = Callable[[Sequence[tuple[str, int, int, int]], int], None]
"""Shows (kind, done, total, running) of each kind of stage, and the number of failures; a total of
0 is not known."""


class SweepProgress:
    """Polls the pool every half second from a thread and has its progress shown.

    A pool that is killed each time that it starts would keep the cursors waiting for ever: Ray
    repeats their calls without limit. So one that has not answered for `PATIENCE_S` is ended, which
    fails these calls.

    `open_ended`: an adaptive search adds stages while it runs, so no totals are shown.
    """

    def __init__(
        self, pool: Any, missing: Iterable[Stage], show: Show, *, open_ended: bool = False
    ) -> None:
        self._pool, self._show = pool, show
        kinds = {stage: stage.kind for stage in missing}
        self._totals, self._sequence = Counter(kinds.values()), in_sequence(kinds)
        self._open_ended = open_ended
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> SweepProgress:
        self._answered = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            if (progress := self._poll()) is not None:
                self._show(list(self._kinds(progress)), len(progress["failures"]))

    def _poll(self) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = ray.get(self._pool.progress.remote(), timeout=_ANSWER_S)
        except Exception:  # the pool is busy or restarting; the next poll will succeed
            if time.monotonic() - self._answered > PATIENCE_S:
                ray.kill(self._pool)  # without a restart
            return None
        self._answered = time.monotonic()
        return answer

    def _kinds(self, progress: dict[str, Any]) -> Iterator[tuple[str, int, int, int]]:
        """Yield (kind, done, total, running) for the kinds that have stages."""
        done, running = progress["done"], progress["running"]
        others = sorted({*done, *running} - set(self._sequence))
        for kind in (*self._sequence, *others):
            total = max(self._totals[kind], done.get(kind, 0) + running.get(kind, 0))
            if total:
                shown = 0 if self._open_ended else total
                yield kind, done.get(kind, 0), shown, running.get(kind, 0)
