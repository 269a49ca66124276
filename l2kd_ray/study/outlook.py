"""The outlook of a study: what is done, what runs where, when it will end, and the gap so far."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import mean, pstdev
from typing import Any

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.stage import Stage
from l2kd_ray.study.plan import chains, in_sequence
from l2kd_ray.study.snapshot import Snapshot
from l2kd_ray.study.trial import Trial, by_arm
from l2kd_ray.study.work import devices, hours


@dataclass(frozen=True)
class Remaining:
    """Seconds until the end: as expected, and the range that it should be in."""

    seconds: float
    low: float
    high: float
    unknown: Sequence[str]
    """Kinds of stage of which none has finished, so that they are not counted."""


@dataclass(frozen=True)
class ArmProgress:
    """How far one method with one setting is."""

    method: str
    setting: str
    """JSON, as in the result files."""
    done: int
    wanted: int
    """Instances (order and seed)."""
    failed: int
    orders: int
    orders_wanted: int
    """Orders of which all seeds are finished; 0 of 0 for references."""
    gap: float
    """Mean gap over the finished instances; NaN before the first, and for references."""


@dataclass(frozen=True)
class RunningStage:
    """A stage that has begun and not ended, by the note of its last attempt."""

    kind: str
    key: str
    host: str
    seconds: float


@dataclass(frozen=True)
class Outlook:
    """The progress of a study at one moment."""

    stages: Mapping[str, tuple[int, int]]
    """Kind -> (finished, wanted), inputs before their readers."""
    trials: int
    trials_done: int
    arms: Sequence[ArmProgress]
    running: Sequence[RunningStage]
    remaining: Remaining | None
    """None if nothing is left, no sweep is running, or nothing has finished yet."""
    core_hours: float
    gpu_hours: float
    """Spent on the finished stages, in this sweep and before."""
    live: str | None
    """A description of the running sweep; None if none is running."""
    failures: int
    devices: Mapping[str, int]
    """Number of finished stages by the card that computed them, or `CPU`."""

    @property
    def done(self) -> bool:
        return all(finished == wanted for finished, wanted in self.stages.values())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def outlook(snapshot: Snapshot, since: float | None, live: str | None = None) -> Outlook:
    """The outlook of a study. `since`: when the running sweep began (seconds since 1970), None if
    no sweep is running."""
    planned, known = snapshot.plan, snapshot.manifests
    kinds = {stage: stage.kind for stage in planned.every}
    wanted = Counter(kinds.values())
    left = Counter(stage.kind for stage in planned.missing)
    spent = [hours(manifest) for manifest in known.values()]
    return Outlook(
        {kind: (wanted[kind] - left[kind], wanted[kind]) for kind in in_sequence(kinds)},
        len(snapshot.trials),
        len(snapshot.done),
        _arms(snapshot),
        _running(snapshot, since) if since is not None else (),
        _remaining(planned.missing, known, since) if since is not None else None,
        sum(cores for cores, _ in spent),
        sum(gpus for _, gpus in spent),
        live,
        len(snapshot.failures),
        devices(planned.every, known),
    )


def _arms(snapshot: Snapshot) -> list[ArmProgress]:
    done, failed = {trial.id for trial in snapshot.done}, snapshot.failed
    rows = snapshot.results
    gaps = dict(zip(rows["trial"], rows["gap/abs"], strict=True)) if "gap/abs" in rows else {}
    return [
        ArmProgress(
            method,
            setting,
            sum(trial.id in done for trial in trials),
            len(trials),
            sum(trial.cannot_finish(failed) for trial in trials),
            *_orders(trials, done),
            _mean(gaps[trial.id] for trial in trials if trial.id in done and trial.id in gaps)
            if not trials[0].is_reference
            else math.nan,
        )
        for (method, setting), trials in by_arm(snapshot.reported).items()
    ]


def _orders(trials: Sequence[Trial], done: set[str]) -> tuple[int, int]:
    every = {trial.order for trial in trials if trial.order}
    open_ = {trial.order for trial in trials if trial.id not in done}
    return len(every - open_), len(every)


def _mean(values: Iterable[float]) -> float:
    found = [value for value in values if not math.isnan(value)]
    return mean(found) if found else math.nan


def _running(snapshot: Snapshot, since: float) -> list[RunningStage]:
    """The stages begun in this sweep that have not ended, the oldest first."""
    missing = {stage.key: stage.kind for stage in snapshot.plan.missing}
    found, now = [], time.time()
    for key, note in snapshot.reader.listing().begun.items():
        began = note.modified.timestamp()
        if key in missing and key not in snapshot.failed and began >= since:
            host = "?"
            with suppress(OSError, ValueError, KeyError, TypeError):  # it is being written
                host = json.loads(snapshot.reader.store.read(note.path) or b"")["host"]
            found.append(RunningStage(missing[key], key, host, max(now - began, 0)))
    return sorted(found, key=lambda one: (-one.seconds, one.key))


def _remaining(
    missing: Iterable[Stage], known: Mapping[str, Manifest], since: float
) -> Remaining | None:
    """The time left, from the times of the study's own stages of each kind.

    With work W (worker-seconds) on m workers and a longest chain C of stages that wait for each
    other, any schedule without idle workers takes from max(W / m, C) to W / m + C (Graham 1969). m
    is what this sweep has had so far. The range has two standard deviations of W on either side.
    """
    times: dict[str, list[float]] = {}
    for manifest in known.values():
        times.setdefault(manifest.kind, []).append(manifest.seconds)
    todo = list(missing)
    counts = Counter(stage.kind for stage in todo)
    measured = {kind: count for kind, count in counts.items() if kind in times}
    own = [m for m in known.values() if datetime.fromisoformat(m.started).timestamp() >= since - 1]
    busy = sum(manifest.seconds for manifest in own)
    if not measured or not busy:
        return None
    workers = busy / max(time.time() - since, 1e-9)
    means = {kind: mean(found) for kind, found in times.items()}
    work = sum(count * means[kind] for kind, count in measured.items())
    spread = sum(  # of the stages to come, and of the mean that they are taken from
        (count + count**2 / len(times[kind])) * pstdev(times[kind]) ** 2
        for kind, count in measured.items()
    )
    chain = max(chains(todo, lambda stage: means.get(stage.kind, 0.0)).values())
    low = max((work - 2 * math.sqrt(spread)) / workers, 0.0)
    high = (work + 2 * math.sqrt(spread)) / workers
    return Remaining(
        max(work / workers, chain), max(low, chain), high + chain, sorted({*counts} - {*measured})
    )
