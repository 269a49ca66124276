"""New-task score against what is kept of the earlier tasks, by method and setting."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd

from l2kd_ray.analysis import matrix
from l2kd_ray.analysis.trials import ScoredTrial


def tradeoff(
    trials: Iterable[ScoredTrial],
    orders: Collection[str] = (),
    retained: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """One row for each method and setting that learns tasks in an order.

    Columns: method, setting, learned (mean score on a task right after it was learned), kept (mean
    final score on all tasks but the last), trials (complete ones that the means are over), front
    (no other row is at least as high in both and higher in one). Means over the instances, order
    and seed, that all rows have complete; over each row's own where there is none in common.

    `orders`: only trials of these, where given. `retained`: what each trial kept of another ability
    (`retention.kept`), in place of `kept`; trials without it are left out.
    """
    points: dict[tuple[str, str], dict[tuple[str, str], tuple[float, float]]] = {}
    for trial in trials:
        if trial.order and trial.complete and (len(trial.tasks) > 1 or retained is not None):
            if retained is None:
                left = float(matrix.final(trial.R)[:-1].mean())
            else:
                left = retained.get(trial.trial, np.nan)
            pair = float(matrix.learned(trial.R).mean()), left
            if (not orders or trial.order in orders) and not np.isnan(left):
                instance = trial.order, trial.seed
                points.setdefault((trial.method, trial.setting), {})[instance] = pair
    common = set.intersection(*map(set, points.values())) if points else set()
    rows = []
    for (method, setting), own in sorted(points.items()):
        used = [pair for instance, pair in own.items() if not common or instance in common]
        learned, kept = np.mean(used, axis=0)
        rows.append((method, setting, float(learned), float(kept), len(used)))
    frame = pd.DataFrame(rows, columns=["method", "setting", "learned", "kept", "trials"])
    return frame.assign(front=front(frame[["learned", "kept"]]))


def front(values: pd.DataFrame) -> pd.Series:
    """True for the rows (the index) of the Pareto set: no other row is at least as high in all
    columns and higher in one."""
    rows = values.to_numpy(dtype=float)
    beaten = [bool(((rows >= one).all(axis=1) & (rows > one).any(axis=1)).any()) for one in rows]
    return pd.Series([not one for one in beaten], values.index, dtype=bool)
