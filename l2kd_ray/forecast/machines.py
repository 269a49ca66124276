"""A cluster as one line of text, `head + 0..64 x g5.xlarge spot`, and its machines' prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2kd_ray.errors import InputError
from l2kd_ray.study import yaml12

if TYPE_CHECKING:
    import pandas as pd

_GROUP = re.compile(
    r"(?:(?P<least>\d+)\s*\.\.\s*)?(?P<most>\d+)\s*x\s*(?P<type>[\w.-]+)"
    r"(?:\s+(?P<market>spot|on-demand))?"
)
_HEAD = re.compile(r"head(?:\s+(?P<type>[\w.-]+))?")
_GRAMMAR = 'head [TYPE] + [MIN..]MAX x TYPE [spot|on-demand], as "head + 0..64 x g5.xlarge spot"'
_HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Machine:
    """A type of machine; prices in US dollars per hour, including its disk."""

    name: str
    cpus: float
    gpus: float
    on_demand: float
    spot: float

    def slots(self, cpus: float, gpus: float) -> int:
        """The number of workers of this size that fit on the machine at once."""
        by_cpu = int(self.cpus / cpus)
        return min(by_cpu, int(self.gpus / gpus)) if gpus > 0 else by_cpu


@dataclass(frozen=True)
class Group:
    """Workers of one machine type: as many as needed, at least `least`, at most `most`."""

    machine: Machine
    least: int
    most: int
    spot: bool

    @property
    def usd_per_hour(self) -> float:
        return self.machine.spot if self.spot else self.machine.on_demand

    def __str__(self) -> str:
        market = "spot" if self.spot else "on-demand"
        return f"{self.least}..{self.most} x {self.machine.name} {market}"


@dataclass(frozen=True)
class Prices:
    """The price table, read from a YAML file; this package's own table holds assumptions."""

    as_of: str
    region: str
    machines: Mapping[str, Machine]
    head: str
    storage_gb_month: float

    @classmethod
    def read(cls, path: Path | None = None) -> Prices:
        """Read a price table. Raises: InputError for a file of another form."""
        own = files("l2kd_ray.forecast").joinpath("prices.yaml")
        table: Any = yaml12.read(path) if path else yaml12.load(own.read_text("utf-8"))
        try:
            disk = table["disk_gb"] * table["disk_gb_month"] / _HOURS_A_MONTH
            machines = {
                name: _machine(name, **values, disk=disk if name != "local" else 0.0)
                for name, values in table["machines"].items()
            }
            return cls(
                str(table["as_of"]),
                table["region"],
                machines,
                table["head"],
                table["storage_gb_month"],
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"not a price table: {type(error).__name__}: {error}",
                where=str(path),
                expected="the keys of l2kd_ray/forecast/prices.yaml",
            ) from None


def priced(hours: pd.DataFrame, prices: Prices | None = None) -> pd.DataFrame:
    """The hours with `usd` and `prices`, which says at which machines' prices.

    A core-hour costs its share of the cheapest machine without a GPU, a GPU-hour that of the
    cheapest with one, both on demand. `hours`: rows of `study.work.hours_by_method`.
    """
    prices = prices or Prices.read()
    paid = [machine for machine in prices.machines.values() if machine.on_demand > 0]
    core = min((m for m in paid if not m.gpus), key=lambda m: m.on_demand / m.cpus)
    gpu = min((m for m in paid if m.gpus), key=lambda m: m.on_demand / m.gpus)
    usd = (
        hours["core_hours"] * core.on_demand / core.cpus
        + hours["gpu_hours"] * gpu.on_demand / gpu.gpus
    )
    words = f"{core.name}, {gpu.name}, on demand, {prices.as_of}; an assumption"
    return hours.assign(usd=usd, prices=words)


def _machine(
    name: str, *, cpus: float, gpus: float, on_demand: float, spot: float, disk: float
) -> Machine:
    return Machine(name, cpus, gpus, on_demand + disk, spot + disk)


@dataclass(frozen=True)
class Cluster:
    """A head, which is always up and on demand, and groups of workers."""

    head: Machine
    groups: tuple[Group, ...]
    prices: Prices

    @classmethod
    def parse(cls, text: str, prices: Prices | None = None) -> Cluster:
        """Parse a cluster. Raises: InputError for other text, or a type without a price."""
        prices = prices or Prices.read()

        def machine(name: str) -> Machine:
            if name not in prices.machines:
                raise InputError(
                    "no price is known of this type of machine",
                    key="--cluster",
                    got=name,
                    expected=", ".join(prices.machines),
                    fix="add it to a copy of l2kd_ray/forecast/prices.yaml and name that: --prices",
                )
            return prices.machines[name]

        first, *rest = [part.strip() for part in text.split("+")]
        head, found = _HEAD.fullmatch(first), [_GROUP.fullmatch(part) for part in rest]
        groups = [
            Group(
                machine(m["type"]),
                least=int(m["least"] or m["most"]),
                most=int(m["most"]),
                spot=m["market"] == "spot",
            )
            for m in found
            if m
        ]
        bad = any(group.least > group.most or group.most == 0 for group in groups)
        if head is None or not groups or len(groups) < len(found) or bad:
            raise InputError("not a cluster", key="--cluster", got=text, expected=_GRAMMAR)
        return cls(machine(head["type"] or prices.head), tuple(groups), prices)

    def __str__(self) -> str:
        return " + ".join([f"head {self.head.name}", *map(str, self.groups)])
