"""The driver's side of mirrors: a child process each, under time limits.

So a dead, slow, hanging or missing server costs bounded seconds and a warning, and never an
exception; and nothing of a mirror runs in the process of the sweep.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any

from l2kd_ray import door
from l2kd_ray.core.scratch import Scratch
from l2kd_ray.core.store import Store
from l2kd_ray.mirrors import Mirror
from l2kd_ray.study import Study
from l2kd_ray.study.loading import to_yaml
from l2kd_ray.study.sections import MIRRORS

log = logging.getLogger(__name__)

EVENTS = "events"
"""The mirror that runs `on_event`; it is never named in `report_to`."""
_CLASSES = {
    "wandb": "Wandb",
    "tensorboard": "TensorBoard",
    "mlflow": "MLflow",
    "trackio": "Trackio",
    EVENTS: "Events",
}
REQUEST, STUDY, STUDY_FILE = "request.json", "study.pickle", "study.yaml"
ENDED, DONE = "ended.json", "done"
"""Files by which parent and child speak; a byte on the child's standard input asks for a look."""


@dataclass
class Ending:
    """How a study has ended, for its mirrors; set by whoever runs it."""

    state: str = "finished"
    failures: Sequence[str] = ()
    lines: list[str] = field(default_factory=list)
    """A line a mirror, which says where it is; there once the context has ended."""
    children: Sequence[_Child] = ()

    def stages_have_ended(self) -> None:
        """Let mirrors show at once what there is, while the results are still to be written."""
        for child in self.children:
            child.hurry()


def put(file: Path, text: str) -> None:
    """Write a file that another process may look for: it is there whole, or not at all."""
    begun = file.with_suffix(".begun")
    begun.write_text(text, encoding="utf-8")
    begun.rename(file)


def mirror_class(name: str) -> type[Mirror]:
    """A built-in mirror, or the user's class. Raises: InputError if it cannot be imported."""
    if name in _CLASSES:
        found: type[Mirror] = getattr(import_module(f"l2kd_ray.mirrors.{name}"), _CLASSES[name])
    else:
        found, _ = door.find("mirrors", name, dict.fromkeys(MIRRORS), key="report_to")
    return found


@contextmanager
def mirrored(
    study: Study, store: Store, folder: Path, *, live: bool, time_limit: float = 120.0
) -> Iterator[Ending]:
    """Mirror a study: while this context runs, if `live`, and once more at its end.

    A mirror's failure is one warning, and the next of its `ways` is tried. An interrupt ends
    mirrors at once. `folder`: the folder of the result files; `time_limit`: seconds after which
    the end has come for all mirrors.
    """
    names = [*study.config.report_to, *([EVENTS] if live and study.config.on_event else [])]
    children = [_Child(name, study, store, folder) for name in names]
    if live:
        for child in children:
            child.start()
    ending = Ending(children=children)
    try:
        yield ending
    except Exception as error:  # of Ray, or of the machine: mirrors are told
        ending.state, ending.failures = "failed", [f"{type(error).__name__}: {error}"]
        _end(children, ending, time_limit / 4)
        raise
    except BaseException:
        for child in children:
            child.kill()
        raise
    _end(children, ending, time_limit)


def _end(children: Sequence[_Child], ending: Ending, time_limit: float) -> None:
    for child in children:
        child.end({"state": ending.state, "failures": list(ending.failures)}, time_limit)
    for child in children:
        child.join()
        ending.lines += filter(None, [child.line])


class _Child(Thread):
    """Keeps one mirror's process: a thread that sleeps until the process or the study ends."""

    def __init__(self, name: str, study: Study, store: Store, folder: Path) -> None:
        super().__init__(name=f"mirror {name}", daemon=True)
        self._mirror, self._study, self._store, self._folder = name, study, store, folder
        self._class = mirror_class(name)
        self._over = Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._message: Mapping[str, Any] | None = None
        self._deadline = 0.0
        self.line = ""

    def end(self, message: Mapping[str, Any], time_limit: float) -> None:
        """Tell the mirror that the study has ended; `join` waits until it has been shown."""
        self._message, self._deadline = message, time.monotonic() + time_limit
        self._over.set()
        if self.ident is None:
            self.start()

    def hurry(self) -> None:
        """Ask for a look now, however long the last one took."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(OSError):  # it has ended
                self._process.stdin.write(b"\n")

    def kill(self) -> None:
        """End the process at once."""
        self._over.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        title, ways = self._class.title or self._mirror, self._class.ways(self._study.config)
        for way, then in zip(ways, [*ways[1:], None], strict=False):
            try:
                self.line = self._follow(way, last=then is None)
                return
            except Exception as error:  # whatever it is: a failing mirror must not fail a sweep
                how = f" ({way})" if way else ""
                log.warning(
                    "%s: could not mirror %s%s: %s", title, self._study.config.name, how, error
                )
            if then == way:  # what failed now may do at the end
                self._over.wait()
            if self._over.is_set() and self._message is None:
                return  # killed
        self.line = f"{title}: disabled"
        if ways:
            self.line = (
                f"{title}: not everything was mirrored; the result files in {self._folder} are "
                "complete without it"
            )

    def _follow(self, way: str, *, last: bool) -> str:
        """Run one child to its end; returns its line. Raises RuntimeError with its error."""
        with Scratch("mirror") as name:
            scratch, reason = Path(name), ""
            self._write(scratch, way)
            with (scratch / "log").open("wb") as output:
                # The stages come first, as long as there are any.
                nice = ["nice", "-n", "19"] if self._message is None else []
                child = subprocess.Popen(
                    # -P: the working folder is the user's and may hold a queue.py of theirs.
                    [*nice, sys.executable, "-P", "-m", "l2kd_ray.mirrors.follow", scratch],
                    stdin=subprocess.PIPE,
                    bufsize=0,
                    stdout=output,
                    stderr=output,
                    env=_environment(scratch),
                    start_new_session=True,
                )
            self._process = child
            if nice:
                _lower_session(child.pid)
            try:
                while child.poll() is None and not self._over.wait(1.0):
                    pass
                if self._message is not None:
                    # A first attempt leaves a third of the time to the second one.
                    limit = (self._deadline - time.monotonic()) * (1 if last else 2 / 3)
                    put(scratch / ENDED, json.dumps(self._message))
                    self.hurry()
                    until = time.monotonic() + limit
                    while child.poll() is None and not (scratch / DONE).exists():
                        if time.monotonic() > until:
                            reason = f"not done within {limit:.0f} s"
                            break
                        time.sleep(0.02)
            finally:
                _end_group(child)
            if (scratch / DONE).exists():  # its exit is not waited for: W&B's takes a second
                return (scratch / DONE).read_text(encoding="utf-8")
            if self._over.is_set() and self._message is None:
                return ""  # killed
            printed = (scratch / "log").read_text(encoding="utf-8", errors="replace").strip()
        raise RuntimeError(
            reason or printed.rpartition("\n")[2] or f"ended with {child.returncode}"
        )

    def _write(self, scratch: Path, way: str) -> None:
        request = {
            "mirror": self._mirror,
            "way": way,
            "store": self._store.root,
            "folder": str(self._folder.absolute()),
        }
        (scratch / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        try:
            (scratch / STUDY).write_bytes(pickle.dumps(self._study))
        except (pickle.PicklingError, AttributeError, TypeError):  # it has a plug-in from a file
            (scratch / STUDY_FILE).write_text(to_yaml(self._study), encoding="utf-8")


def _environment(scratch: Path) -> dict[str, str]:
    """The caller's environment; temporary files go to `scratch`, and one thread computes."""
    code = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    added = {
        "PYTHONPATH": os.pathsep.join(filter(None, code)),
        "TMPDIR": str(scratch),
        "OMP_NUM_THREADS": "1",
    }
    return {**os.environ, **added}


def _lower_session(process: int) -> None:
    """Where Linux shares the CPU between sessions first ("autogroup"), `nice` orders processes in
    their own session alone: the child's session is given the lowest priority, too."""
    with suppress(OSError):  # no Linux, no autogroup, or the child has ended
        Path(f"/proc/{process}/autogroup").write_text("19", encoding="utf-8")


def _end_group(child: subprocess.Popen[bytes], grace: float = 0.5) -> None:
    """End the child and its processes; a wandb-core with a dead server ignores SIGTERM."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + grace
        while time.monotonic() < until:
            child.poll()  # reaps it: a zombie would keep the group
            try:
                os.killpg(child.pid, ending)
            except (ProcessLookupError, PermissionError):  # none left (macOS: or only zombies)
                return
            time.sleep(0.05)
