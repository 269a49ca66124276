"""A sweep in this process, without Ray, one stage after another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from l2kd_ray.core.device import device_of
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.reader import StoreView
from l2kd_ray.errors import InputError
from l2kd_ray.study.agenda import batches
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.plan import missing_stages
from l2kd_ray.study.study import Study
from l2kd_ray.study.trial import stages_of


def inline_settings(study: Study) -> dict[str, Any]:
    """The settings of `execute` for the stages of a study in this process.

    Raises: InputError for a GPU where torch sees none.
    """
    scale = study.config.scale
    return {
        "threads": max(1, int(scale.cpus_per_worker)),
        "device": device_of(scale.gpus_per_worker),
        "gpus": scale.gpus_per_worker,
        "checkpoint_seconds": scale.checkpoint_seconds,
    }


def sweep_inline(
    study: Study, reader: StoreView, show: Callable[[], object], seconds: float = math.inf
) -> bool:
    """Run all missing stages of the study; the first failure ends the sweep with its error.

    `show` is called before each evaluation and what it needs. Returns True if the time limit was
    reached before the last of them.

    Raises: InputError for an adaptive search, and for a GPU where torch sees none.
    """
    tune, how = study.config.tune, inline_settings(study)
    if study.is_adaptive:
        raise InputError(
            "adaptive search needs Ray",
            where=study.config.name,
            key="tune",
            got=f"searcher {tune.searcher}, scheduler {tune.scheduler}",
            fix="leave the executor at ray, or set tune.searcher=random tune.scheduler=none",
        )
    folder, deadline = Folder(reader.store, study.config.name), time.monotonic() + seconds
    for batch in batches(study, reader):
        folder.propose(stages_of(filter(study.is_proposed, batch.trials)))
        missing = missing_stages(batch.trials, reader.listing())
        for cell in (cell for trial in batch.trials for cell in trial.cells):
            if cell.stage in missing:
                if time.monotonic() >= deadline:
                    reader.renew()
                    return True
                show()
                obtain(cell.stage, reader.store, **how)
        if missing:
            reader.renew()
    return False
