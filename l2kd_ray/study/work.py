"""The cost of one trial of each method, without any sharing between trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.stage import Stage
from l2kd_ray.families.evaluate import Evaluate
from l2kd_ray.study.search import setting_id
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

_WORK = ("steps", "tokens", "sampled", "seconds")
"""Optimizer steps, tokens learned, tokens that students wrote during their training; and time."""
_SIZE = ("parameters", "parameters/inner", "latency_ms/1", "latency_ms/32")
"""Sizes of a student: all parameters, those without embeddings, and milliseconds for a batch of 1
and of 32 texts of 32 tokens on the machine that made it; NaN if its kind does not report them."""


def work_by_method(trials: Iterable[Trial], manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """One row per method and setting: steps, tokens, sampled tokens and seconds of a trial.

    They cover the trial's whole path (teachers, their decoding, replay, learning) without
    evaluation, as means over its finished trials; `manifests` by key.
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
    """The sizes of the trial's student, from the scores of its untrained model's stage."""
    stage: Stage | None = trial.steps[-1][-1].stage.model
    while stage is not None and stage.kind != "initial":
        stage = getattr(stage, "start", None)
    known = manifests[stage.key].scores if stage is not None and stage.key in manifests else {}
    return {name: known.get(name, float("nan")) for name in _SIZE}


def _sum(manifests: Iterable[Manifest]) -> Mapping[str, float]:
    counted = [{**m.scores, "seconds": m.seconds} for m in manifests]
    return {name: sum(one.get(name, 0.0) for one in counted) for name in _WORK}
