"""Garbage collection: files of a storage that no study needs, and their removal.

The roots are the key lists of the studies (`folder.Folder`), which grow before a stage is run and
shrink when a study is complete. What no list has named for the grace, and nobody has written for as
long, can go.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from l2kd_ray.core.filetree import FileEntry
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.scratch import remove_abandoned
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import DROPPED, MANIFEST, Store
from l2kd_ray.errors import InputError
from l2kd_ray.study.folder import FORMER_KEYS, KEYS, Folder, is_key_list, unseal
from l2kd_ray.study.plan import intermediate
from l2kd_ray.study.study import Study

GRACE = timedelta(hours=24)
"""Minimum age of removed files, and how long a stage is kept after a study has needed it: a running
sweep may be about to publish or read it."""
_STUDY, _STARTS, _CHECKPOINT = "study.yaml", "starts", "checkpoint"
_ASIDE = re.compile(r"\.[0-9a-f]{8}\.tmp$")


@dataclass(frozen=True)
class Garbage:
    """Files below one folder that can be removed, with the reason."""

    folder: str
    bytes: int
    reason: str


def roots(
    store: Store, entries: Iterable[FileEntry], drop: Collection[str] = ()
) -> dict[str, frozenset[str]]:
    """The keys of the stages that each study needs, by its name; none of a study in `drop`.

    `entries`: the files of all studies.

    Raises: InputError if a study's key lists are missing or damaged.
    """
    lists: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        match entry.path.split("/"):
            case [_, name, file] if (file == _STUDY or is_key_list(file)) and not _is_past(entry):
                lists[name].append(file)
    return {
        name: frozenset() if name in drop else _needed(store, name, files)
        for name, files in lists.items()
    }


def _is_past(entry: FileEntry) -> bool:
    """True for what a cut-off write left, and for a former list of keys, after their grace."""
    name = entry.path.rpartition("/")[2]
    passing = name.startswith(FORMER_KEYS) or _ASIDE.search(name) is not None
    return passing and entry.modified < datetime.now(UTC) - GRACE


def _needed(store: Store, name: str, files: Iterable[str]) -> frozenset[str]:
    found = set[str]()
    for file in {*files, KEYS} - {_STUDY}:
        try:
            lines = unseal(store.read(f"studies/{name}/{file}") or b"").splitlines()
        except ValueError as error:
            raise InputError(
                "the list of the stages that a study needs is missing or damaged",
                where=f"{store.root}/studies/{name}/{file}",
                expected=f"a list with its digest ({error})",
                fix=f"sweep {name} again, which writes it anew; or, if its stages may go, "
                f"`l2kd gc --drop {name}`",
            ) from None
        found.update(line.split()[1] for line in lines)
    return frozenset(found)


def find_garbage(store: Store, drop: Iterable[str] = ()) -> list[Garbage]:
    """The files that can be removed if the studies `drop` are no longer roots; removes nothing.

    These are stages of no root; of the others, attempts that lost the race for their key, attempts
    that were never published, and checkpoints left after a publication; and of the studies, former
    lists of keys and files whose writing was cut off.

    Raises: InputError if a name in `drop` is not a study of this storage, or a study's key lists
        are missing or damaged.
    """
    dropped, studies = set(drop), store.files("studies")
    known = roots(store, studies, dropped)
    for name in dropped:
        if name not in known:
            raise InputError(
                "no such study to drop",
                where=store.root,
                key="--drop",
                got=name,
                expected=", ".join(sorted(known)) or "no study was swept here",
            )
    kept = {key for keys in known.values() for key in keys}
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
    passed = [Garbage(e.path, e.size, "of a former sweep") for e in studies if _is_past(e)]
    return passed + [
        garbage
        for folder, entries in old.items()
        for garbage in _of_stage(folder, entries, kept, manifests)
    ]


def droppable(study: Study, store: Store, stages: Iterable[Stage]) -> set[Stage]:
    """The intermediate models among the stages that no other study of the storage lists.

    None if the list of another one is damaged.
    """
    own = study.config.name
    try:
        known = roots(store, store.files("studies"), [own])
    except InputError as error:
        print(f"keep: leaves: no model is dropped.\n{error}", file=sys.stderr)
        return set()
    others = {key for keys in known.values() for key in keys}
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
    """Remove the garbage, and the keys of the dropped studies (their results stay).

    On this machine, temporary folders of killed processes go, too.
    """
    remove_abandoned()
    for name in drop:
        Folder(store, name).settle_keys(())
    for item in garbage:
        manifest = f"{item.folder}/{MANIFEST}"
        store.remove(manifest)  # first: a reader sees a whole stage or none
        store.remove(item.folder)
