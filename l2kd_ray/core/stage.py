"""A stage: one unit of work, a pure function of its own fields, named by their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from l2kd_ray.core.store import Store

T = TypeVar("T")
R = TypeVar("R")
Scores = Mapping[str, float]
CURVE, STATE = "curve.json", "state.safetensors"
"""Files beside a trained model: its training curve, one row per step, and the optimizer state from
which the next part of the training continues."""


@dataclass(frozen=True)
class Context:
    """The place where a stage runs: its inputs' files, an empty output folder, its co-workers.

    With `world_size` above 1 the processes of the stage form one torch.distributed group; rank 0
    alone writes files.
    """

    store: Store
    out: Path
    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    checkpoint_seconds: float = 60.0
    leaving: Callable[[], bool] = lambda: False
    """Polled after each step: returns True once per preemption notice, so that a checkpoint is
    saved."""
    notes: dict[str, Any] = field(default_factory=dict)
    """How the stage was run, beside what it was told; goes into the manifest's environment."""

    def files_of(self, stage: Stage) -> Path:
        """The verified files of an input. Raises: store.Damaged."""
        return self.store.fetch(stage.kind, stage.key)

    def shared_out(
        self,
        work: Callable[[Sequence[T]], list[R]],
        items: Sequence[T],
        then: Callable[[], object] = lambda: None,
    ) -> list[R]:
        """Map `work` over the items: each worker does a share and gets all results.

        `then`: what a worker does after its share. Returns the results in the order of `items`.
        """
        share = items[self.rank :: self.world_size]
        mine = work(share) if share else []
        if self.world_size == 1:
            return mine
        then()
        from torch.distributed import all_gather_object

        parts: list[list[R]] = [[] for _ in range(self.world_size)]
        all_gather_object(parts, mine)
        return [parts[n % self.world_size][n // self.world_size] for n in range(len(items))]


@dataclass(frozen=True, eq=False)
class Stage:
    """Frozen settings and inputs; `run` sees nothing else.

    Two stages are equal if their keys are equal. A field with `metadata={"identity": False}` is a
    location, not content, and does not enter the key.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same fields would give another result."""
    distributable: ClassVar[bool] = False
    """True if more than one worker may run it."""
    prepares: ClassVar[bool] = False
    """True if it only prepares inputs of methods (data, an untrained model): it is not part of a
    method's cost, and needs no GPU."""
    needs_gpu: ClassVar[bool] = True
    """False if it never uses a GPU, and so should hold none."""
    default_seconds: ClassVar[float] = 60.0
    """Assumed run time if the user gives none and the store holds no stage of this kind."""
    default_bytes: ClassVar[float] = 1e6
    """Assumed size of its files, under the same condition."""
    source_code: ClassVar[str | None] = None
    """Digest of the source of a stage class from a plug-in (see `door`)."""
    code: str | None = field(default=None, kw_only=True)
    """Digest of the plug-in method that made it."""

    def run(self, context: Context) -> Scores:
        """Do the work: write files to `context.out` and return the scores.

        If it raises, nothing is published.
        """
        raise NotImplementedError

    @property
    def amount(self) -> float:
        """The number that its time grows with, for estimates: examples that a model reads or
        writes, each as often as it does; 1 where that is not known."""
        return 1.0

    @cached_property
    def shard(self) -> Sharding | None:
        """How several workers share out the model that it reads; None if each has it whole."""
        return next((source.shard for _, source in self.inputs() if source.shard), None)

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

        Fields that are None are left out, so that adding an option that is off changes no key.
        """
        return {name: identity(item) for name, item in _fields(self).items()}

    def inputs(self) -> Iterator[tuple[str, Stage]]:
        """The stages that this one reads, by field (`constraint.importance`, `judges.0`)."""
        return iter(self._inputs)

    @cached_property
    def _inputs(self) -> tuple[tuple[str, Stage], ...]:
        """The inputs, collected once: a plan walks each stage in every trial that contains it."""
        return tuple(
            source
            for name in _identifying(self.__class__)  # type: ignore[arg-type]  # a class is hashable
            for source in _stages_in(name, getattr(self, name))
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def ancestry(stages: Iterable[Stage]) -> list[Stage]:
    """The stages and all that they read, directly or not; each once, however many read it."""
    found: dict[Stage, None] = {}
    waiting = list(stages)
    while waiting:
        stage = waiting.pop()
        if stage not in found:
            found[stage] = None
            waiting += [source for _, source in stage.inputs()]
    return list(found)


def kinds() -> list[str]:
    """The kinds of all stage classes that this process has imported, sorted."""
    found, waiting = set(), [*Stage.__subclasses__()]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if kind := getattr(one, "kind", None):
            found.add(kind)
    return sorted(found)


@dataclass(frozen=True)
class Sharding:
    """How a model is shared out among the workers of a training (FSDP2)."""

    reshard_after_forward: bool = True
    """False keeps a layer whole from its forward to its backward pass: faster, more memory."""
    cpu_offload: bool = False
    """Keep the chunks, and step the optimizer, in the host's memory."""
    layers: tuple[str, ...] = ()
    """Classes of the modules that are put together one at a time (default: the model's layers)."""


NOT_IN_KEY = {"identity": False}
"""Metadata of a field that says how a result is computed: the result means the same with any."""


@dataclass(frozen=True)
class Optimisation:
    """Settings of the training loop. Batch sizes are those of the global batch.

    The length is given by `epochs` or by `steps`; the other one is None.
    """

    epochs: int | None
    batch_size: int
    lr: float
    adam_eps: float = 1e-8
    eps_first: bool | None = None
    """True if epsilon is added before the bias correction (None: after it)."""
    weight_decay: float = 0.01
    warmup: float = 0.0
    """Share of the steps over which the learning rate rises."""
    warmup_of_epoch: bool | None = None
    """True if it is a share of one epoch's steps (None: of all steps)."""
    clip: float = 1.0
    """Largest norm of the gradient; a larger one is scaled down to it."""
    steps: int | None = None
    micro_batch: int | None = field(default=None, metadata=NOT_IN_KEY)
    """Largest number of examples in one forward pass (default: all). Where the device has no memory
    for so many, half as many."""
    gradient_checkpointing: bool = field(default=False, metadata=NOT_IN_KEY)
    """Compute activations again in the backward pass instead of keeping them."""
    deterministic: bool = field(default=False, metadata=NOT_IN_KEY)
    """Use kernels that give the same bits each time, on devices that also have faster ones."""
    shard: Sharding | None = field(default=None, metadata=NOT_IN_KEY)

    def total_steps(self, steps_per_epoch: int, until: int | None = None) -> int:
        """Number of steps up to `until`, an epoch or, with `steps`, a step (default: the end)."""
        if self.steps is not None:
            return until or self.steps
        return (until or self.epochs or 0) * steps_per_epoch


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingStage(Stage):
    """A training, or a part of one: from the end of `before` to the end of epoch (or, with
    `optimisation.steps`, step) `until`.

    The parts of a training, run one after the other, end with the same bits as the whole, since
    `STATE` carries the optimizer over. So a search can stop poor settings early (`train.rungs`).
    """

    distributable = True
    default_seconds = 600.0
    default_bytes = 5e8
    optimisation: Optimisation
    seed: int
    before: TrainingStage | None = None
    until: int | None = None

    @property
    def rows(self) -> int:
        """Number of examples of an epoch."""
        raise NotImplementedError

    @property
    def step_rows(self) -> int:
        """Number of examples of a step."""
        return self.optimisation.batch_size

    @property
    def amount(self) -> float:
        how, begin = self.optimisation, (self.before and self.before.until) or 0
        length = (self.until or how.steps or how.epochs or 0) - begin
        return float(length * (self.rows if how.steps is None else self.step_rows))

    def in_parts(self, rungs: Sequence[int]) -> Self:
        """Split the training at the epochs (or steps) `rungs`; returns the last part."""
        part: Self | None = None
        for rung in rungs[:-1]:
            part = replace(self, before=part, until=rung)
        return replace(self, before=part)

    def at(self, rung: int) -> TrainingStage:
        """The part that ends at `rung`; the stage itself if no part does."""
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
        for field in _identifying(value.__class__):
            yield from _stages_in(f"{name}.{field}", getattr(value, field))


@cache
def _identifying(kind: Any) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind) if one.metadata.get("identity", True))


def _fields(value: Any) -> dict[str, Any]:
    values = {name: getattr(value, name) for name in _identifying(value.__class__)}
    return {name: item for name, item in values.items() if item is not None}


def identity(value: object) -> Any:
    """A field's value as plain JSON: a stage as its key, a dataclass as its class name and fields.

    Raises: TypeError for values that have no fixed JSON form.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
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
    raise TypeError(f"{type(value).__name__} cannot be part of a stage's key: {value!r}")
