"""A forecast of a study on a cluster: time, cost, progress (`l2kd plan STUDY --cluster ...`)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2kd_ray.core.reader import AnyStore
from l2kd_ray.errors import InputError
from l2kd_ray.forecast.clock import Assumptions
from l2kd_ray.forecast.machines import Cluster
from l2kd_ray.forecast.simulate import POLICIES, Forecast, complete_by, simulate
from l2kd_ray.forecast.trie import Trie, measured, trie_of, widths
from l2kd_ray.study.study import Study

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Course:
    """One policy's schedule, and the work that is complete by each given limit."""

    policy: str
    hours: float
    usd: float
    machine_hours: float
    utilisation: float
    lost_hours: float
    preemptions: int
    peak_gb: float
    by: Mapping[str, Mapping[str, int]]
    """For each limit, the trials, orders (with all trials) and seeds complete by it."""


@dataclass(frozen=True)
class Prospect:
    """A study on a cluster that does not exist yet."""

    cluster: Cluster
    stages: Mapping[str, int]
    trials: int
    orders: int
    seconds: Mapping[str, float]
    """Assumed seconds of a stage of each kind."""
    source: Mapping[str, str]
    """The source of each number of `seconds`: given, the store, or assumed."""
    assumed: Assumptions
    notes: Sequence[str]
    courses: Sequence[Course]
    unshared_hours: float
    """Worker-hours if each trial ran all of its stages itself; `work_hours`: with sharing."""
    work_hours: float

    def to_json(self) -> dict[str, Any]:
        body = asdict(self)
        return {**body, "cluster": str(self.cluster), "prices_as_of": self.cluster.prices.as_of}

    def lines(self) -> Iterator[str]:
        """The forecast as text for people."""
        prices = self.cluster.prices
        yield f"{self.cluster}: {self.trials} trials, {sum(self.stages.values())} stages to do"
        for kind, count in sorted(self.stages.items()):
            yield f"  {kind:<10} {count:>9} x {self.seconds[kind]:9.1f} s ({self.source[kind]})"
        yield (
            f"{'first':<10} {'hours':>7} {'USD':>9} {'machine-h':>10} {'busy':>6} {'lost h':>7}"
            f" {'taken':>6} {'disk GB':>9}"
        )
        for c in self.courses:
            yield (
                f"{c.policy:<10} {c.hours:>7.2f} {c.usd:>9.2f} {c.machine_hours:>10.1f}"
                f" {c.utilisation:>6.0%} {c.lost_hours:>7.1f} {c.preemptions:>6} {c.peak_gb:>9.1f}"
            )
            for limit, done in c.by.items():
                yield (
                    f"  by {limit}: {done['trials']} of {self.trials} trials; {done['orders']} of "
                    f"{self.orders} orders and {done['seeds']} seeds are complete"
                )
        ratio = self.unshared_hours / self.work_hours if self.work_hours else 1.0
        yield (
            f"Work: {self.work_hours:.1f} worker-hours, {self.unshared_hours:.1f} if nothing were "
            f"shared ({ratio:.1f} times as many, and as much for workers at the same utilisation)."
        )
        how = ", ".join(f"{name}={value:g}" for name, value in asdict(self.assumed).items())
        yield f"Assumed: {how} (to change: --assume boot_s=120)."
        yield (
            f"Prices are assumptions as of {prices.as_of} ({prices.region}): check them, and name "
            "your own table with --prices."
        )
        yield from self.notes


def forecast(
    study: Study,
    source: AnyStore,
    cluster: Cluster,
    *,
    deadline_s: float | None = None,
    budget_usd: float | None = None,
    seconds: Mapping[str, float] | None = None,
    assumed: Assumptions | None = None,
) -> Prospect:
    """Simulate the missing stages of `study`, once with each policy.

    Args:
        seconds: time of a stage of each kind on one worker of this cluster; else the mean of the
            store's manifests (from whatever machine), else a default.

    Raises: InputError if a stage does not fit the cluster.
    """
    trie = trie_of(study, source)
    known_s, known_bytes = measured(source, trie.first)
    given = dict(seconds or {})
    by_kind = trie.seconds({**known_s, **given})
    origin = {k: "given" if k in given else "store" if k in known_s else "assumed" for k in by_kind}
    how = replace(assumed or Assumptions(), checkpoint_s=study.config.scale.checkpoint_seconds)
    took, sizes = trie.values(by_kind), trie.values(trie.bytes(known_bytes))
    slots, wide = _slots(study, cluster, trie), widths(trie, study.config.scale)
    courses = []
    for policy in POLICIES:
        try:
            found = simulate(
                trie,
                cluster,
                took,
                slots=slots,
                widths=wide,
                sizes=sizes,
                drops=study.config.keep == "leaves",
                policy=policy,
                assumed=how,
            )
        except ValueError as error:
            raise InputError(str(error), key="--cluster", got=str(cluster)) from None
        courses.append(_course(policy, trie, found, deadline_s, budget_usd))
    workers = dict(zip(trie.kinds, wide, strict=True))
    alone = sum(n * by_kind[kind] * workers[kind] for kind, n in trie.unshared().items())
    return Prospect(
        cluster,
        stages=dict(Counter(trie.kinds)),
        trials=len(trie.trials),
        orders=len({order for order, _ in trie.names if order}),
        seconds=by_kind,
        source=origin,
        assumed=how,
        notes=[f"Taken to be so: {trie.assumed}."] if trie.assumed else [],
        courses=courses,
        unshared_hours=alone / 3600,
        work_hours=float((took * wide).sum()) / 3600,
    )


def _course(
    policy: str, trie: Trie, found: Forecast, deadline: float | None, budget: float | None
) -> Course:
    ends: NDArray[np.float64] = found.ends(trie)
    limits: dict[str, float] = {}
    if deadline is not None:
        limits[f"{deadline / 3600:g} h"] = deadline
    if budget is not None:
        limits[f"{budget:g} USD"] = found.affordable_s(budget)
    if deadline is not None and budget is not None:
        limits["both"] = min(limits.values())
    return Course(
        policy,
        hours=found.makespan_s / 3600,
        usd=found.usd(),
        machine_hours=found.machine_hours,
        utilisation=found.utilisation,
        lost_hours=found.lost_s / 3600,
        preemptions=found.preemptions,
        peak_gb=found.peak_bytes / 1e9,
        by={name: complete_by(trie, ends, second) for name, second in limits.items()},
    )


def _slots(study: Study, cluster: Cluster, trie: Trie) -> list[int]:
    """Workers that a machine of each group holds: of the largest that any kind asks for."""
    requests = [study.config.scale.of(stage) for stage in trie.first.values()]
    cpus = max((workers.cpus_per_worker for workers in requests), default=1)
    gpus = max((workers.gpus_per_worker for workers in requests), default=0)
    slots = [group.machine.slots(cpus, gpus) for group in cluster.groups]
    if not all(slots):
        raise InputError(
            "a machine holds no worker of this study",
            key="--cluster",
            got=str(cluster),
            expected=f"{cpus:g} CPUs and {gpus:g} GPUs in each",
            fix="name a larger type, or lower scale.cpus_per_worker or scale.gpus_per_worker",
        )
    return slots


def parse_duration(text: str) -> float:
    """The seconds of `8h`, `90m`, `30s`, `2d`. Raises: InputError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if found is None or not float(found[1]):
        raise InputError("not a duration", key="--deadline", got=text, expected="as 8h, 90m, 2d")
    return float(found[1]) * _UNITS[found[2]]


def parse_money(text: str) -> float:
    """The dollars of `200usd`, `$200` or `200`. Raises: InputError."""
    found = re.fullmatch(r"\$?\s*(\d+(?:\.\d+)?)\s*(?:usd|USD)?", text.strip())
    if found is None:
        raise InputError("not an amount", key="--budget", got=text, expected="as 200usd")
    return float(found[1])


def parse_numbers(option: str, pairs: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """The numbers of `name=value` pairs. Raises: InputError for other names or invalid numbers."""
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if name not in names or not 0 <= found[name] < math.inf:
            raise InputError(
                "not understood",
                key=option,
                got=pair,
                expected=f"NAME=NUMBER of {', '.join(names)}",
            )
    return found


def parse_assumptions(pairs: Sequence[str]) -> Assumptions:
    """Assumptions from `name=value` pairs. Raises: InputError for an unknown name."""
    names = [field.name for field in fields(Assumptions) if field.name != "checkpoint_s"]
    found: dict[str, Any] = parse_numbers("--assume", pairs, names)
    if "seed" in found:
        found["seed"] = int(found["seed"])
    return Assumptions(**found)
