"""The objectives of an adaptive search: what a setting is worth on dev, and what it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from l2kd_ray.core.reader import AnyStore
from l2kd_ray.study.sections import SearchObjective
from l2kd_ray.study.trial import Cell, Trial, by_arm

if TYPE_CHECKING:
    import pandas as pd


def cells_of(trial: Trial, objective: SearchObjective) -> Sequence[Cell]:
    """The evaluations whose mean an objective is."""
    if objective == "texts":
        last = len(trial.steps) - 1
        return [one for one in trial.retention if (one.i, one.task) == (last, "retention/texts")]
    dev = [cell for cell in trial.steps[-1] if cell.split == "dev"]
    return {"dev": dev, "new": dev[-1:], "old": dev[:-1]}[objective]


def known_scores(source: AnyStore, cells: Iterable[Cell]) -> dict[str, float]:
    """The scores of the finished ones among some evaluations, by key of the stage."""
    stages = {cell.stage.key: cell.stage for cell in cells}
    found = source.manifests({key: stage.kind for key, stage in stages.items()})
    return {key: one.scores[stages[key].metric_name] for key, one in found.items()}


def value(
    trials: Iterable[Trial], objective: SearchObjective, scores: Mapping[str, float]
) -> float:
    """The mean of an objective over instances, higher is better; `scores`: by key of the stage.

    NaN where a score is missing.
    """
    sign = -1 if objective == "texts" else 1
    return mean(
        sign * mean(scores.get(cell.stage.key, float("nan")) for cell in cells_of(trial, objective))
        for trial in trials
    )


def objectives(
    trials: Iterable[Trial], names: Sequence[SearchObjective], scores: Mapping[str, float]
) -> pd.DataFrame:
    """A row for each method and setting whose objectives are known: method, setting, the
    objectives, and whether no other setting of the method is at least as good in all and better in
    one (front)."""
    import pandas as pd

    from l2kd_ray.analysis.tradeoff import front

    groups = by_arm(trial for trial in trials if trial.order)
    rows = [(*arm, *(value(own, name, scores) for name in names)) for arm, own in groups.items()]
    frame = pd.DataFrame(rows, columns=["method", "setting", *names]).dropna(ignore_index=True)
    of_method = frame.groupby("method", sort=False)[[*names]]
    return frame.assign(front=pd.concat([front(own) for _, own in of_method] or [frame["method"]]))
