"""What of a storage no study needs any more, and its removal.

The roots are the key lists that every sweep writes to `studies/<name>/keys` before it starts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import DROPPED, MANIFEST, FileEntry, Manifest, Store
from l2kd_ray.errors import InputError
from l2kd_ray.study.plan import intermediate
from l2kd_ray.study.study import Study

_GRACE = timedelta(hours=24)
"""Nothing younger goes: a sweep may be about to publish it, or to read it."""
_STARTS, _CHECKPOINT = "starts", "checkpoint"


@dataclass(frozen=True)
class Garbage:
    """Files below one folder that can go, and why."""

    folder: str
    bytes: int
    reason: str


def roots(store: Store) -> dict[str, frozenset[str]]:
    """The stages of each study that was swept: its name -> keys."""
    found = {}
    for entry in store.files("studies"):
        name, file = entry.path.split("/")[-2:]
        if file == "keys":
            lines = (store.read(entry.path) or b"").decode().splitlines()
            found[name] = frozenset(line.split()[1] for line in lines)
    return found


def find_garbage(store: Store, drop: Iterable[str] = ()) -> list[Garbage]:
    """What can go when the studies `drop` are no roots any more; nothing is removed.

    Stages of no root; of the others, attempts that lost the race for their key, attempts that
    were never published, and checkpoints that a publication left behind.

    Raises: InputError where a name of `drop` is no study of this storage.
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
    oldest = datetime.now(UTC) - _GRACE
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
    """Of the study's stages, the intermediate models that no other study of the storage lists."""
    others = {
        key for name, keys in roots(store).items() if name != study.config.name for key in keys
    }
    return {model for model in intermediate(stages) if model.key not in others}


def drop_intermediate(study: Study, reader: StoreView, stages: Iterable[Stage]) -> None:
    """Drop what a sweep drops as it goes (`keep: leaves`), where an earlier one left it."""
    there = [m for m in droppable(study, reader.store, stages) if reader.has_files(m.key)]
    for model in there:
        reader.store.drop_files(model.kind, model.key)
    if there:
        reader.renew()


def _has_more(folder: str, entries: Iterable[FileEntry]) -> bool:
    """Whether a finished stage has more than its manifest and the files of one attempt: only then
    the manifest must say which are its own."""
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
        return  # it has nothing to spare, or will be computed: its checkpoint is worth keeping
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
