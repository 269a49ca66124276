"""The plan of a study: stages in all, shared, stored and to do; estimated time and disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import AnyStore
from l2kd_ray.core.stage import Stage, kinds
from l2kd_ray.core.store import Listing
from l2kd_ray.families.evaluate import Measure
from l2kd_ray.families.language.stages.annotate import Annotate
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.study.data import SplitData
from l2kd_ray.study.trial import Trial
from l2kd_ray.study.work import peak_memory

if TYPE_CHECKING:
    from l2kd_ray.analysis.foresight import Foresight
    from l2kd_ray.study.changes import Changes

_LOOKED_AT = 20  # stored stages of a kind on which an estimate is based


@dataclass
class Count:
    """Numbers of stages of one role: without sharing, with sharing, stored, and to do."""

    naive: int = 0
    unique: int = 0
    stored: int = 0
    todo: int = 0


@dataclass(frozen=True)
class TeacherOutputs:
    """Costs and savings of storing the teachers' hidden states (`kd.teacher`)."""

    stages: int
    """Number of stages; each is one forward pass of a teacher over its data."""
    passes_saved: int
    """Forward passes that trainings would need without these stages, minus those of the stages."""
    bytes: int | None
    """Upper bound in bytes; None if the width of a hub model is not known locally."""


@dataclass(frozen=True)
class Plan:
    """The counts of a study's stages, and the stages that are still to be run."""

    trials: int
    stages: Mapping[str, Count]
    """The counts by role, inputs before their readers; roles without stages come last."""
    every: frozenset[Stage] = field(repr=False)
    """All stages of the trials, stored or not."""
    missing: frozenset[Stage] = field(repr=False)
    """The stages that a sweep will run: not stored, and needed for a result that is not stored."""
    seconds_by_kind: Mapping[str, float] | None
    """Estimated run time of the missing stages on one worker, from stored ones of their kinds: from
    the study's own by their amounts of work; None if one kind has none."""
    guessed: Sequence[str]
    """Kinds of which the storage holds stages of other studies alone, perhaps of other models and
    data, from which time and disk are then estimated."""
    bytes: int | None
    """Estimated bytes that will be written, in the same way."""
    peak_memory: Mapping[str, int]
    """Most bytes that a process of each missing kind held, in the same stored stages; of a GPU's
    memory where they ran on one."""
    outputs: TeacherOutputs | None = None
    """None if no teacher's outputs are stored."""
    data: Sequence[SplitData] = ()
    """The data of each task and split."""
    changes: Changes | None = None
    """The changes since the last sweep; None if there are none, or was none."""
    foresight: Foresight | None = None
    """The expected precision of the whole study, of given variances, or of a pilot that is stored
    while work is missing."""

    @property
    def seconds(self) -> float | None:
        """Estimated run time of all missing stages on one worker; None if unknown."""
        return (
            None if self.seconds_by_kind is None else round(sum(self.seconds_by_kind.values()), 1)
        )

    def to_json(self) -> dict[str, Any]:
        stages = {role: asdict(count) for role, count in self.stages.items()}
        return {
            "trials": self.trials,
            "stages": stages,
            "seconds": self.seconds,
            "seconds_by_kind": self.seconds_by_kind,
            "guessed": list(self.guessed),
            "bytes": self.bytes,
            "peak_memory": dict(self.peak_memory),
            "teacher_outputs": asdict(self.outputs) if self.outputs else None,
            "data": [one.to_json() for one in self.data],
            "changes": asdict(self.changes) if self.changes else None,
            "foresight": asdict(self.foresight) if self.foresight else None,
        }

    def _repr_html_(self) -> str:
        rows = ((role, *vars(count).values()) for role, count in self.stages.items())
        columns = ("stages", "unshared", "shared", "stored", "to do")
        return f"<p>{self.trials:,} trials</p>{html_table(columns, rows)}"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    """A table of names and counts, as a notebook shows it."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(
        f"<tr><th>{name}</th>" + "".join(f"<td>{count:,}</td>" for count in counts) + "</tr>"
        for name, *counts in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def plan(trials: Iterable[Trial], source: AnyStore) -> Plan:
    """Count the stages of `trials`; reads the store's listing and a few manifests."""
    naive: Counter[str] = Counter()
    roles: dict[Stage, str] = {}
    chosen = list(trials)
    for trial in chosen:
        for stage, role in trial.stages().items():
            naive[role] += 1
            if roles.get(stage) != "teacher":
                roles[stage] = role
    stored = source.listing()
    missing = missing_stages(chosen, stored)
    counts = {role: Count(naive[role]) for role in (*in_sequence(roles), "teacher", *kinds())}
    for stage, role in roles.items():
        counts[role].unique += 1
        counts[role].stored += stage.key in stored.finished
        counts[role].todo += stage in missing
    work = Counter(stage.kind for stage in missing)
    own = {stage.key: stage for stage in roles}
    manifests = stored_examples(source, work, first=own)
    guessed = [kind for kind, few in manifests.items() if few and few[0].key not in own]
    seconds, size = None, None
    if all(manifests.values()):
        seconds = {
            kind: seconds_of([one for one in missing if one.kind == kind], few, own)
            for kind, few in manifests.items()
        }
        size = sum(
            work[kind] * median(sum(file.size for file in m.files.values()) for m in few)
            for kind, few in manifests.items()
        )
    return Plan(
        len(chosen),
        counts,
        frozenset(roles),
        frozenset(missing),
        seconds,
        sorted(guessed),
        None if size is None else int(size),
        {kind: peak for kind, few in manifests.items() if (peak := peak_memory(few))},
        _outputs(roles),
    )


def seconds_of(todo: Sequence[Stage], done: Sequence[Manifest], own: Mapping[str, Stage]) -> float:
    """The time of stages of a kind: by amount of work from the study's own, which have its model;
    of other models the amounts say nothing, so there it is the median."""
    if done[0].key not in own:
        return len(todo) * median(one.seconds for one in done)
    rate = median(one.seconds / max(own[one.key].amount, 1.0) for one in done)
    return rate * sum(max(stage.amount, 1.0) for stage in todo)


def to_measure(planned: Plan, stored: Listing) -> list[Stage]:
    """A small missing stage of each kind of which the study has none in the store, inputs first."""
    known = {stage.kind for stage in planned.every if stage.key in stored.finished}
    depth, few = chains(planned.every), dict[str, Stage]()
    for stage in sorted(planned.missing, key=lambda one: (depth[one], one.amount, one.key)):
        if stage.kind not in known:
            few.setdefault(stage.kind, stage)
    return list(few.values())


def in_sequence(roles: Mapping[Stage, str]) -> list[str]:
    """The roles, sorted by the longest chain of inputs of one of their stages."""
    depth, longest = chains(roles), dict[str, float]()
    for stage, role in roles.items():
        longest[role] = max(longest.get(role, 0), depth[stage])
    return sorted(longest, key=lambda role: (longest[role], role))


def chains(
    stages: Iterable[Stage], length: Callable[[Stage], float] = lambda _: 1
) -> dict[Stage, float]:
    """The longest chain of inputs that ends in each of the stages, of which every one has a length;
    inputs that are not among them have none."""
    known, ends = set(stages), dict[Stage, float]()

    def end(stage: Stage) -> float:
        if stage not in known:
            return 0
        if stage not in ends:
            before = max((end(source) for _, source in stage.inputs()), default=0)
            ends[stage] = before + length(stage)
        return ends[stage]

    for stage in known:
        end(stage)
    return ends


def intermediate(stages: Iterable[Stage]) -> set[Stage]:
    """The models among `stages` from which other models are trained: all but the leaves."""
    readers = [stage for stage in stages if not isinstance(stage, Measure)]
    return {source for r in readers for _, source in r.inputs() if source.kind == "learn"}


def _outputs(stages: Iterable[Stage]) -> TeacherOutputs | None:
    """Costs and savings of stored teacher outputs; None if there are none.

    They pay off once `passes_saved` is above 0: with a second epoch, temperature or order.
    """
    kept = [stage for stage in stages if isinstance(stage, Annotate)]
    readers = [s for s in stages if isinstance(s, Learn) and isinstance(s.teacher, Annotate)]
    if not kept:
        return None
    sizes = [stage.most_bytes for stage in kept]
    return TeacherOutputs(
        len(kept),
        sum(map(_passes, readers)) - len(kept),
        None if None in sizes else sum(size or 0 for size in sizes),
    )


def _passes(stage: Learn) -> int:
    """Number of passes of a training over its task; with `steps`, as if nothing were replayed."""
    how, rows = stage.optimisation, sum(tokens.rows for tokens in stage.tasks)
    return how.epochs or math.ceil((how.steps or 0) * how.batch_size / rows)


def missing_stages(trials: Iterable[Trial], stored: Listing) -> set[Stage]:
    """The stages to run for all evaluations: those not stored, and inputs whose files are
    missing."""
    missing: set[Stage] = set()
    cells = (cell.stage for trial in trials for cell in trial.cells)
    waiting: list[Stage] = [stage for stage in cells if stage.key not in stored.finished]
    while waiting:
        stage = waiting.pop()
        if stage not in missing:
            missing.add(stage)
            waiting += [
                source
                for _, source in stage.inputs()
                if source.key not in stored.finished or source.key in stored.dropped
            ]
    return missing


def stored_examples(
    source: AnyStore, of: Iterable[str], first: Collection[str] = ()
) -> dict[str, list[Manifest]]:
    """The manifests of a few stored stages of each kind, for estimates.

    `first`: keys of which the examples of a kind are taken, if any of them is stored.
    """
    every: dict[str, list[str]] = {kind: [] for kind in of}
    for key, kind in source.listing().finished.items():
        if kind in every:
            every[kind].append(key)
    own = {kind: [key for key in keys if key in first] for kind, keys in every.items()}
    keys = {kind: (own[kind] or every[kind])[:_LOOKED_AT] for kind in every}
    read = source.manifests({key: kind for kind, few in keys.items() for key in few})
    return {kind: [read[key] for key in few if key in read] for kind, few in keys.items()}
