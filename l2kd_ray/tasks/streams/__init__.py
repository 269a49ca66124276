"""Streams of tasks that papers compare methods on, by name: tasks, metrics, prompts, orders.

Each is a YAML file in this folder. Orders are written out, because the same number stands for
different orders in different papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from l2kd_ray.errors import InputError, did_you_mean
from l2kd_ray.tasks.readers.files import digest
from l2kd_ray.tasks.registry import by_split


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NamedStream:
    """The description of a stream, as its file has it."""

    source: str
    """The paper, and how many of the orders it ran."""
    get: str
    """The way to the upstream files."""
    folder: str
    """The folder of those that `data_dir` names."""
    differs: str
    """Differences between this stream and upstream's."""
    task: Mapping[str, Any]
    """Keys that all tasks have in common."""
    tasks: tuple[Mapping[str, Any], ...]
    """Keys of each task; `files` are paths below `data_dir`, by split or with {split}."""
    orders: tuple[tuple[str, ...], ...]
    """The orders that papers ran."""


STREAMS = tuple(
    sorted(
        path.name.removesuffix(".yaml")
        for path in files("l2kd_ray.tasks.streams").iterdir()
        if path.name.endswith(".yaml")
    )
)
"""The names of the streams."""


@cache
def stream(name: str) -> NamedStream:
    """A stream by its name. Raises: InputError if there is none."""
    if name not in STREAMS:
        raise InputError(
            "there is no such stream",
            key="stream",
            got=name,
            expected=" or ".join(STREAMS),
            fix=did_you_mean(name, STREAMS),
        )
    text = files("l2kd_ray.tasks.streams").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return NamedStream(**yaml.safe_load(text))


def expanded(data: Mapping[str, Any], base: Path | None) -> dict[str, Any]:
    """A study file with the tasks and the orders of its `stream`; other keys are as they are.

    Raises: InputError if there is no such stream, it has tasks beside it, or files are missing
    or unreadable.
    """
    rest = dict(data)
    name = rest.pop("stream", None)
    if name is None:
        return rest
    if "tasks" in rest:
        raise InputError("a stream has its own tasks", key="stream", got=name, fix="keep one")
    known = stream(str(name))
    folder = Path(str(rest.pop("data_dir", "") or ""))
    tasks, missing = [], []
    for one in known.tasks:
        paths = {split: folder / file for split, file in by_split(one["files"]).items()}
        digests = {split: _digest(path, base) for split, path in paths.items()}
        missing += [str(paths[split]) for split in ("train", "test") if not digests[split]]
        # Some upstreams ship their test file as dev, too. A task without dev gets one from train.
        if digests["dev"] == digests["test"]:
            digests["dev"] = None
        own = {name: value for name, value in one.items() if name != "files"}
        splits = {split: str(path) for split, path in paths.items() if digests[split]}
        tasks.append({**known.task, **own, **splits})
    if missing:
        raise InputError(
            f"{len(missing)} files of the stream are missing",
            key="stream",
            got=", ".join(missing[:6]) + (", ..." if len(missing) > 6 else ""),
            expected=f"data_dir: {known.folder}",
            fix=f"{known.get}, then set data_dir to {known.folder}",
        )
    return {"orders": [list(order) for order in known.orders], **rest, "tasks": tasks}


def _digest(path: Path, base: Path | None) -> str | None:
    """The digest of a file at `path`, or else below `base`; None if there is none."""
    places = (path, base / path) if base else (path,)
    return next((digest(place) for place in places if place.exists()), None)
