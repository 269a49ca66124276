"""The replay stages of trials, with the quality of their samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.stage import Stage
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd


def replay_quality(
    trials: Iterable[Trial], manifests: Mapping[str, Manifest]
) -> tuple[pd.DataFrame, dict[str, Manifest]]:
    """One row per finished replay stage and trial, and the last such stage of each method.

    Columns: method, setting, order, seed, i (number of tasks the generating student had learned)
    and the stage's scores.
    """
    import pandas as pd

    names = ("method", "setting", "order", "seed")
    rows, last = [], {}
    for trial in trials:
        for i, stage in replays(trial):
            manifest = manifests.get(stage.key)
            if manifest is not None:
                rows.append(
                    {**dict(zip(names, trial.names, strict=True)), "i": i, **manifest.scores}
                )
                last[trial.method] = manifest
    return pd.DataFrame(rows), last


def replays(trial: Trial) -> Iterator[tuple[int, Stage]]:
    for i, step in enumerate(trial.steps[1:]):
        stage = getattr(step[0].stage.model, "replay", None)
        if stage is not None:
            yield i, stage
