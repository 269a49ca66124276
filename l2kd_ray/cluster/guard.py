"""The process of a sweep, and its parent, which outlives whatever happens to it.

Ray may end the process that uses it from within (a check in C++ when the head has died, not an
exception), and leave processes of its own behind. So `l2kd sweep` forks before Ray is imported: the
child sweeps; the parent passes signals on, waits, ends what is left of the child's processes, and
says what happened if the child could not.
"""

from __future__ import annotations

import atexit
import ctypes
import mmap
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STOP_S = 60
"""Seconds from the first signal until a child that does not stop is killed."""

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SUBREAPER, _PARENT_DEATH = 36, 1  # prctl(2): orphans become children of the caller; its own end
_STDERR = 2
_messages: int | None = None
"""A file in memory that takes what Ray's C++ and Python loggers write to stderr."""
_has_guard = False


class Stopped(KeyboardInterrupt):
    """A signal asked the command to stop; `code` is its exit code, 128 + signal as in shells."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.code = 128 + signum


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Stopped` in this context, once: stopping is not stopped."""
    asked = list[int]()

    def stop(signum: int, _: object) -> None:
        if not asked:
            asked.append(signum)
            raise Stopped(signum)

    # What is ignored stays ignored: `nohup l2kd sweep`.
    caught = [one for one in _STOPS if signal.getsignal(one) is not signal.SIG_IGN]
    former = {one: signal.signal(one, stop) for one in caught}
    try:
        yield
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)


def say_stopped() -> None:
    """Say that the command was stopped, unless nobody is there to read it (SIGHUP).

    Of a child and its parent only the parent says so: the child may not live long enough.
    """
    if _has_guard:
        return
    with suppress(OSError):
        print("\nstopped; what is finished is kept. The same command goes on.", file=sys.stderr)


def guarded() -> int | None:
    """Go on in a child: returns None there, and in the parent the exit code once it has ended."""
    global _messages, _has_guard
    _messages, spoke = os.memfd_create("ray"), mmap.mmap(-1, 1)
    before = _children()  # of a shell whose place this command took (`exec`): not ours to end
    _prctl(_SUBREAPER, 1)
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # until the handlers below are in place
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        _has_guard = True
        _prctl(_PARENT_DEATH, signal.SIGKILL)
        terminal, theirs = os.dup(_STDERR), sys.stderr  # our own words stay on the terminal
        sys.stderr = os.fdopen(
            terminal, "w", buffering=1, encoding=theirs.encoding, errors=theirs.errors
        )
        os.dup2(_messages, _STDERR)
        atexit.register(spoke.write, b"1")
        return None
    stops: list[int] = []

    def forward(signum: int, _: object) -> None:
        if not stops:
            signal.alarm(STOP_S)
        stops.append(signum)
        _kill(child, signum)

    for one in _STOPS:
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, forward)
    signal.signal(signal.SIGALRM, lambda *_: _kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    code = _wait(child)
    signal.alarm(0)
    while left := _children() - before:
        for pid in left:
            _kill(pid, signal.SIGKILL)
        for pid in left:  # its own children are ours from now on
            os.waitpid(pid, 0)
    if stops:
        say_stopped()
        return 128 + stops[0]
    if spoke[:1] == b"1":
        return code
    how = f"Ray has ended the sweep's process (exit code {code}): did a node or the head die?"
    if code < 0:
        how = f"the sweep's process was killed (signal {-code}): is memory short?"
    print(
        f"error: {how}\n  what is finished is kept; the same command goes on{kept_messages()}",
        file=sys.stderr,
    )
    return 4


def kept_messages() -> str:
    """Keep what Ray has written to stderr in a file; returns words that name it, "" for nothing."""
    if _messages is None or os.fstat(_messages).st_size == 0:
        return ""
    with (
        open(f"/proc/self/fd/{_messages}", "rb") as source,
        tempfile.NamedTemporaryFile(prefix="l2kd-ray-", suffix=".log", delete=False) as target,
    ):
        shutil.copyfileobj(source, target)
    return f"\n  Ray's own messages: {target.name}"


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Collect what C++ code writes to stderr in this context, which is where some reasons stand.

    The list is filled when the context ends; stderr gets the text then.
    """
    heard: list[str] = []
    real = os.dup(_STDERR)
    with open(os.memfd_create("overheard"), "w+b") as file:
        os.dup2(file.fileno(), _STDERR)
        try:
            yield heard
        finally:
            os.dup2(real, _STDERR)
            os.close(real)
            file.seek(0)
            heard.append(file.read().decode(errors="replace"))
            os.write(_STDERR, heard[0].encode())


def _wait(child: int) -> int:
    """Wait for the child, and for orphans on the way; returns its exit code, -signal if killed."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _children() -> set[int]:
    # Orphans are given to the main thread, which calls this.
    return set(map(int, Path("/proc/thread-self/children").read_text("ascii").split()))


def _kill(pid: int, signum: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
