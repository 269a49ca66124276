"""The live view of a study: a picture that is renewed on a terminal, else a line a minute."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from l2kd_ray.report.blocks import text
from l2kd_ray.report.labels import method_label, setting_label
from l2kd_ray.report.sentences import device_words
from l2kd_ray.study.outlook import ArmProgress, Outlook, Remaining

StageRows = Sequence[tuple[str, int, int, int]]
"""Kind of stage, finished, wanted (0: not known), running."""
_LOOK_S, _SHARE = 5.0, 0.02
"""Seconds between two looks at the storage, at least; and their largest share of a CPU."""
_FIRST_LINE_S, _LINE_S = 10.0, 60.0
_MOST_ARMS = 12


class LiveView:
    """Shows rows of stages, as often as it is called, and the outlook, looked at now and then."""

    def __init__(self, look: Callable[[], Outlook], stream: TextIO) -> None:
        self._look, self._stream = look, stream
        self._outlook: Outlook | None = None
        self._console = Console(file=stream)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._started = time.monotonic()
        self._next_look, self._next_line = self._started, self._started + _FIRST_LINE_S

    def __enter__(self) -> LiveView:
        if self._console.is_terminal:
            self._live.start()
            self._live.update(Text("starting"), refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, rows: StageRows, failures: int) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._renew()
        if self._console.is_terminal:
            self._live.update(picture(self._elapsed(), rows, failures, self._outlook), refresh=True)
        elif now >= self._next_line:
            self._next_line = now + _LINE_S
            line = one_line(self._elapsed(), rows, failures, self._outlook)
            print(line, file=self._stream, flush=True)

    def watch(self) -> bool:
        """Show the outlook alone; returns whether the study is done."""
        if self._outlook is None:
            self._renew()
        found = self._outlook
        if found is not None:
            self(rows_of(found), found.failures)
        return found is not None and found.done

    def _renew(self) -> None:
        begun = time.thread_time()
        try:
            self._outlook = self._look()
        except OSError:  # the storage is away; the sweep itself says so if it stays away
            self._outlook = None
        spent = time.thread_time() - begun
        self._next_look = time.monotonic() + max(_LOOK_S, spent / _SHARE)

    def _elapsed(self) -> str:
        return clock(time.monotonic() - self._started)


def rows_of(found: Outlook) -> StageRows:
    """The rows of stages by the outlook alone."""
    running = [stage.kind for stage in found.running]
    return [(kind, *counts, running.count(kind)) for kind, counts in found.stages.items()]


def picture(elapsed: str, rows: StageRows, failures: int, found: Outlook | None) -> RenderableType:
    """The picture of a terminal: stages, methods, and what runs where."""
    stages = Table(box=None, title=" ".join([elapsed, *_failed(failures)]), title_justify="left")
    for column in ("stages", "", "done", "running"):
        stages.add_column(column, justify="left" if column in ("stages", "") else "right")
    for kind, done, total, running in rows:
        bar = ProgressBar(total=total or None, completed=done, width=30)
        stages.add_row(kind, bar, _of(done, total), str(running) if running else "")
    if found is None:
        return stages
    parts: list[RenderableType] = [stages, Text("\n".join(_sentences(found)))]
    arms = Table(box=None)
    for column in ("method", "setting", "done", "gap so far", "orders", "failed"):
        arms.add_column(column, justify="left" if column in ("method", "setting") else "right")
    for arm in found.arms[:_MOST_ARMS]:
        arms.add_row(
            Text(method_label(arm.method)),
            Text(setting_label(arm.setting)),
            _of(arm.done, arm.wanted),
            text(arm.gap) if arm.gap == arm.gap else "",
            _of(arm.orders, arm.orders_wanted) if arm.orders_wanted else "",
            str(arm.failed or ""),
        )
    parts.append(arms)
    if len(found.arms) > _MOST_ARMS:
        parts.append(Text(f"and {len(found.arms) - _MOST_ARMS} more"))
    return Group(*parts)


def one_line(elapsed: str, rows: StageRows, failures: int, found: Outlook | None) -> str:
    """The same in one line, for a log."""
    parts = [
        ", ".join(
            f"{kind} {done}" + (f"/{total}" if total else "") for kind, done, total, _ in rows
        )
    ]
    if found is not None:
        gaps = [
            f"{_arm(arm)} {text(arm.gap)} ({_finished(arm)})"
            for arm in found.arms[:_MOST_ARMS]
            if arm.gap == arm.gap
        ]
        parts += [*_sentences(found), *(["gap so far: " + ", ".join(gaps)] if gaps else [])]
    return f"[{elapsed}] " + "; ".join(filter(None, [*parts, *_failed(failures)]))


def _failed(failures: int) -> list[str]:
    return [f"{failures} failed"] if failures else []


def _of(done: int, total: int) -> str:
    return f"{done} of {total}" if total else str(done)


def _finished(arm: ArmProgress) -> str:
    """The part of an arm that a gap so far is of: orders, or seeds where there is one or none."""
    if arm.orders_wanted > 1:
        return f"{_of(arm.orders, arm.orders_wanted)} orders"
    return f"{_of(arm.done, arm.wanted)} seeds"


def _arm(arm: ArmProgress) -> str:
    return " ".join(filter(None, (method_label(arm.method), setting_label(arm.setting))))


def _sentences(found: Outlook) -> Iterator[str]:
    if found.remaining is not None:
        yield end_words(found.remaining, time.time())
    for host, stages in groupby(sorted(found.running, key=lambda one: one.host), lambda s: s.host):
        running = list(stages)
        kinds = _counted(stage.kind for stage in running)
        longest = clock(max(stage.seconds for stage in running))
        yield f"on {host}: {kinds} (longest {longest})"
    hours = f"{found.core_hours:.2f} core-hours"
    yield hours + (f", {found.gpu_hours:.2f} GPU-hours" if found.gpu_hours else "")
    yield from (words.replace("**", "") for words in device_words(found.devices))


def _counted(kinds: Iterable[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(Counter(kinds).items()))


def end_words(remaining: Remaining, now: float) -> str:
    """When a sweep ends: `about 6 min left, ends 15:42 (15:38 to 15:50)`."""
    ends = [now + seconds for seconds in (remaining.seconds, remaining.low, remaining.high)]
    form = "%H:%M" if remaining.high < 20 * 3600 else "%a %H:%M"
    at, low, high = (time.strftime(form, time.localtime(end)) for end in ends)
    words = f"about {duration(remaining.seconds)} left, ends {at} ({low} to {high})"
    if remaining.unknown:
        words += f", without {', '.join(remaining.unknown)}: none of them has finished yet"
    return words


def duration(seconds: float) -> str:
    """`40 s`, `6 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """`1:05` or `2:01:05`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
