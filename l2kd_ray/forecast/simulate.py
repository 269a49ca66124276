"""The simulation of a sweep on an autoscaling cluster with a virtual clock.

A discrete-event simulation (list scheduling; Graham 1969): stages become ready when their inputs
end; machines are requested while stages wait, boot, idle, and are preempted. Each worker of a stage
takes one slot of a machine. Interrupted work is resumed from its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from l2kd_ray.forecast.clock import Assumptions, Clock, readers_of
from l2kd_ray.forecast.machines import Cluster, Group
from l2kd_ray.forecast.trie import Trie

Policy = Literal["arrival", "critical", "design"]
POLICIES: tuple[Policy, ...] = ("arrival", "critical", "design")
"""The order in which ready stages are started.

`arrival`: the one that has waited longest. `critical`: the one with the longest path to the end
(critical path first). `design`: the one whose trial is first in the design.
"""


@dataclass
class Forecast:
    """The result of a simulation; `finish[s]` is when stage s ended, in seconds from the start."""

    makespan_s: float
    finish: NDArray[np.float64]
    up: list[tuple[float, float, Group]]
    """The interval in which each machine was paid for."""
    cluster: Cluster
    work_s: float
    """Worker-seconds of the stages themselves."""
    lost_s: float
    """Worker-seconds of work lost to preemption and done again."""
    starts_s: float
    busy_s: float
    """Worker-seconds in which slots were taken: work, lost work, and starts."""
    available_s: float
    """Worker-seconds in which slots were up."""
    preemptions: int
    peak_bytes: float

    @property
    def utilisation(self) -> float:
        return self.busy_s / self.available_s if self.available_s else 0.0

    @property
    def machine_hours(self) -> float:
        """Paid hours of the workers, without the head."""
        return sum(end - begin for begin, end, _ in self.up) / 3600

    def usd(self, until: float = math.inf) -> float:
        """Dollars spent by some second: the head, the workers, and a month of storage."""
        end = min(until, self.makespan_s)
        workers = sum(
            group.usd_per_hour * max(0.0, min(stop, end) - start) for start, stop, group in self.up
        )
        storage = self.peak_bytes / 1e9 * self.cluster.prices.storage_gb_month
        return (self.cluster.head.on_demand * end + workers) / 3600 + storage

    def affordable_s(self, budget: float) -> float:
        """The second at which the budget is spent; infinity if it lasts (by bisection)."""
        if self.usd() <= budget:
            return math.inf
        low, high = 0.0, self.makespan_s
        while high - low > 1:
            middle = (low + high) / 2
            low, high = (middle, high) if self.usd(middle) <= budget else (low, middle)
        return low

    def ends(self, trie: Trie) -> NDArray[np.float64]:
        """[trials]: when each trial was complete; 0 if nothing of it was left to do."""
        return np.array([self.finish[cells].max() if len(cells) else 0.0 for cells in trie.trials])


def complete_by(trie: Trie, ends: NDArray[np.float64], second: float) -> dict[str, int]:
    """Number of trials, orders (with all their trials) and seeds that have ended by some second."""
    late_orders, late_seeds = set[str](), set[str]()
    for (order, seed), end in zip(trie.names, ends, strict=True):
        if end > second:
            late_orders.add(order)
            late_seeds.add(seed)
    orders = {order for order, _ in trie.names if order}
    return {
        "trials": int((ends <= second).sum()),
        "orders": len(orders - late_orders),
        "seeds": len({seed for _, seed in trie.names} - late_seeds),
    }


def simulate(
    trie: Trie,
    cluster: Cluster,
    seconds: NDArray[np.float64],
    *,
    slots: Sequence[int] = (),
    widths: Sequence[int] = (),
    sizes: NDArray[np.float64] | None = None,
    drops: bool = False,
    policy: Policy = "arrival",
    assumed: Assumptions | None = None,
) -> Forecast:
    """Run the stages of `trie` on `cluster`.

    Args:
        seconds: [stages], time of each stage on one slot.
        slots: workers that a machine of each group holds (default 1).
        widths: [stages], workers that each stage needs at once (default 1).
        sizes: [stages], bytes of the files of each stage.
        drops: the files of a model are removed once nothing reads it (`keep: leaves`).

    Raises: ValueError if a stage needs more slots than all machines have.
    """
    slots = slots or [1] * len(cluster.groups)
    widths = widths or [1] * len(trie)
    limit = sum(group.most * n for group, n in zip(cluster.groups, slots, strict=True))
    if max(widths, default=1) > limit:
        raise ValueError(f"a stage needs {max(widths)} slots at once; all machines have {limit}")
    rank = _rank(trie, seconds, policy)
    how = assumed or Assumptions()
    clock = Clock(trie, cluster, seconds.tolist(), list(slots), list(widths), rank, how)
    clock.run()
    return Forecast(
        makespan_s=clock.now,
        finish=clock.finish,
        up=clock.up,
        cluster=cluster,
        work_s=float((seconds * np.array(widths, dtype=float)).sum()),
        lost_s=clock.lost,
        starts_s=clock.starts,
        busy_s=clock.busy,
        available_s=clock.available,
        preemptions=clock.preemptions,
        peak_bytes=_peak(trie, clock.finish, sizes, drops) if sizes is not None else 0.0,
    )


def _rank(trie: Trie, seconds: NDArray[np.float64], policy: Policy) -> list[float] | None:
    """[stages]: priorities, smallest first; None: first come, first served."""
    if policy == "critical":
        ranks: list[float] = (-trie.to_the_end(seconds)).tolist()
        return ranks
    if policy == "design":
        first = [math.inf] * len(trie)
        for number, cells in enumerate(trie.trials):
            for stage in cells.tolist():
                first[stage] = min(first[stage], number)
        for stage in range(len(trie) - 1, -1, -1):
            for source in trie.inputs[stage]:
                first[source] = min(first[source], first[stage])
        return first
    return None


def _peak(
    trie: Trie, finish: NDArray[np.float64], sizes: NDArray[np.float64], drops: bool
) -> float:
    """The most bytes stored at once; with `drops`, models are removed after their last reader."""
    times, changes = [finish], [sizes]
    if drops:
        last = np.full(len(trie), math.inf)
        models = np.zeros(len(trie), dtype=bool)
        for stage, readers in enumerate(readers_of(trie)):
            if trie.kinds[stage] == "learn" and any(trie.kinds[r] == "learn" for r in readers):
                models[stage], last[stage] = True, finish[readers].max()
        times.append(last[models])
        changes.append(-sizes[models])
    sequence = np.argsort(np.concatenate(times), kind="stable")
    held = np.cumsum(np.concatenate(changes)[sequence])
    return float(held.max(initial=0.0))
