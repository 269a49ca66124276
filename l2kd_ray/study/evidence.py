"""What a report shows beside the scores: replay and its samples, scores of single test examples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Damaged, Manifest, Store
from l2kd_ray.families.evaluate import PREDICTIONS
from l2kd_ray.families.language.stages.replay import SAMPLES
from l2kd_ray.study.orders import order_id
from l2kd_ray.study.search import setting_id
from l2kd_ray.study.trial import Cell, Trial

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.analysis import Examples
    from l2kd_ray.analysis.matrix import FloatArray

Arm = tuple[str, str]
Line = dict[str, Any]
SHOWN = 12
"""Samples of a method."""
MOST_READ = 5_000
"""Files of predictions: with more of them a report would take minutes."""


def replay_quality(
    trials: Iterable[Trial], manifests: Mapping[str, Manifest]
) -> tuple[pd.DataFrame, dict[str, Manifest]]:
    """A row a finished replay stage and trial: method, setting, order, seed, i (how many tasks its
    writer had learned) and the stage's scores; and the last such stage of each method."""
    import pandas as pd

    rows, last = [], {}
    for trial in trials:
        for i, stage in _replays(trial):
            manifest = manifests.get(stage.key)
            if manifest is not None:
                rows.append({**_names(trial), "i": i, **manifest.scores})
                last[trial.method] = manifest
    return pd.DataFrame(rows), last


def _replays(trial: Trial) -> Iterator[tuple[int, Stage]]:
    for i, step in enumerate(trial.steps[1:]):
        stage = getattr(step[0].stage.model, "replay", None)
        if stage is not None:
            yield i, stage


def samples(last: Mapping[str, Manifest], store: Store) -> dict[str, list[Line]]:
    """A few lines of each method's last replay stage."""
    found = {}
    for method, manifest in last.items():
        try:
            file = store.fetch(manifest.kind, manifest.key) / SAMPLES
        except (Damaged, OSError):  # it shows samples, and the report is about scores
            continue
        with file.open(encoding="utf-8") as lines:
            found[method] = [json.loads(line) for line in islice(lines, SHOWN)]
    return found


def over_examples(
    trials: Sequence[Trial], arms: Sequence[Arm], manifests: Mapping[str, Manifest], store: Store
) -> pd.DataFrame:
    """The gap of each arm with a bootstrap interval over test examples: method, setting, low,
    high. An example's score is its mean over the finished trials of the arm. Empty where there is
    too much to read, or what was stored is damaged."""
    import pandas as pd

    from l2kd_ray.analysis import MULTITASK

    bound = (MULTITASK, setting_id({}))
    by_arm: dict[Arm, list[Trial]] = {arm: [] for arm in (bound, *arms)}
    for trial in trials:
        if _arm(trial) in by_arm and _done(trial, manifests):
            by_arm[_arm(trial)].append(trial)
    files = sum(len(trial.steps[-1]) for own in by_arm.values() for trial in own)
    rows: list[tuple[str, str, float, float]] = []
    if files <= MOST_READ and by_arm[bound]:
        with suppress(Damaged, OSError):  # it is found and computed again by the next sweep
            rows = list(_bootstrapped(by_arm, bound, store))
    return pd.DataFrame(rows, columns=["method", "setting", "low", "high"])


def _bootstrapped(
    by_arm: Mapping[Arm, Sequence[Trial]], bound: Arm, store: Store
) -> Iterator[tuple[str, str, float, float]]:
    from l2kd_ray.analysis import bootstrap

    read = _Predictions(store)
    against = read.mean(by_arm[bound])
    for arm, own in by_arm.items():
        if own and arm != bound:
            found = bootstrap(read.paired(own, against))
            yield (*arm, found.low, found.high)


class _Predictions:
    """Per-example scores, each file read once."""

    def __init__(self, store: Store) -> None:
        self.store, self.groups = store, dict[str, list[str]]()
        self._read: dict[str, FloatArray] = {}

    def mean(self, trials: Iterable[Trial]) -> dict[str, FloatArray]:
        """The mean score of each test example over some trials, by task."""
        cells = [cell for trial in trials for cell in _final(trial)]
        tasks = {cell.task for cell in cells}
        return {
            task: np.mean([self._scores(cell) for cell in cells if cell.task == task], axis=0)
            for task in sorted(tasks)
        }

    def paired(
        self, trials: Iterable[Trial], bound: Mapping[str, FloatArray]
    ) -> dict[str, Examples]:
        from l2kd_ray.analysis import Examples

        return {
            task: Examples(scores, bound[task], self.groups[task])
            for task, scores in self.mean(trials).items()
        }

    def _scores(self, cell: Cell) -> FloatArray:
        key = cell.stage.key
        if key not in self._read:
            file = self.store.fetch(cell.stage.kind, key) / PREDICTIONS
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            self._read[key] = np.array([line["score"] for line in lines], dtype=float)
            groups = [line.get("group") or line["id"] for line in lines]
            self.groups.setdefault(cell.task, groups)
        return self._read[key]


def _final(trial: Trial) -> Iterator[Cell]:
    return (cell for cell in trial.steps[-1] if cell.split == "test")


def _done(trial: Trial, manifests: Mapping[str, Manifest]) -> bool:
    return all(cell.stage.key in manifests for cell in _final(trial))


def _arm(trial: Trial) -> Arm:
    return trial.method, setting_id(trial.setting)


def _names(trial: Trial) -> dict[str, str]:
    method, setting = _arm(trial)
    order = order_id(trial.order)
    return {"method": method, "setting": setting, "order": order, "seed": str(trial.seed)}
