"""From the long form of R (`scores.parquet`) to one row of metrics a trial (`results.parquet`)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from l2kd_ray.analysis import matrix
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.names import MULTITASK, REFERENCES, SCORE_COLUMNS, SEPARATOR, SINGLE

_IDENTITY = ("method", "setting", "order", "seed")
RESULT_METRICS = (
    *("cl/avg", "cl/bwt", "cl/fwt", "cl/forgetting_max", "cl/forgetting_first"),
    *("cl/intransigence", "cl/incremental", "gap/abs", "gap/rel"),
    *("teacher/avg", "gap/teacher", "gap/teacher_first"),
)


@dataclass(frozen=True)
class ScoredTrial:
    """A trial's identity and its score matrix on one split."""

    trial: str
    method: str
    setting: str
    order: str
    seed: str
    tasks: tuple[str, ...]
    """The tasks by position in the order; for references, sorted by name."""
    R: FloatArray
    """Scores `[n + 1, n]`, see `matrix`; multitask and single fill only the last row."""
    taught: FloatArray
    """Scores `[n]` of the model that taught each task, on that task; NaN if none did."""

    @property
    def settings(self) -> dict[str, Any]:
        """The searched settings, by dotted name."""
        return dict(json.loads(self.setting))

    @property
    def complete(self) -> bool:
        return not np.isnan(matrix.final(self.R)).any()


SEEDS = ("train", "replay", "data")
Bounds = Mapping[tuple[str, str], Sequence[ScoredTrial]]
"""The trials of a reference, by `bound_seed`."""
_SEED = re.compile(r"([^rd]+)(?:r(\d+))?(?:d(\d+))?")


def seed_parts(seed: str) -> dict[str, str]:
    """The seeds of a replicate by purpose: train 531, replay 7, data 531 of "531r7"."""
    found = _SEED.fullmatch(seed)
    train, *others = found.groups() if found else (seed, None, None)
    return dict(zip(SEEDS, (train, *(other or train for other in others)), strict=True))


def train_seed(seed: str) -> str:
    """The training seed of a replicate: "531" of "531" and of the crossed "531r7d3"."""
    return seed_parts(seed)["train"]


def bound_seed(seed: str) -> tuple[str, str]:
    """The seeds that a replicate's references depend on: training and data."""
    parts = seed_parts(seed)
    return parts["train"], parts["data"]


def tasks_of(scores: pd.DataFrame) -> tuple[str, ...]:
    """All tasks of the study, sorted: those scored and those that the orders still promise."""
    named = {task for order in scores["order"].unique() for task in order.split(SEPARATOR) if task}
    return tuple(sorted(named | set(scores["task"])))


def check(scores: pd.DataFrame) -> None:
    """Refuse a frame that is not the long form of R.

    Raises:
        ValueError: a column is missing, there is no row, a cell has two scores, or a task two
            metrics.
    """
    missing = [name for name in SCORE_COLUMNS if name not in scores.columns]
    if missing:
        raise ValueError(
            f"scores: no column {', '.join(missing)}; expected {', '.join(SCORE_COLUMNS)}"
        )
    if scores.empty:
        raise ValueError("scores: no rows; no evaluation of this study has finished yet")
    cell = ["trial", "split", "i", "j"]
    twice = scores[scores.duplicated(cell)]
    if len(twice):
        raise ValueError(
            f"scores: two scores for one cell: {dict(twice.iloc[0][cell])}; "
            "expected one row for each (trial, split, i, j)"
        )
    metrics = scores.groupby("task")["metric"].agg(lambda names: sorted(set(names)))
    for task, names in metrics.items():
        if len(names) > 1:
            found = " and ".join(names)
            raise ValueError(f"scores: task {task} has the metrics {found}; expected one")


def trials(scores: pd.DataFrame, split: str = "test") -> list[ScoredTrial]:
    """Every trial of the frame with its matrix on `split`, sorted by id.

    A trial without a row of that split is there too, its matrix all NaN.

    Raises:
        ValueError: see `check`.
    """
    check(scores)
    every = tasks_of(scores)
    # Arrays sorted by trial and cut where it changes: a group's frame costs more than its metrics.
    ids, names = pd.factorize(scores["trial"], sort=True)
    by_trial = np.argsort(ids, kind="stable")
    cuts = np.searchsorted(ids[by_trial], np.arange(1, len(names)))
    columns = {
        name: np.split(scores[name].to_numpy()[by_trial], cuts)
        for name in ("method", "setting", "order", "seed", "task", "i", "score", "teacher_score")
    }
    wanted = np.split((scores["split"] == split).to_numpy(dtype=bool)[by_trial], cuts)
    found = []
    for k, trial in enumerate(names):
        own = {name: values[k] for name, values in columns.items()}
        method, setting, order, seed = (str(own[name][0]) for name in _IDENTITY)
        if order:
            tasks = tuple(order.split(SEPARATOR))
        else:
            tasks = tuple(sorted(set(own["task"]))) if method == SINGLE else every
        column = {task: j for j, task in enumerate(tasks)}
        strange = sorted(set(own["task"]) - set(column))
        if strange:
            raise ValueError(f"scores: trial {trial} of order {order} has the task {strange[0]}")
        R = np.full((len(tasks) + 1, len(tasks)), np.nan)
        i = own["i"][wanted[k]].astype(int) if order else len(tasks)
        j = [column[task] for task in own["task"][wanted[k]]]
        R[i, j] = own["score"][wanted[k]]
        taught = np.full(len(tasks), np.nan)
        taught[j] = own["teacher_score"][wanted[k]]
        found.append(ScoredTrial(str(trial), method, setting, order, seed, tasks, R, taught))
    return found


def results(
    scores: pd.DataFrame, searched: Sequence[str] = (), *, split: str = "test"
) -> pd.DataFrame:
    """One row for each trial: its identity, its final scores and its metrics (`docs/metrics.md`).

    Columns: method, setting (JSON), one for each searched setting (dotted), order, seed, trial,
    `score/<task>/<metric>`, the names in `RESULT_METRICS`, `gap/<task>`, complete. What is
    undefined is NaN. Rows are sorted, and the frame is a function of the set of rows of `scores`.

    Args:
        scores: the long form of R.
        searched: settings that get a column even where no trial names them.
        split: "test", or "dev" for what selection reads.

    Raises:
        ValueError: see `check`.
    """
    return result_rows(trials(scores, split), scores, searched)


def result_rows(
    every: Sequence[ScoredTrial], scores: pd.DataFrame, searched: Sequence[str] = ()
) -> pd.DataFrame:
    """`results` of trials that have been read from these scores."""
    bounds = {method: _by_seed(every, method) for method in REFERENCES}
    tasks = tasks_of(scores)
    metrics = scores.drop_duplicates("task").set_index("task")["metric"]
    score_column = {task: f"score/{task}/{metrics[task]}" for task in tasks if task in metrics}
    rows = [_row(trial, bounds, score_column) for trial in every]

    settings = [trial.settings for trial in every]
    names = sorted({name for setting in settings for name in setting} | set(searched))
    columns = [
        *("method", "setting", *names, "order", "seed", "trial"),
        *score_column.values(),
        *RESULT_METRICS,
        *(f"gap/{task}" for task in tasks),
        "complete",
    ]
    frame = pd.DataFrame(rows)
    for name in names:
        frame[name] = _column([setting.get(name) for setting in settings])
    by = ["method", *names, "order", "seed", "trial"]
    return frame.reindex(columns=columns).sort_values(by, ignore_index=True)


def _row(
    trial: ScoredTrial,
    bounds: Mapping[str, Bounds],
    score_column: Mapping[str, str],
) -> dict[str, object]:
    R = trial.R
    row: dict[str, object] = {
        "method": trial.method,
        "setting": trial.setting,
        "order": trial.order,
        "seed": trial.seed,
        "trial": trial.trial,
        "complete": trial.complete,
        "cl/avg": matrix.average(R),
    }
    for task, score in zip(trial.tasks, matrix.final(R), strict=True):
        if task in score_column:
            row[score_column[task]] = score
    if trial.method in REFERENCES:
        return row
    multitask = _reference(trial, bounds[MULTITASK])
    gap = matrix.gap(R, multitask)
    row |= {f"gap/{task}": value for task, value in zip(trial.tasks, gap, strict=True)}
    row["gap/abs"] = float(gap.mean())
    row["gap/rel"] = matrix.relative_gap(R, multitask)
    row["teacher/avg"] = float(trial.taught.mean())
    row["gap/teacher"] = float(matrix.gap(R, trial.taught).mean())
    if trial.order:
        row["gap/teacher_first"] = float((trial.taught - matrix.learned(R)).mean())
        row["cl/bwt"] = matrix.backward_transfer(R)
        row["cl/fwt"] = matrix.forward_transfer(R)
        row["cl/forgetting_max"] = matrix.forgetting_max(R)
        row["cl/forgetting_first"] = matrix.forgetting_first(R)
        row["cl/incremental"] = matrix.average_incremental(R)
        row["cl/intransigence"] = matrix.intransigence(R, _reference(trial, bounds[SINGLE]))
    return row


def _by_seed(every: Sequence[ScoredTrial], method: str) -> Bounds:
    found: defaultdict[tuple[str, str], list[ScoredTrial]] = defaultdict(list)
    for trial in every:
        if trial.method == method:
            found[bound_seed(trial.seed)].append(trial)
    return dict(found)


def _reference(trial: ScoredTrial, bounds: Bounds) -> FloatArray:
    """Scores `[n]` of a reference on the trial's tasks, from its own `bound_seed`; NaN if none.

    A reference knows only the settings it reads, so it fits where those agree with the trial's;
    where several fit, the one that agrees in most.
    """
    settings = trial.settings.items()
    fitting = [
        bound
        for bound in bounds.get(bound_seed(trial.seed), ())
        if bound.settings.items() <= settings
    ]
    fitting.sort(key=lambda bound: (len(bound.settings), bound.seed == trial.seed))
    known = {
        task: score
        for bound in fitting
        for task, score in zip(bound.tasks, matrix.final(bound.R), strict=True)
        if not np.isnan(score)
    }
    return np.array([known.get(task, np.nan) for task in trial.tasks])


def _column(values: Sequence[object]) -> pd.Series:
    """A setting as floats where every value is a number, else as text: Parquet needs one type."""
    given = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return pd.Series(values, dtype=float)
    return pd.Series(
        [
            value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
            for value in values
        ],
        dtype="string",
    )
