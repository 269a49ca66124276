"""Progress of a sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import ray
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from l2kd_ray.core.stage import Stage
from l2kd_ray.study.plan import in_sequence

PATIENCE_S = 180.0
"""Seconds without any answer of the pool after which it counts as dead."""
_ANSWER_S = 30.0  # the machine may be very busy
_LINE_EVERY_S = 10.0


class Display:
    """Polls the pool every half second from a thread and shows its progress.

    A pool that is killed each time that it starts would keep the cursors waiting for ever: Ray
    repeats their calls without limit. So one that has not answered for `PATIENCE_S` is ended, which
    fails these calls.

    `open_ended`: an adaptive search adds stages while it runs, so no totals are shown.
    """

    def __init__(self, pool: Any, missing: Iterable[Stage], *, open_ended: bool = False) -> None:
        self._pool = pool
        kinds = {stage: stage.kind for stage in missing}
        self._totals, self._sequence = Counter(kinds.values()), in_sequence(kinds)
        self._open_ended = open_ended
        self._console = Console(file=sys.stderr)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Display:
        self._started = self._answered = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=2, transient=True) as live:
                while not self._stop.wait(0.5):
                    if (progress := self._poll()) is not None:
                        live.update(self._table(progress))
        else:
            while not self._stop.wait(_LINE_EVERY_S):
                if (progress := self._poll()) is not None:
                    print(self._line(progress), file=sys.stderr, flush=True)

    def _poll(self) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = ray.get(self._pool.progress.remote(), timeout=_ANSWER_S)
        except Exception:  # the pool is busy or restarting; the next poll will succeed
            if time.monotonic() - self._answered > PATIENCE_S:
                ray.kill(self._pool)  # without a restart
            return None
        self._answered = time.monotonic()
        return answer

    def _kinds(self, progress: dict[str, Any]) -> Iterable[tuple[str, int, int, int]]:
        """Yield (kind, done, total, running) for the kinds that have stages."""
        done, running = progress["done"], progress["running"]
        others = sorted({*done, *running} - set(self._sequence))
        for kind in (*self._sequence, *others):
            total = max(self._totals[kind], done.get(kind, 0) + running.get(kind, 0))
            if total:
                yield kind, done.get(kind, 0), total, running.get(kind, 0)

    def _line(self, progress: dict[str, Any]) -> str:
        kinds = [
            f"{kind} {done}" if self._open_ended else f"{kind} {done}/{total}"
            for kind, done, total, _ in self._kinds(progress)
        ]
        failed = f", {len(progress['failures'])} failed" if progress["failures"] else ""
        return f"[{self._elapsed()}] " + ", ".join(kinds) + failed

    def _table(self, progress: dict[str, Any]) -> Table:
        failures = len(progress["failures"])
        title = f"{self._elapsed()}" + (f"   {failures} stages failed" if failures else "")
        table = Table(title=title, title_justify="left", box=None)
        for column in ("stages", "", "done", "running"):
            table.add_column(column, justify="left" if column in ("stages", "") else "right")
        for kind, done, total, running in self._kinds(progress):
            bar = ProgressBar(total=total, completed=done, width=30)
            share = str(done) if self._open_ended else f"{done} of {total}"
            table.add_row(kind, bar, share, str(running) if running else "")
        return table

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes}:{seconds:02d}"
