"""What a trial of each method costs on its own: the price of its gap, without any sharing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from l2kd_ray.store import Manifest
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

WORK = ("steps", "tokens", "seconds")
_MEASURES = {"evaluate", "tokenizer", "tokens", "initial"}


def work_by_method(trials: Iterable[Trial], manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """A row for each method and setting: optimizer steps, training tokens and seconds of a trial's
    whole path (its teachers, their decoding, replay and learning; evaluation measures and is left
    out), the mean over its finished trials; `manifests` by key.
    """
    import pandas as pd

    rows = []
    for trial in trials:
        stages = [stage for stage in trial.stages() if stage.kind not in _MEASURES]
        done = [manifests[stage.key] for stage in stages if stage.key in manifests]
        if len(done) == len(stages):
            setting = json.dumps(trial.setting, sort_keys=True)
            rows.append((trial.method, setting, *_sum(done).values()))
    frame = pd.DataFrame(rows, columns=["method", "setting", *WORK])
    return frame.groupby(["method", "setting"], sort=True, as_index=False).mean()


def _sum(manifests: Iterable[Manifest]) -> Mapping[str, float]:
    counted = [{**m.scores, "seconds": m.seconds} for m in manifests]
    return {name: sum(one.get(name, 0.0) for one in counted) for name in WORK}
