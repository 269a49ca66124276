"""The training curves of trials, along the stream: each task's student, and its teacher beside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from l2kd_ray.analysis.smooth import smooth
from l2kd_ray.core.stage import CURVE, Stage
from l2kd_ray.core.store import Damaged
from l2kd_ray.study.snapshot import Snapshot
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

Training = tuple[str, int, str, Stage]
"""role ("student" or "teacher"), number of tasks learned with this training, task, model."""
_POINTS = 100
"""Largest number of points of one training's curve."""


def trainings(trial: Trial) -> Iterator[Training]:
    """The trainings of a trial: those of its stream in their sequence, then its teachers'.

    The task of a model that learned all tasks at once is "".
    """
    seen: set[Stage] = set()
    for step in trial.steps:
        several = len({cell.stage.model for cell in step}) > 1
        for cell in step:
            if cell.i and cell.stage.model not in seen:
                seen.add(cell.stage.model)
                alone = cell.task if several else ""
                task = trial.order[cell.i - 1] if trial.order else alone
                yield "student", cell.i, task, cell.stage.model
    for cell in trial.teachers:
        yield "teacher", cell.j, cell.task, cell.stage.model


def curves_of(snapshot: Snapshot, trials: Iterable[Trial]) -> pd.DataFrame:
    """The curves of the finished trainings of some trials, of at most 100 points each.

    Columns: method, setting, order, seed, trial, role (student or teacher), i (number of tasks
    learned with this training), task, key, step (within the training), and what its `curve.json`
    holds: loss, its terms (of language models qa, lm, kd, replay), grad_norm, lr, tokens; and
    tokens_per_second, of the whole training. A point is the mean over the steps up to it. Dropped
    or damaged files are left out.
    """
    import pandas as pd

    rows = [(trial, *one) for trial in trials for one in trainings(trial)]
    known = {stage.key: snapshot.manifests.get(stage.key) for *_, stage in rows}
    read: dict[str, pd.DataFrame] = {}
    for manifest in filter(None, known.values()):
        if CURVE in manifest.files and snapshot.reader.has_files(manifest.key):
            with suppress(Damaged, OSError):  # a picture; the next sweep computes it again
                points = json.loads(snapshot.reader.store.content(manifest, CURVE))
                speed = manifest.environment.get("tokens_per_second")
                read[manifest.key] = smooth(pd.DataFrame(points), _POINTS).assign(
                    tokens_per_second=speed
                )
    names = ("method", "setting", "order", "seed", "trial", "role", "i", "task", "key")
    frames = [
        read[stage.key].assign(
            **dict(zip(names, (*trial.names, trial.id, role, i, task, stage.key), strict=True))
        )
        for trial, role, i, task, stage in rows
        if stage.key in read
    ]
    first = [*names, "step"]
    if not frames:
        return pd.DataFrame(columns=[*first, "loss"])
    whole = pd.concat(frames, ignore_index=True)
    return whole[[*first, *(name for name in whole if name not in first)]]
