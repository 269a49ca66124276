"""What a trial of each method costs on its own: the price of its gap, without any sharing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Manifest
from l2kd_ray.families.evaluate import Evaluate
from l2kd_ray.study.search import setting_id
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

_WORK = ("steps", "tokens", "seconds")
_SIZE = ("parameters", "parameters/inner", "latency_ms/1", "latency_ms/32")
"""Of a student: all parameters, those that are no embedding, milliseconds for a batch of 1 and of
32 texts of 32 tokens, as the machine that made it had them; NaN where its kind does not tell."""


def work_by_method(trials: Iterable[Trial], manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """A row for each method and setting: optimizer steps, training tokens and seconds of a trial's
    whole path (its teachers, their decoding, replay and learning; evaluation measures and is left
    out), the mean over its finished trials; `manifests` by key.
    """
    import pandas as pd

    rows = []
    for trial in trials:
        stages = [s for s in trial.stages() if not s.prepares and not isinstance(s, Evaluate)]
        done = [manifests[stage.key] for stage in stages if stage.key in manifests]
        if len(done) == len(stages):
            setting = setting_id(trial.setting)
            size = _size(trial, manifests)
            rows.append((trial.method, setting, *_sum(done).values(), *size.values()))
    frame = pd.DataFrame(rows, columns=["method", "setting", *_WORK, *_SIZE])
    return frame.groupby(["method", "setting"], sort=True, as_index=False).mean()


def _size(trial: Trial, manifests: Mapping[str, Manifest]) -> Mapping[str, float]:
    """What is known of the trial's student, from the stage that it began as."""
    stage: Stage | None = trial.steps[-1][-1].stage.model
    while stage is not None and stage.kind != "initial":
        stage = getattr(stage, "start", None)
    known = manifests[stage.key].scores if stage is not None and stage.key in manifests else {}
    return {name: known.get(name, float("nan")) for name in _SIZE}


def _sum(manifests: Iterable[Manifest]) -> Mapping[str, float]:
    counted = [{**m.scores, "seconds": m.seconds} for m in manifests]
    return {name: sum(one.get(name, 0.0) for one in counted) for name in _WORK}
