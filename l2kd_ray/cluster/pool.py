"""The stage pool: one actor that gives each missing stage to exactly one Ray task.

Whoever asks for a key waits for the same task. The pool holds no truth: what is finished stands
in the store, and a pool that was restarted finds it there.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from l2kd_ray.cluster.executors import Job, Scores, submit
from l2kd_ray.config import Scale
from l2kd_ray.stages.base import Stage
from l2kd_ray.store import Damaged, Store

_RECOMPUTED_AT_MOST = 3  # times that one stage's damaged inputs are computed again


@dataclass(frozen=True)
class Failure:
    """A stage that failed; its trials fail with it, the others go on."""

    kind: str
    key: str
    error: str
    traceback: str


class StageFailed(RuntimeError):
    """A stage of the path failed. `failure` says which one and why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return f"{self.failure.kind} {self.failure.key} failed: {self.failure.error}"


class StagePool:
    """Runs in an asynchronous actor; every method belongs to its one event loop."""

    def __init__(self, store: Store, scale: Scale, cpus: float) -> None:
        self._store, self._scale = store, scale
        self._results: dict[str, asyncio.Task[Scores]] = {}
        self._failures: dict[str, Failure] = {}
        self._admission = Admission(cpus)
        self._running: Counter[str] = Counter()
        self._done: Counter[str] = Counter()

    async def scores(self, stage: Stage) -> Scores:
        """The stage's scores: from the store, or once it (and what it needs) is done.

        Raises: StageFailed, at once where the stage has failed in this sweep before.
        """
        if stage.key not in self._results:
            self._results[stage.key] = asyncio.create_task(self._obtain(stage))
        return await asyncio.shield(self._results[stage.key])

    async def progress(self) -> dict[str, Any]:
        """Stages done by this pool and running now, by kind; failures so far."""
        return {
            "done": dict(self._done),
            "running": dict(+self._running),
            "failures": list(self._failures.values()),
        }

    async def _obtain(self, stage: Stage) -> Scores:
        manifest = await asyncio.to_thread(self._store.manifest, stage.kind, stage.key)
        if manifest is not None:
            return manifest.scores
        inputs = dict(stage.inputs())
        for _ in range(_RECOMPUTED_AT_MOST):
            await asyncio.gather(*(self.scores(source) for source in inputs.values()))
            try:
                return await self._run(stage)
            except Damaged as damage:
                # An input was torn in the store; it is withdrawn, so asking again computes it.
                self._results.pop(damage.key, None)
                last: Exception = damage
            except Exception as error:
                last = error
                break
        failure = Failure(stage.kind, stage.key, _message(last), _traceback(last))
        self._failures[stage.key] = failure
        raise StageFailed(failure) from None

    async def _run(self, stage: Stage) -> Scores:
        job = Job.of(stage, self._scale)
        async with self._admission.of(job):
            self._running[stage.kind] += 1
            try:
                scores: Scores = await submit(job, self._store)
            finally:
                self._running[stage.kind] -= 1
        self._done[stage.kind] += 1
        return scores


class Admission:
    """Lets stages start while their CPUs fit into the cluster's; distributed ones come first.

    A small stage that fills every gap would keep a worker group waiting for ever.
    """

    def __init__(self, cpus: float) -> None:
        self._free = cpus
        self._waiting: list[tuple[bool, int, float, asyncio.Future[None]]] = []
        self._arrival = itertools.count()

    @asynccontextmanager
    async def of(self, job: Job) -> AsyncIterator[None]:
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (not job.distributed, next(self._arrival), job.cpus, admitted)
        heapq.heappush(self._waiting, entry)
        self._admit()
        try:
            await admitted
            yield
        finally:
            if admitted.done() and not admitted.cancelled():
                self._free += job.cpus
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][2] <= self._free:
            _, _, cpus, admitted = heapq.heappop(self._waiting)
            if not admitted.cancelled():
                self._free -= cpus
                admitted.set_result(None)


def _message(error: BaseException) -> str:
    """The stage's own words: of Ray's wrapping, the cause."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
