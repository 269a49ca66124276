"""The changes of a study since its last sweep, and what of that sweep it can use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from l2kd_ray.core.stage import Stage
from l2kd_ray.study import yaml12
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.loading import to_yaml
from l2kd_ray.study.plan import in_sequence
from l2kd_ray.study.study import Study

_ABSENT = "not set"


@dataclass(frozen=True)
class Changes:
    """A study against the resolved file of its last sweep."""

    settings: Mapping[str, tuple[str, str]]
    """Dotted key -> its former value and its value now, as text."""
    former: int
    """Number of stages that the last sweep needed."""
    used: int
    """How many of them this study needs, too."""
    first: str
    """The first kind of stage, in the sequence of work, of which none is the same any more; "" if
    there is none."""


def changes_since(folder: Folder, study: Study, stages: Iterable[Stage]) -> Changes | None:
    """The changes since the last sweep; None before the first one, or if nothing has changed."""
    former = folder.resolved
    if former is None:
        return None
    before, now = dict(_flat(yaml12.load(former))), dict(_flat(yaml12.load(to_yaml(study))))
    settings = {
        key: (before.get(key, _ABSENT), now.get(key, _ABSENT))
        for key in [*before, *(key for key in now if key not in before)]
        if before.get(key) != now.get(key)
    }
    if not settings:
        return None
    lines = {key: kind for kind, key in map(str.split, folder.needed())}
    kinds = {stage: stage.kind for stage in stages}
    kept = {kind for stage, kind in kinds.items() if stage.key in lines}
    lost = [kind for kind in in_sequence(kinds) if kind in lines.values() and kind not in kept]
    used = sum(stage.key in lines for stage in kinds)
    return Changes(settings, len(lines), used, next(iter(lost), ""))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested mappings by dotted key; entries of lists by their names."""
    if isinstance(value, list) and all(isinstance(one, Mapping) and "name" in one for one in value):
        value = {one["name"]: one for one in value}
    if not isinstance(value, Mapping):
        yield prefix, str(value)
        return
    for key, one in value.items():
        yield from _flat(one, f"{prefix}.{key}" if prefix else str(key))
