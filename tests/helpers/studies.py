"""The tiny study of the tests: its file as a mapping, and planned without reading any data;
and what a test of `gc` needs of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from l2kd_ray.core.store import Store
from l2kd_ray.families.builder import Resolved
from l2kd_ray.models.pretrained import Pretrained, resolve_model
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.study import Study
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.testing.studies import tiny

TINY: Mapping[str, Any] = tiny(methods=["finetune", "lamol", "l2kd"], replay={"ratio": 0.5})


def tiny_data(**changes: Any) -> dict[str, Any]:
    """The tiny study with changes (None takes a key away). It says nothing of replay where no
    method reads that: such a setting is refused."""
    data = {**TINY, **changes}
    methods = [
        one if isinstance(one, str) else one.get("method", one["name"]) for one in data["methods"]
    ]
    if "replay" not in changes and not {"lamol", "lamol-real", "l2kd"} & {*methods}:
        del data["replay"]
    return {key: value for key, value in data.items() if value is not None}


@cache
def resolved(tasks: tuple[str, ...]) -> Resolved:
    return resolve_study(parse_study({**TINY, "tasks": tasks}), "study.yaml").resolved


def planned(**changes: Any) -> Study:
    """The tiny study with changes to what is neither a task nor a pretrained model."""
    data = {**TINY, **changes}
    return Study(parse_study(data), resolved(tuple(data["tasks"])))


def source_of(folder: Path) -> Pretrained:
    """A folder as the pretrained model that a study names."""
    found = resolve_model(ModelSpec(model=str(folder)), where="study")
    assert found is not None
    return found


def age(store: Store) -> None:
    """Make everything two days old."""
    past = time.time() - 2 * 86400
    for path in Path(store.base).rglob("*"):
        os.utime(path, (past, past))


def keys(study: Study) -> set[str]:
    return {stage.key for trial in study.trials() for stage in trial.stages()}
