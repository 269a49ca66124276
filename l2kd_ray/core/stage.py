"""A stage: one unit of work, a pure function of its own fields, named by their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from l2kd_ray.core.store import Store

T = TypeVar("T")
R = TypeVar("R")
Scores = Mapping[str, float]
CURVE, STATE = "curve.json", "state.safetensors"
"""Beside a trained model: a row a step of its training; what a later part of it goes on from."""


@dataclass(frozen=True)
class Context:
    """Where a stage runs: its inputs' files, an empty folder for its own, and its co-workers.

    With `world_size` above 1 the processes of the stage stand in one torch.distributed group;
    rank 0 alone leaves files.
    """

    store: Store
    out: Path
    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    checkpoint_seconds: float = 60.0
    leaving: Callable[[], bool] = lambda: False
    """Whether this machine is about to go: asked after each step, true once for each notice."""

    def files_of(self, stage: Stage) -> Path:
        """The verified files of an input. Raises: store.Damaged."""
        return self.store.fetch(stage.kind, stage.key)

    def shared_out(self, work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
        """What `work` makes of each item: every worker does its share, and has all of it then."""
        share = items[self.rank :: self.world_size]
        mine = work(share) if share else []
        if self.world_size == 1:
            return mine
        from torch.distributed import all_gather_object

        parts: list[list[R]] = [[] for _ in range(self.world_size)]
        all_gather_object(parts, mine)
        return [parts[n % self.world_size][n // self.world_size] for n in range(len(items))]


@dataclass(frozen=True, eq=False)
class Stage:
    """Frozen settings and inputs; `run` sees nothing else.

    Two stages are equal when their keys are. A field with `metadata={"identity": False}` says
    where a thing lies, not what it is, and does not enter the key.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same fields would give another result."""
    distributable: ClassVar[bool] = False
    """Whether more than one worker may run it."""
    prepares: ClassVar[bool] = False
    """Whether it only gathers what methods start from (data, an untrained model): it needs no GPU,
    and is no part of what a method costs."""
    default_seconds: ClassVar[float] = 60.0
    """Assumed run time where neither the user nor the store says anything."""
    default_bytes: ClassVar[float] = 1e6
    """Assumed size of its files, likewise."""
    source_code: ClassVar[str | None] = None
    """Digest of the source, for a stage that comes from outside (`door`)."""
    code: str | None = field(default=None, kw_only=True)
    """Digest of the method from outside that made it."""

    def run(self, context: Context) -> Scores:
        """Do the work: leave files in `context.out`, return the scores.

        Raises whatever goes wrong; nothing is published then.
        """
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        """The content address: 32 hexadecimal digits."""
        body = {
            "kind": self.kind,
            "stage": type(self).__name__,
            "version": self.version,
            "source_code": self.source_code,
            **self.settings,
        }
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def settings(self) -> dict[str, Any]:
        """The fields as they enter the key; inputs by their keys.

        What is None is left out: a new option that is off keeps every stage of an older version.
        """
        return {name: identity(item) for name, item in _fields(self).items()}

    def inputs(self) -> Iterator[tuple[str, Stage]]:
        """The stages that this one reads, by field (`constraint.importance`, `judges.0`)."""
        return iter(self._inputs)

    @cached_property
    def _inputs(self) -> tuple[tuple[str, Stage], ...]:
        """Looked for once: a plan asks each stage in every trial that it is part of."""
        return tuple(
            source
            for one in _identifying(self)
            for source in _stages_in(one.name, getattr(self, one.name))
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def kinds() -> list[str]:
    """Every kind of stage that this process has a class of, sorted."""
    found, waiting = set(), [*Stage.__subclasses__()]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if kind := getattr(one, "kind", None):
            found.add(kind)
    return sorted(found)


@dataclass(frozen=True)
class Optimisation:
    """What the training loop reads. Batch sizes are those of the global batch."""

    epochs: int
    batch_size: int
    lr: float
    adam_eps: float = 1e-8
    weight_decay: float = 0.01
    warmup: float = 0.0
    """Share of the steps over which the rate rises."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    micro_batch: int | None = None
    """Largest number of examples in one forward pass (default: all)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingStage(Stage):
    """A training, or a part of one: from where `before` ended, `until` so many epochs are done.

    The parts of a training, one after the other, end with the same bits as the whole: `STATE`
    holds the optimizer's. That lets a search cut what does not promise (`train.rungs`).
    """

    distributable = True
    default_seconds = 600.0
    default_bytes = 5e8
    optimisation: Optimisation
    seed: int
    before: TrainingStage | None = None
    until: int | None = None

    def in_parts(self, rungs: Sequence[int]) -> Self:
        """The last part, after those that end at each of `rungs` but the last."""
        part: Self | None = None
        for rung in rungs[:-1]:
            part = replace(self, before=part, until=rung)
        return replace(self, before=part)

    def at(self, rung: int) -> TrainingStage:
        """The part that ends after so many epochs; the stage itself where there is none."""
        part = self.before
        while part is not None and part.until != rung:
            part = part.before
        return part or self


def _stages_in(name: str, value: object) -> Iterator[tuple[str, Stage]]:
    if isinstance(value, Stage):
        yield name, value
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _stages_in(f"{name}.{number}", item)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in _identifying(value):
            yield from _stages_in(f"{name}.{one.name}", getattr(value, one.name))


def _identifying(value: Any) -> Iterator[Any]:
    return (one for one in fields(value) if one.metadata.get("identity", True))


def _fields(value: Any) -> dict[str, Any]:
    values = {one.name: getattr(value, one.name) for one in _identifying(value)}
    return {name: item for name, item in values.items() if item is not None}


def identity(value: object) -> Any:
    """A field's value as plain JSON: a stage is its key, a dataclass its class and fields."""
    if isinstance(value, Stage):
        return value.key
    if is_dataclass(value) and not isinstance(value, type):
        known = {"is": type(value).__name__, **_fields(value)}
        if code := getattr(value, "source_code", None):
            known["source_code"] = code
        return {name: identity(item) for name, item in known.items()}
    if isinstance(value, Mapping):
        return {str(name): identity(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [identity(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a stage's key: {value!r}")
