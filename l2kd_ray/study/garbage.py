"""Garbage collection: files of a storage that no study needs, and their removal.

The roots are the key lists that every sweep writes to `studies/<name>/keys` before it starts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from l2kd_ray.core.filetree import FileEntry
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import DROPPED, MANIFEST, Store
from l2kd_ray.errors import InputError
from l2kd_ray.study.plan import intermediate
from l2kd_ray.study.study import Study

GRACE = timedelta(hours=24)
"""Minimum age of removed files: a running sweep may be about to publish or read younger ones."""
_STARTS, _CHECKPOINT = "starts", "checkpoint"


@dataclass(frozen=True)
class Garbage:
    """Files below one folder that can be removed, with the reason."""

    folder: str
    bytes: int
    reason: str


def roots(store: Store) -> dict[str, frozenset[str]]:
    """The keys of the stages of each swept study, by its name."""
    found = {}
    for entry in store.files("studies"):
        name, file = entry.path.split("/")[-2:]
        if file == "keys":
            lines = (store.read(entry.path) or b"").decode().splitlines()
            found[name] = frozenset(line.split()[1] for line in lines)
    return found


def find_garbage(store: Store, drop: Iterable[str] = ()) -> list[Garbage]:
    """The files that can be removed if the studies `drop` are no longer roots; removes nothing.

    These are stages of no root; of the others, attempts that lost the race for their key, attempts
    that were never published, and checkpoints left after a publication.

    Raises: InputError if a name in `drop` is not a study of this storage.
    """
    known = roots(store)
    for name in drop:
        if name not in known:
            raise InputError(
                "no such study to drop",
                where=store.root,
                key="--drop",
                got=name,
                expected=", ".join(sorted(known)) or "no study was swept here",
            )
    kept = {key for name, keys in known.items() if name not in set(drop) for key in keys}
    oldest = datetime.now(UTC) - GRACE
    stages: dict[str, list[FileEntry]] = defaultdict(list)
    for entry in store.files("stages"):
        parts = entry.path.split("/")
        if len(parts) > 4:
            stages["/".join(parts[:4])].append(entry)
    old = {
        folder: entries
        for folder, entries in sorted(stages.items())
        if all(entry.modified < oldest for entry in entries)
    }
    folders = (folder.split("/") for folder, entries in old.items() if _has_more(folder, entries))
    manifests = store.manifests({key: kind for _, kind, _, key in folders if key in kept})
    return [
        garbage
        for folder, entries in old.items()
        for garbage in _of_stage(folder, entries, kept, manifests)
    ]


def droppable(study: Study, store: Store, stages: Iterable[Stage]) -> set[Stage]:
    """The intermediate models among the stages that no other study of the storage lists."""
    others = {
        key for name, keys in roots(store).items() if name != study.config.name for key in keys
    }
    return {model for model in intermediate(stages) if model.key not in others}


def drop_intermediate(study: Study, reader: StoreView, stages: Iterable[Stage]) -> None:
    """Drop the intermediate models (`keep: leaves`) that an earlier sweep has not dropped."""
    there = [m for m in droppable(study, reader.store, stages) if reader.has_files(m.key)]
    for model in there:
        reader.store.drop_files(model.kind, model.key)
    if there:
        reader.renew()


def _has_more(folder: str, entries: Iterable[FileEntry]) -> bool:
    """True if a finished stage has more files than its manifest and those of one attempt.

    Only then must the manifest be read, to know which attempt is published.
    """
    names = {_name_in(folder, entry) for entry in entries} - {_STARTS}
    return MANIFEST in names and (len(names) > 2 or _CHECKPOINT in names)


def _of_stage(
    folder: str, entries: list[FileEntry], kept: set[str], manifests: Mapping[str, Manifest]
) -> Iterator[Garbage]:
    key = folder.split("/")[3]
    if key not in kept:
        yield Garbage(folder, sum(entry.size for entry in entries), "of no study")
        return
    manifest = manifests.get(key)
    if manifest is None:
        return  # nothing superfluous, or not finished: its checkpoint is still needed
    below: dict[str, int] = defaultdict(int)
    for entry in entries:
        name = _name_in(folder, entry)
        if name not in (MANIFEST, manifest.attempt, DROPPED, _STARTS):
            below[name] += entry.size
    for name, size in sorted(below.items()):
        reason = "a checkpoint left behind" if name == _CHECKPOINT else "of a lost attempt"
        yield Garbage(f"{folder}/{name}", size, reason)


def _name_in(folder: str, entry: FileEntry) -> str:
    return entry.path.removeprefix(f"{folder}/").split("/")[0]


def collect(store: Store, garbage: Iterable[Garbage], drop: Iterable[str] = ()) -> None:
    """Remove the garbage, and the key lists of the dropped studies (their results stay)."""
    for name in drop:
        store.remove(f"studies/{name}/keys")
    for item in garbage:
        manifest = f"{item.folder}/{MANIFEST}"
        store.remove(manifest)  # first: a reader sees a whole stage or none
        store.remove(item.folder)
