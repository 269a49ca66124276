"""The work of a study as numbers: the missing stages, their times, and what they wait for.

A simulation walks a million stages; here they are integers, inputs before their readers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from l2kd_ray.core.reader import AnyStore
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Listing
from l2kd_ray.study.agenda import most
from l2kd_ray.study.plan import stored_examples
from l2kd_ray.study.sections import Scale
from l2kd_ray.study.study import Study
from l2kd_ray.study.trial import Cell, Trial

_EXACT_CELLS = 250_000


@dataclass
class Trie:
    """The missing stages: lists have one entry per stage, `trials` the cells of each trial."""

    kinds: list[str] = field(default_factory=list)
    inputs: list[tuple[int, ...]] = field(default_factory=list)
    """The missing inputs of each stage; each is smaller than the stage's own number."""
    trials: list[NDArray[np.int64]] = field(default_factory=list)
    """The missing evaluations of each trial, in the order of the design."""
    names: list[tuple[str, str]] = field(default_factory=list)
    """(order, seed) of each trial."""
    first: dict[str, Stage] = field(default_factory=dict)
    """The first stage of each kind: it says what is assumed of the kind."""
    assumed: str = ""
    """An assumption that replaced looking at the store; empty if everything was looked at."""

    def __len__(self) -> int:
        return len(self.kinds)

    def add(self, stage: Stage, inputs: Iterable[int] = ()) -> int:
        self.kinds.append(stage.kind)
        self.first.setdefault(stage.kind, stage)
        self.inputs.append(tuple(sorted(set(inputs))))
        return len(self.kinds) - 1

    def seconds(self, known: Mapping[str, float]) -> dict[str, float]:
        """Seconds of a stage, by kind: what is known of it, or what its kind assumes."""
        return {kind: known.get(kind, one.default_seconds) for kind, one in self.first.items()}

    def bytes(self, known: Mapping[str, float]) -> dict[str, float]:
        """Bytes of a stage's files, likewise."""
        return {kind: known.get(kind, one.default_bytes) for kind, one in self.first.items()}

    def values(self, by_kind: Mapping[str, float]) -> NDArray[np.float64]:
        """[stages]: what each stage's kind says."""
        return np.array([by_kind[kind] for kind in self.kinds], dtype=float)

    def to_the_end(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """[stages]: the longest path from a stage's start to a leaf (bottom level; Hu 1961)."""
        level = seconds.tolist()
        below = [0.0] * len(self)
        for stage in range(len(self) - 1, -1, -1):
            level[stage] += below[stage]
            for source in self.inputs[stage]:
                below[source] = max(below[source], level[stage])
        return np.array(level)

    def unshared(self) -> Counter[str]:
        """Number of stages by kind if each trial ran all of its stages itself."""
        total: Counter[str] = Counter()
        for cells in self.trials:
            seen: set[int] = set()
            waiting = cells.tolist()
            while waiting:
                stage = waiting.pop()
                if stage not in seen:
                    seen.add(stage)
                    waiting += self.inputs[stage]
            total.update(self.kinds[stage] for stage in seen)
        return total

    def repeated(self, times: int, shared: NDArray[np.bool_], seeds: list[str]) -> Trie:
        """The trie of `times` replicates, of which this is the first; `shared` stages occur once.

        `shared` is closed: the inputs of a shared stage are shared.
        """
        own = np.cumsum(~shared) - 1
        many = Trie(
            list(self.kinds), list(self.inputs), list(self.trials), list(self.names), self.first
        )
        for number in range(1, times):
            base = len(self) + (number - 1) * int((~shared).sum())
            place = np.where(shared, np.arange(len(self)), base + own)
            numbers = place.tolist()
            keep = np.flatnonzero(~shared).tolist()
            many.kinds += [self.kinds[stage] for stage in keep]
            many.inputs += [tuple([numbers[i] for i in self.inputs[s]]) for s in keep]
            many.trials += [place[cells] for cells in self.trials]
            many.names += [(order, seeds[number]) for order, _ in self.names]
        sequence = np.arange(len(many.trials)).reshape(times, -1).T.ravel().tolist()
        many.trials = [many.trials[k] for k in sequence]  # order by order, as a study has them
        many.names = [many.names[k] for k in sequence]
        return many


def trie_of(study: Study, source: AnyStore, trials: Iterable[Trial] | None = None) -> Trie:
    """The missing stages of some trials (default: of all that the study can reach).

    Replicates differ in their seed only. With very many cells and a plain list of seeds, only the
    first replicate is looked up; the others are assumed to be in the same state.
    """
    listing = source.listing()
    seeds = study.config.seeds
    if trials is None and (study.config.orders_arm or study.config.tune.select_on):
        trials = most(study, source)
    if trials is None and isinstance(seeds, tuple) and len(seeds) > 1:
        cells = len(study.orders) * (len(study.tasks) + 1) * len(study.tasks) * len(seeds)
        settings = max(len(study.settings(arm)) for arm in study.config.arms)
        if cells * settings > _EXACT_CELLS:
            return _first_replicate(study, seeds, listing)
    trie, _ = _exact(study.trials() if trials is None else trials, listing)
    return trie


def _first_replicate(study: Study, seeds: tuple[int, ...], listing: Listing) -> Trie:
    first = study.with_seeds(seeds[:1])
    trie, numbers = _exact(first.trials(), listing)
    other = study.with_seeds(seeds[1:2])
    arms = [(arm, other.settings(arm)) for arm in study.config.arms]
    order = study.orders[0]
    probes = [
        other.trial(arm.name, setting, order, str(seeds[1]))
        for arm, settings in arms
        for setting in settings
    ]
    keys = {stage.key for trial in probes for stage in trial.stages()}
    shared = np.zeros(len(trie), dtype=bool)
    shared[[number for key, number in numbers.items() if key in keys]] = True
    keyed = set(numbers.values())
    for number, inputs in enumerate(trie.inputs):
        if number not in keyed:  # an evaluation of a model that is not there: the model's say
            shared[number] = bool(shared[list(inputs)].all())
    many = trie.repeated(len(seeds), shared, [str(seed) for seed in seeds])
    many.assumed = f"every replicate is taken to be as far as that of seed {seeds[0]}"
    return many


def _exact(trials: Iterable[Trial], listing: Listing) -> tuple[Trie, dict[str, int]]:
    """The trie, and the number of each stage by key."""
    trie = Trie()
    # By identity, the cheapest lookup: a builder makes each stage once, so that the many cells
    # which share it find it here. `kept` holds the trials, so that no id is used twice.
    known: dict[int, int | None] = {}
    numbers: dict[str, int] = {}
    cells_of: dict[tuple[object, ...], int] = {}
    kept: list[Trial] = []

    def inputs_of(stage: Stage) -> list[int]:
        found = [visit(source) for _, source in stage.inputs()]
        return [number for number in found if number is not None]

    def visit(stage: Stage) -> int | None:
        """The stage's number; None if it need not be run."""
        identity = id(stage)
        if identity not in known:
            known[identity] = _number(stage)
        return known[identity]

    def _number(stage: Stage) -> int | None:
        key = stage.key
        if key in numbers:
            return numbers[key]
        if key in listing.finished and (stage.kind == "evaluate" or key not in listing.dropped):
            return None
        numbers[key] = trie.add(stage, inputs_of(stage))
        return numbers[key]

    def evaluation(cell: Cell) -> int | None:
        """The evaluation's number; a missing model has none yet, so most cells need no key."""
        model = cell.stage.model
        if model.key in listing.finished:
            return visit(cell.stage)
        # Two arms may decode the answers of one model in two ways.
        address = model.key, cell.task, cell.split, getattr(cell.stage, "decoding", None)
        if address not in cells_of:
            cells_of[address] = trie.add(cell.stage, inputs_of(cell.stage))
        return cells_of[address]

    for trial in trials:
        found = [evaluation(cell) for cell in trial.cells]
        cells = sorted({number for number in found if number is not None})
        trie.trials.append(np.array(cells, dtype=np.int64))
        trie.names.append((">".join(trial.order), str(trial.seed)))
        kept.append(trial)
    return trie, numbers


def measured(source: AnyStore, kinds: Iterable[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean seconds, and mean bytes, of the stored stages of each kind that has any."""
    examples = stored_examples(source, kinds)
    return (
        {kind: mean(m.seconds for m in found) for kind, found in examples.items() if found},
        {
            kind: mean(sum(file.size for file in m.files.values()) for m in found)
            for kind, found in examples.items()
            if found
        },
    )


def widths(trie: Trie, scale: Scale) -> list[int]:
    """[stages]: the fewest workers that a stage can start with."""
    needs = {}
    for kind, stage in trie.first.items():
        workers = scale.of(stage).workers
        needs[kind] = workers if isinstance(workers, int) else workers[0]
    return [needs[kind] for kind in trie.kinds]
