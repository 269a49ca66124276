"""The stage pool: one actor that gives each missing stage to exactly one Ray task.

All callers that want the same key wait for the same task. The pool keeps no state of its own that
matters: finished stages are in the store, and a restarted pool finds them there. Hence its actor
restarts without limit (`max_restarts=-1`), and its `max_concurrency` is high because every waiting
cursor holds one of its asynchronous calls.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import traceback
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import ray
from ray.util.metrics import Gauge

from l2kd_ray.cluster.executors import Job, submit
from l2kd_ray.core.execute import ATTEMPTS
from l2kd_ray.core.stage import Scores, Stage
from l2kd_ray.core.store import Damaged, Store
from l2kd_ray.study.folder import Failure
from l2kd_ray.study.sections import Scale


class StageFailed(RuntimeError):
    """A stage of a trial's path failed; `failure` says which one and why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return f"{self.failure.kind} {self.failure.key} failed: {self.failure.error}"


AHEAD = 50_000
"""Limit of stages started before a cursor asks for them; each takes some kilobytes on the head."""


class StagePool:
    """An asynchronous actor; all methods run on its one event loop.

    Args:
        readers: for each model that may be dropped once nothing reads it any more (`keep: leaves`),
            the keys of the unfinished stages that read it.
        titles: what Ray's dashboard calls stages, by key.
        study: the study's name, a label of the metrics `ray_l2kd_stages`.
    """

    def __init__(
        self,
        store: Store,
        scale: Scale,
        cpus: float,
        readers: Mapping[str, set[str]],
        titles: Mapping[str, str],
        study: str,
    ) -> None:
        self._store, self._scale, self._titles = store, scale, titles
        self._readers = {key: set(keys) for key, keys in readers.items()}
        self._work: dict[str, asyncio.Task[Scores]] = {}
        self._failures: dict[str, Failure] = {}
        # A cluster that grows (infinite CPUs) is shown the whole demand, of GPUs too.
        cluster: Any = ray
        known = cluster.cluster_resources() if cluster.is_initialized() else {}
        gpus = math.inf if math.isinf(cpus) else known.get("GPU", 0.0)
        self._admission = Admission(cpus, gpus)
        self._expected: deque[Stage] = deque()
        self._begun: set[asyncio.Task[None] | None] = set()
        self._running: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._gauge = Gauge(
            "l2kd_stages", "Stages of a sweep by state, for Prometheus.", ("study", "state")
        )
        self._gauge.set_default_tags({"study": study})

    def __repr__(self) -> str:
        return "stage pool"  # in Ray's dashboard

    async def scores(self, stage: Stage) -> Scores:
        """The stage's scores: from the store, or after the stage and its inputs have been run.

        Raises: StageFailed, at once if the stage has failed in this sweep before.
        """
        manifest = await asyncio.to_thread(self._store.manifest, stage.kind, stage.key)
        return manifest.scores if manifest is not None else await self._once(stage)

    async def expect(self, stages: Iterable[Stage]) -> None:
        """Start stages before any cursor asks for them, with their inputs; at most AHEAD at once.

        This shows the whole demand to an autoscaler, which the few cursors alone would hide.
        Failures are not raised here but to the caller that asks for the stage later.
        """
        self._expected.extend(stages)
        self._fill()

    def _fill(self, ended: asyncio.Task[None] | None = None) -> None:
        self._begun.discard(ended)
        while self._expected and len(self._begun) < AHEAD:
            begun = asyncio.create_task(self._begin(self._expected.popleft()))
            self._begun.add(begun)
            begun.add_done_callback(self._fill)

    async def _begin(self, stage: Stage) -> None:
        with suppress(StageFailed):
            await self._once(stage)

    async def progress(self) -> dict[str, Any]:
        """Counts of finished and running stages by kind, and the failures so far."""
        return {
            "done": dict(self._done),
            "running": dict(+self._running),
            "failures": list(self._failures.values()),
        }

    async def _once(self, stage: Stage) -> Scores:
        """Run the stage, or wait for the task that runs it already."""
        if stage.key not in self._work:
            self._work[stage.key] = asyncio.create_task(self._do(stage))
        # Shielded: a cursor that is cancelled must not cancel the work that others wait for.
        return await asyncio.shield(self._work[stage.key])

    async def _files(self, stage: Stage) -> None:
        """Wait until the files of an input are in the store."""
        if not await asyncio.to_thread(self._store.has_files, stage.kind, stage.key):
            await self._once(stage)

    async def _do(self, stage: Stage) -> Scores:
        inputs = dict(stage.inputs())
        # The pool awaits the inputs itself instead of passing Ray their references: a damaged input
        # is then simply missing, and asking for it again is the whole repair.
        for _ in range(ATTEMPTS):
            try:
                await asyncio.gather(*(self._files(source) for source in inputs.values()))
                scores = await self._run(stage)
            except StageFailed:
                raise
            except Damaged as damage:
                await self._forget(damage)
                last: Exception = damage
            except Exception as error:
                last = error
                break
            else:
                await asyncio.to_thread(self._release, stage, list(inputs.values()))
                return scores
        failure = Failure(stage.kind, stage.key, _message(last), _traceback(last))
        self._failures[stage.key] = failure
        self._measure()
        raise StageFailed(failure) from None

    async def _forget(self, damage: Damaged) -> None:
        """Forget a damaged stage that the store withdrew: the next request runs it again."""
        work = self._work.get(damage.key)
        there = await asyncio.to_thread(self._store.has_files, damage.kind, damage.key)
        if work is not None and work.done() and not there:
            self._work.pop(damage.key, None)

    async def _run(self, stage: Stage) -> Scores:
        job = Job.of(stage, self._scale)
        async with self._admission.of(job):
            self._running[stage.kind] += 1
            self._measure()
            try:
                scores: Scores = await submit(
                    job, self._store, self._titles.get(stage.key, stage.kind)
                )
            finally:
                self._running[stage.kind] -= 1
        self._done[stage.kind] += 1
        self._measure()
        return scores

    def _measure(self) -> None:
        """Tell Ray's metrics how many stages there are in each state."""
        running, done, failed = self._running.total(), self._done.total(), len(self._failures)
        waiting = len(self._work) - running - done - failed
        counts = {"waiting": waiting, "running": running, "done": done, "failed": failed}
        for state, count in counts.items():
            self._gauge.set(max(count, 0), {"state": state})

    def _release(self, stage: Stage, inputs: Iterable[Stage]) -> None:
        """Drop the files of inputs that no unfinished stage reads any more."""
        for source in inputs:
            readers = self._readers.get(source.key)
            if readers is not None:
                readers.discard(stage.key)
                if not readers:
                    self._store.drop_files(source.kind, source.key)


class Admission:
    """Admits stages while their CPUs and GPUs fit into the cluster; distributed ones come first.

    Small stages that fill every gap would keep a worker group waiting for ever.
    """

    def __init__(self, cpus: float, gpus: float = 0.0) -> None:
        self._cpus, self._gpus = cpus, gpus
        self._waiting: list[tuple[bool, int, Job, asyncio.Future[None]]] = []
        self._arrival = itertools.count()

    @asynccontextmanager
    async def of(self, job: Job) -> AsyncIterator[None]:
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # False sorts first: distributed stages, then by arrival.
        entry = (not job.distributed, next(self._arrival), job, admitted)
        heapq.heappush(self._waiting, entry)
        self._admit()
        try:
            await admitted
            yield
        finally:
            # A cancelled waiter never took its CPUs, so it gives none back.
            if admitted.done() and not admitted.cancelled():
                self._cpus += job.cpus
                self._gpus += job.gpus
            self._admit()

    def _admit(self) -> None:
        # Strictly in order: a stage that does not fit yet blocks the smaller ones behind it.
        while self._waiting:
            _, _, job, admitted = self._waiting[0]
            if not (admitted.cancelled() or self._fits(job)):
                break
            heapq.heappop(self._waiting)
            if not admitted.cancelled():
                self._cpus -= job.cpus
                self._gpus -= job.gpus
                admitted.set_result(None)

    def _fits(self, job: Job) -> bool:
        # Tenths of a card do not add up to it exactly.
        return job.cpus <= self._cpus and job.gpus <= self._gpus + 1e-6


def _message(error: BaseException) -> str:
    """The first line of the stage's own error, without Ray's wrapping."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
