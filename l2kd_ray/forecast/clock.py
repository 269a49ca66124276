"""The virtual cluster: stages wait for inputs; machines boot, idle and are preempted."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from l2kd_ray.core.stage import TrainingStage
from l2kd_ray.forecast.machines import Cluster, Group
from l2kd_ray.forecast.trie import Trie


@dataclass(frozen=True)
class Assumptions:
    """Behaviour of a cluster that no manifest records; times in seconds."""

    boot_s: float = 240.0
    """Time from the autoscaler's request to a worker that takes stages."""
    idle_s: float = 300.0
    """Time after which a machine without work is released."""
    preempted_per_hour: float = 0.05
    """Rate at which a spot machine is preempted (lifetimes are exponential)."""
    checkpoint_s: float = 60.0
    """A training loses at most this much work when it is interrupted."""
    start_s: float = 2.0
    """Overhead of each start of a stage: scheduling, fetching its inputs."""
    seed: int = 0


@dataclass(eq=False)
class _Worker:
    """A machine that was requested: it boots, runs stages, and goes."""

    group: int
    since: float
    slots: int
    free: int = 0
    running: set[int] = field(default_factory=set)
    idle_since: float = 0.0
    alive: bool = True


_FINISHED, _BOOTED, _TAKEN, _IDLE = range(4)


class Clock:
    """The state of the virtual cluster, advanced event by event."""

    def __init__(
        self,
        trie: Trie,
        cluster: Cluster,
        seconds: list[float],
        slots: list[int],
        widths: list[int],
        rank: list[float] | None,
        assumed: Assumptions,
    ) -> None:
        self.trie, self.cluster, self.seconds = trie, cluster, seconds
        self.slots, self.widths, self.rank, self.how = slots, widths, rank, assumed
        self.random = np.random.default_rng(assumed.seed)
        saves = {kind: isinstance(one, TrainingStage) for kind, one in trie.first.items()}
        self.saves = [saves[kind] for kind in trie.kinds]  # whose loop keeps checkpoints
        self.waits_for = [len(inputs) for inputs in trie.inputs]
        self.readers = readers_of(trie)
        self.now, self.number, self.left = 0.0, 0, len(trie)
        self.events: list[tuple[float, int, int, int, int]] = []  # ..., subject, attempt
        self.ready: list[tuple[bool, float, int, int]] = []
        self.workers: list[_Worker] = []
        self.count = [0] * len(cluster.groups)
        self.open: list[int] = []  # workers with a free slot, the last opened last
        self.demand = self.free = self.coming = 0  # slots: waited for, free, booting
        self.saved = [0.0] * len(trie)  # seconds of work that need not be done again
        self.began = [0.0] * len(trie)
        self.attempt = [0] * len(trie)
        self.places: list[tuple[int, ...]] = [()] * len(trie)
        self.finish = np.zeros(len(trie))
        self.up: list[tuple[float, float, Group]] = []
        self.busy = self.lost = self.starts = self.available = 0.0
        self.preemptions = 0

    def run(self) -> None:
        for number, group in enumerate(self.cluster.groups):
            for _ in range(group.least):
                self._launch(number)
        for stage, count in enumerate(self.waits_for):
            if count == 0:
                self._make_ready(stage)
        self._ask()
        while self.left:
            self.now, _, event, subject, attempt = heappop(self.events)
            if event == _FINISHED:
                if self.attempt[subject] != attempt:
                    continue  # it was lost before
                self._finished(subject)
            elif self.workers[subject].alive:
                self._happened(event, subject)
            self._place()
            self._ask()
        for number, worker in enumerate(self.workers):
            if worker.alive:
                self._gone(number)

    def _at(self, time: float, event: int, subject: int, attempt: int = 0) -> None:
        self.number += 1
        heappush(self.events, (time, self.number, event, subject, attempt))

    # Stages

    def _make_ready(self, stage: int) -> None:
        self.number += 1
        rank = self.number if self.rank is None else self.rank[stage]
        width = self.widths[stage]
        # Wide ones first, as the pool admits them: small ones would fill every gap for ever.
        heappush(self.ready, (width == 1, rank, self.number, stage))
        self.demand += width

    def _place(self) -> None:
        while self.ready and self.widths[self.ready[0][3]] <= self.free:
            stage = heappop(self.ready)[3]
            width = self.widths[stage]
            self.demand -= width
            self.free -= width
            self.places[stage] = tuple(self._take(stage) for _ in range(width))
            self.began[stage] = self.now
            left = self.seconds[stage] - self.saved[stage]
            self._at(self.now + self.how.start_s + left, _FINISHED, stage, self.attempt[stage])

    def _take(self, stage: int) -> int:
        """Take a slot of the worker that was opened last, so that the others may idle and go."""
        while True:
            number = self.open[-1]
            worker = self.workers[number]
            if worker.alive and worker.free:
                break
            self.open.pop()
        worker.free -= 1
        worker.running.add(stage)
        if not worker.free:
            self.open.pop()
        return number

    def _give_back(self, stage: int) -> None:
        width, spent = self.widths[stage], self.now - self.began[stage]
        self.busy += width * spent
        self.starts += width * min(spent, self.how.start_s)
        for number in self.places[stage]:
            worker = self.workers[number]
            worker.running.discard(stage)
            if not worker.alive:
                continue
            worker.free += 1
            self.free += 1
            if worker.free == 1 or worker.free == worker.slots:
                self.open.append(number)
            if worker.free == worker.slots:
                self._watch(number)

    def _finished(self, stage: int) -> None:
        self._give_back(stage)
        self.finish[stage] = self.now
        self.left -= 1
        for reader in self.readers[stage]:
            self.waits_for[reader] -= 1
            if self.waits_for[reader] == 0:
                self._make_ready(reader)

    def _interrupted(self, stage: int) -> None:
        """Reset a stage to its last checkpoint and queue it again."""
        worked = max(0.0, self.now - self.began[stage] - self.how.start_s)
        every = self.how.checkpoint_s
        kept = worked // every * every if self.saves[stage] else 0.0
        self.saved[stage] += kept
        self.lost += self.widths[stage] * (worked - kept)
        self.attempt[stage] += 1
        self._give_back(stage)
        self._make_ready(stage)

    # Machines

    def _happened(self, event: int, number: int) -> None:
        worker = self.workers[number]
        if event == _BOOTED:
            self.coming -= worker.slots
            self.free += worker.slots
            worker.free = worker.slots
            self.open.append(number)
            self._watch(number)
        elif event == _TAKEN:
            self.preemptions += 1
            self._gone(number)
            for stage in sorted(worker.running):
                self._interrupted(stage)
        elif self._is_idle(worker):
            self._gone(number)

    def _is_idle(self, worker: _Worker) -> bool:
        """True if the worker has idled long enough and its group may shrink."""
        idle = worker.free == worker.slots and self.now >= worker.idle_since + self.how.idle_s
        return idle and self.count[worker.group] > self.cluster.groups[worker.group].least

    def _watch(self, number: int) -> None:
        """Schedule the moment at which a worker without work may go."""
        self.workers[number].idle_since = self.now
        self._at(self.now + self.how.idle_s, _IDLE, number)

    def _ask(self) -> None:
        """Request machines while more slots are waited for than are free or booting."""
        while self.demand > self.free + self.coming:
            room = [n for n, group in enumerate(self.cluster.groups) if self.count[n] < group.most]
            if not room:
                return
            self._launch(room[0])

    def _launch(self, group: int) -> None:
        worker = _Worker(group, self.now, self.slots[group])
        self.workers.append(worker)
        self.count[group] += 1
        self.coming += worker.slots
        number = len(self.workers) - 1
        self._at(self.now + self.how.boot_s, _BOOTED, number)
        rate = self.how.preempted_per_hour
        if self.cluster.groups[group].spot and rate > 0:
            life = float(self.random.exponential(3600 / rate))
            self._at(self.now + self.how.boot_s + life, _TAKEN, number)

    def _gone(self, number: int) -> None:
        worker = self.workers[number]
        worker.alive = False
        group = self.cluster.groups[worker.group]
        self.up.append((worker.since, self.now, group))
        booted = worker.since + self.how.boot_s
        if self.now >= booted:
            self.available += worker.slots * (self.now - booted)
            self.free -= worker.free
        else:
            self.coming -= worker.slots
        self.count[worker.group] -= 1


def readers_of(trie: Trie) -> list[list[int]]:
    """[stages]: the stages that read each stage."""
    readers: list[list[int]] = [[] for _ in range(len(trie))]
    for stage, inputs in enumerate(trie.inputs):
        for source in inputs:
            readers[source].append(stage)
    return readers
