"""The cost of a study: steps and seconds of a trial without sharing, hours, devices, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.stage import Stage
from l2kd_ray.families.evaluate import Measure
from l2kd_ray.study.trial import Trial, by_arm, stages_of

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
        stages = [s for s in trial.stages() if not s.prepares and not isinstance(s, Measure)]
        done = [manifests[stage.key] for stage in stages if stage.key in manifests]
        if len(done) == len(stages):
            size = _size(trial, manifests)
            rows.append((*trial.arm, *_sum(done).values(), *size.values()))
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


def devices(stages: Iterable[Stage], manifests: Mapping[str, Manifest]) -> Mapping[str, int]:
    """Number of finished stages by the card that computed them, or `CPU`; those that never use a
    GPU do not count."""
    movable = (stage.key for stage in stages if stage.needs_gpu and not stage.prepares)
    found = (manifests[key].environment for key in movable if key in manifests)
    return Counter(str(where.get("gpu", "CPU")) for where in found)


def peak_memory(manifests: Iterable[Manifest]) -> int:
    """Most bytes that a process of some stages held at once; 0 where none says so."""
    return max((int(m.environment.get("peak_memory", 0)) for m in manifests), default=0)


def hours(manifest: Manifest) -> tuple[float, float]:
    """Core-hours and GPU-hours of a stage, of all its workers; one that ran on GPUs counts by these
    alone."""
    where = manifest.environment
    spent = manifest.seconds / 3600 * int(where.get("world_size", 1))
    if str(where.get("device", "cpu")).startswith("cpu"):
        return spent * int(where.get("threads", 1)), 0.0
    return 0.0, spent * float(where.get("gpus", 1))


def hours_by_method(trials: Iterable[Trial], manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """One row per method and setting: core_hours and gpu_hours of all its finished stages.

    Each stage counts once for a method, however many of its trials share it.
    """
    import pandas as pd

    groups, rows = by_arm(trials), []
    for arm in sorted(groups):
        used = manifests.keys() & {stage.key for stage in stages_of(groups[arm])}
        spent = [hours(manifests[key]) for key in sorted(used)] or [(0.0, 0.0)]
        rows.append((*arm, *map(sum, zip(*spent, strict=True))))
    return pd.DataFrame(rows, columns=["method", "setting", "core_hours", "gpu_hours"])
