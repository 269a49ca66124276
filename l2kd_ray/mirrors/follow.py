"""The child process of a mirror: it looks at the store now and then, and tells what is new.

    python -P -m l2kd_ray.mirrors.follow FOLDER      (`mirrors.process` writes the folder)

While the study runs it has the lowest priority, and takes at most 2 % of one CPU.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.store import Store
from l2kd_ray.mirrors import Mirror, MirroredStudy
from l2kd_ray.mirrors.process import DONE, ENDED, REQUEST, STUDY, STUDY_FILE, mirror_class, put
from l2kd_ray.mirrors.runs import Models, own_stages, study_state, trial_run
from l2kd_ray.study import Study
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.snapshot import Snapshot

EVERY_S, SHARE = 10.0, 0.02
"""Seconds between two looks, at least; and the largest share of a CPU that looks may take."""


class Follower:
    """Tells a mirror what has become of a study since the last look."""

    def __init__(self, study: Study, store: Store, mirror: Mirror, folder: Path) -> None:
        self._study, self._mirror, self._folder = study, mirror, folder
        self._limit = mirror.study.limit
        self._reader, self._notes = StoreView(store), Folder(store, study.config.name)
        self._models = Models(self._reader)
        self._stages, self._told = set[str](), dict[str, object]()

    def look(self, state: Any = "running", failures: Sequence[str] = ()) -> None:
        """Tell what is new; with a state other than `running`, that the study has ended."""
        if not self._reader.update() and state == "running" and self._stages:
            return
        now = Snapshot.of(self._study, self._reader, self._notes)
        all_of_it = self._mirror.live or state != "running"
        if all_of_it:
            # The aggregate first: it is the more useful part if the mirror is cut short.
            with within(self._limit):
                self._mirror.on_study(study_state(now, self._folder, state, failures))
        known, results = now.manifests, now.results
        rows = dict(list(results.groupby("trial"))) if len(results) else {}
        for key in known.keys() - self._stages:
            with within(self._limit):
                self._mirror.on_stage(known[key])
        self._stages = set(known)
        done = {trial.id for trial in now.done}
        for trial in now.reported:
            if not (all_of_it or trial.id in done):
                continue
            row = rows.get(trial.id, results[:0])
            mark = sum(key in known for key in own_stages(trial)), row.to_json()
            if self._told.get(trial.id) == mark:
                continue
            run = trial_run(self._study, trial, known, self._models, row)
            if run.points:
                with within(self._limit):
                    self._mirror.on_trial(run)
            self._told[trial.id] = mark


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this context after some seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no answer within {seconds:.0f} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _study(scratch: Path) -> Study:
    if (scratch / STUDY).exists():  # written by the parent, a moment ago
        found: Study = pickle.loads((scratch / STUDY).read_bytes())
        return found
    from l2kd_ray.study.loading import load

    return load(scratch / STUDY_FILE)


def _told_to_end(scratch: Path, seconds: float) -> Mapping[str, Any] | None:
    """How the study has ended; None if another look is due: after some seconds, or when the parent
    asks for it."""
    if not select.select([0], [], [], seconds)[0]:
        return None
    alive = os.read(0, 1)  # the parent's death closes the pipe
    if (scratch / ENDED).exists():
        told: Mapping[str, Any] = json.loads((scratch / ENDED).read_text(encoding="utf-8"))
        return told
    return None if alive else {"state": "failed"}


def _follow(scratch: Path) -> str:
    request = json.loads((scratch / REQUEST).read_text(encoding="utf-8"))
    study, folder = _study(scratch), Path(request["folder"])
    kind = mirror_class(request["mirror"])
    options = study.config.settings.options.get(kind.__name__)
    mirror = kind(MirroredStudy(study.config, folder, request["way"], options))
    follower = Follower(study, Store(request["store"]), mirror, folder)
    seconds = 0.0
    while (end := _told_to_end(scratch, seconds)) is None:
        begun = time.process_time()
        follower.look()
        seconds = max(EVERY_S, (time.process_time() - begun) / SHARE)
    follower.look(end["state"], end.get("failures", ()))
    with within(mirror.study.limit):
        return mirror.close()


def _main(scratch: Path) -> None:
    try:
        line = _follow(scratch)
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        os._exit(1)  # a mirror's exit hooks could wait for the server that just failed
    put(scratch / DONE, line)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
