"""Gap and forgetting by task, and by position in the order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import pandas as pd

from l2kd_ray.analysis import matrix
from l2kd_ray.analysis.design import Design, cells
from l2kd_ray.analysis.estimate import LEVEL, Estimate
from l2kd_ray.analysis.mean import moments
from l2kd_ray.analysis.trials import ScoredTrial

_NUMBERS = ("gap", "score", "learned", "forgetting")


def task_rows(trials: Iterable[ScoredTrial], results: pd.DataFrame) -> pd.DataFrame:
    """One row for each task of each trial that has an order and a row in `results`.

    Returns:
        method, setting, order, seed, trial, task, place (position from 1), score R[n, j], learned
        R[j, j], forgetting R[j, j] - R[n, j] (0 at the last position), gap m_j - R[n, j], complete.
    """
    gaps = results.set_index("trial").filter(regex="^gap/")
    of_trial = dict(zip(gaps.index, gaps.to_dict("records"), strict=True))
    rows = []
    for trial in trials:
        identity = (trial.method, trial.setting, trial.order, trial.seed, trial.trial)
        if not trial.order or trial.trial not in of_trial:
            continue
        pairs = zip(trial.tasks, matrix.final(trial.R), matrix.learned(trial.R), strict=True)
        for place, (task, final, learned) in enumerate(pairs, start=1):
            gap = of_trial[trial.trial][f"gap/{task}"]
            numbers = (final, learned, learned - final, gap, trial.complete)
            rows.append((*identity, task, place, *numbers))
    columns = [*("method", "setting", "order", "seed", "trial", "task", "place"), "score"]
    columns += ["learned", "forgetting", "gap", "complete"]
    return pd.DataFrame(rows, columns=columns)


def mean_by(
    rows: pd.DataFrame,
    by: Literal["task", "place"],
    design: Design,
    orders: Sequence[str],
    level: float = LEVEL,
) -> pd.DataFrame:
    """Means of `task_rows` of one method and setting, for each task or place.

    Intervals as for the mean gap (`mean`), over seeds and, where orders are a sample, orders.

    Returns:
        The column `by`, `gap`, `gap/low`, `gap/high`, `score`, `learned`, `forgetting`,
        `forgetting/low`, `forgetting/high`, n_orders.
    """
    used = rows[rows["order"].isin(orders) & rows["complete"]]
    found = []
    for value, group in used.groupby(by, sort=True):
        ran = set(group["order"])
        own = [order for order in orders if order in ran]
        population = design.population(len(own))
        row: dict[str, object] = {by: value}
        for name in _NUMBERS:
            table = cells(group, name, own, design.seeds).whole.by_seed
            estimate = Estimate()
            if len(table):
                estimate = moments(table, population).estimate(level=level)
            row[name] = estimate.value
            if name in ("gap", "forgetting"):
                row |= {f"{name}/low": estimate.low, f"{name}/high": estimate.high}
        found.append({**row, "n_orders": len(own)})
    return pd.DataFrame(found)
