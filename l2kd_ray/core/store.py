"""Finished stages by key, on any filesystem that pyarrow or fsspec reaches.

<root>/stages/<kind>/<ab>/<key>/
    manifest.json   written last: its presence makes the stage finished
    <attempt>/...   its files
    starts/...      a note for each attempt
    checkpoint/...  of a training that has not ended
    dropped         marks a stage whose files were removed; its scores remain
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from l2kd_ray.core.copies import COPIES
from l2kd_ray.core.filetree import FileEntry, FileTree, NotAFile, side_by_side
from l2kd_ray.core.manifest import FileRecord, Manifest

MANIFEST = "manifest.json"
DROPPED = "dropped"


class Damaged(RuntimeError):
    """A published stage whose files differ from its manifest; it must be computed again."""

    def __init__(self, kind: str, key: str, problem: str) -> None:
        super().__init__(kind, key, problem)
        self.kind, self.key, self.problem = kind, key, problem

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.problem}"


@dataclass(frozen=True)
class Listing:
    """The finished stages (key -> kind), and the keys of those whose files were dropped."""

    finished: Mapping[str, str]
    dropped: frozenset[str]
    begun: Mapping[str, FileEntry] = field(default_factory=dict)
    """The note of the last attempt of each stage that is not finished, by key."""


class Store(FileTree):
    """Finished stages on a filesystem. `tests/test_store.py` checks this contract on each one.

    Atomic: a reader sees a whole stage or none. Files go under an attempt's own name first, the
    manifest goes last; a local file is written aside and renamed, an object appears on close.
    Visible: after `publish` has returned, every process sees the stage.
    Shared: any number of processes and clusters may publish one key. Each attempt has its own
    folder, the manifest names one of them, and `l2kd gc` removes the others.
    A published file is never changed; `drop_files` removes it and leaves the manifest.
    Checked: `fetch` compares every file with its digest before it is read. No pickle.

    A store is a location and may be pickled.
    """

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._verified: dict[tuple[str, str], Path] = {}  # on a local disk; else see COPIES

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.root,)

    def address(self, path: str) -> str:
        """The path or URI of a file or folder below the root; a URI's query stays at its end."""
        if self.is_local:
            return f"{self.root.rstrip('/')}/{path}"
        base, mark, query = self.root.partition("?")
        return f"{base.rstrip('/')}/{path}{mark}{query}"

    # Finished stages

    def manifest(self, kind: str, key: str) -> Manifest | None:
        """The manifest of a finished stage; None if the stage is not finished.

        A stage whose manifest is torn, altered or another stage's is withdrawn, and counts as not
        finished.
        """
        try:
            data = self.read(f"{stage_folder(kind, key)}/{MANIFEST}")
            if data is None:
                return None
            found = Manifest.from_json(data)
            if (found.kind, found.key) != (kind, key):
                raise ValueError(f"it is another stage's: {found.kind} {found.key}")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self.withdraw(Damaged(kind, key, f"the manifest is damaged ({error})"))
            return None
        return found

    def manifests(self, stages: Mapping[str, str]) -> dict[str, Manifest]:
        """The manifests of the finished stages among `stages` (key -> kind), by key.

        They keep the order of `stages` and are read in parallel.
        """
        found = side_by_side(self.manifest, stages.values(), stages.keys())
        return {one.key: one for one in found if one is not None}

    def listing(self) -> Listing:
        """All finished stages, from one listing of the storage."""
        finished, dropped, begun = dict[str, str](), set[str](), dict[str, FileEntry]()
        for entry in self.files("stages"):
            match entry.path.split("/"):
                case [_, kind, _, key, name] if name == MANIFEST:
                    finished[key] = kind
                case [_, _, _, key, name] if name == DROPPED:
                    dropped.add(key)
                case [_, _, _, key, "starts", _]:
                    last = begun.setdefault(key, entry)
                    begun[key] = max(last, entry, key=lambda one: one.modified)
        left = {key: note for key, note in begun.items() if key not in finished}
        return Listing(finished, frozenset(dropped), left)

    def has_files(self, kind: str, key: str) -> bool:
        """True if the stage is finished and its files were not dropped."""
        return self.manifest(kind, key) is not None and not self._dropped(kind, key)

    def drop_files(self, kind: str, key: str) -> None:
        """Remove a finished stage's files; its manifest and scores remain."""
        manifest = self.manifest(kind, key)
        if manifest is not None:
            self.write(f"{stage_folder(kind, key)}/{DROPPED}", b"")
            self.remove(f"{stage_folder(kind, key)}/{manifest.attempt}")

    def _dropped(self, kind: str, key: str) -> bool:
        return self.read(f"{stage_folder(kind, key)}/{DROPPED}") is not None

    def content(self, manifest: Manifest, name: str) -> bytes:
        """The bytes of one file of a stage, checked against its digest. Raises: Damaged."""
        data, folder = None, stage_folder(manifest.kind, manifest.key)
        with suppress(NotAFile):
            data = self.read(f"{folder}/{manifest.attempt}/{name}")
        if data is None:
            raise self._withdrawn(manifest, f"{name} is missing")
        if hashlib.sha256(data).hexdigest() != manifest.files[name].sha256:
            raise self._withdrawn(
                manifest, f"{name} is altered: its digest is not the published one"
            )
        return data

    def fetch(self, kind: str, key: str, manifest: Manifest | None = None) -> Path:
        """A local folder with the stage's files, each checked against its digest.

        `manifest`: the stage's, if it has been read before.

        Raises:
            Damaged: the stage is not finished, or one of its files differs from what was published.
                It has been withdrawn; the caller must have it computed again.
        """
        manifest = manifest or self.manifest(kind, key)
        if manifest is None:
            raise Damaged(kind, key, "it is not in the store")
        if self._dropped(kind, key):
            raise Damaged(kind, key, "its files were dropped")
        if self.is_local:
            known = self._verified.get((key, manifest.attempt))
        else:
            known = COPIES.get(self.root, key, manifest.attempt)
        if known is not None and known.exists():
            return known
        remote = f"{stage_folder(kind, key)}/{manifest.attempt}"
        folder = Path(self.base, remote) if self.is_local else self._download(remote, manifest)
        for name, record in manifest.files.items():
            path = folder / name
            if not path.is_file():
                problem = f"{name} is missing"
            elif path.stat().st_size != record.size:
                problem = f"{name} has {path.stat().st_size} bytes, {record.size} were published"
            elif FileRecord.of(path) != record:
                problem = f"{name} is altered: its digest is not the published one"
            else:
                continue
            raise self._withdrawn(manifest, problem)
        if self.is_local:
            self._verified[key, manifest.attempt] = folder
        else:
            COPIES.keep(self.root, key, manifest.attempt, folder)
        return folder

    def publish(self, manifest: Manifest, folder: Path) -> Manifest:
        """Publish the files in `folder` as the stage of `manifest` (whose `files` are set here).

        Returns the valid manifest, which is that of another attempt if that one was first.
        """
        stage = stage_folder(manifest.kind, manifest.key)
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        records = {name: FileRecord.of(folder / name) for name in names}
        side_by_side(
            lambda name: self.upload(folder / name, f"{stage}/{manifest.attempt}/{name}"), names
        )
        standing = self.manifest(manifest.kind, manifest.key)
        if standing is not None and not self._dropped(manifest.kind, manifest.key):
            return standing
        manifest = replace(manifest, files=records)
        self.write(f"{stage}/{MANIFEST}", manifest.to_json())
        self.remove(f"{stage}/{DROPPED}")
        self.remove(f"{stage}/checkpoint")
        return manifest

    def note_start(self, kind: str, key: str, attempt: str) -> None:
        """Note the start of an attempt; `l2kd explain` and the failure drills count these notes."""
        note = {"host": socket.gethostname(), "started": datetime.now(UTC).isoformat()}
        self.write(f"{stage_folder(kind, key)}/starts/{attempt}.json", json.dumps(note).encode())

    def withdraw(self, damage: Damaged) -> None:
        """Remove a damaged stage's manifest, so that the stage is no longer finished."""
        print(f"store: {damage}; it will be computed again", file=sys.stderr, flush=True)
        with suppress(OSError):  # it may be read only; then each reader finds the damage
            self.remove(f"{stage_folder(damage.kind, damage.key)}/{MANIFEST}")

    def _withdrawn(self, manifest: Manifest, problem: str) -> Damaged:
        """The error to raise; the stage is withdrawn unless another process has replaced it."""
        kind, key = manifest.kind, manifest.key
        damage = Damaged(kind, key, problem)
        if self.manifest(kind, key) == manifest and not self._dropped(kind, key):
            self.withdraw(damage)
        return damage

    # Checkpoints of a stage that has not ended

    def save_checkpoint(self, kind: str, key: str, step: int, file: Path) -> None:
        """Store `file` as the stage's checkpoint at `step`, then remove older ones."""
        name = self.checkpoint_name(step)
        self.complete_checkpoint(kind, key, name, [self.save_part(kind, key, name, 0, file)])

    def checkpoint_name(self, step: int) -> str:
        return f"{step:09d}-{uuid.uuid4().hex[:8]}"

    def save_part(self, kind: str, key: str, name: str, number: int, file: Path) -> FileRecord:
        """Store a part of the checkpoint `name`, which begins to count when it is complete."""
        self.upload(file, f"{stage_folder(kind, key)}/checkpoint/{name}.{number}.safetensors")
        return FileRecord.of(file)

    def complete_checkpoint(
        self, kind: str, key: str, name: str, parts: Sequence[FileRecord]
    ) -> None:
        """Note that all parts are stored, then remove older checkpoints."""
        folder = f"{stage_folder(kind, key)}/checkpoint"
        records = [asdict(part) for part in parts]
        self.write(f"{folder}/{name}.json", json.dumps(records).encode())
        for old in self.files(folder):
            if Path(old.path).name < name[:9]:
                self.remove(old.path)

    def load_checkpoint(self, kind: str, key: str, target: Path) -> list[Path]:
        """Copy the newest complete checkpoint to `target`, and its other parts beside it.

        Returns the files in the sequence of the parts; empty if there is none.
        """
        folder = f"{stage_folder(kind, key)}/checkpoint"
        paths = [entry.path for entry in self.files(folder) if entry.path.endswith(".json")]
        for path in sorted(paths, reverse=True):
            try:
                records = [FileRecord(**one) for one in json.loads(self.read(path) or b"")]
                files = [target.with_name(f"{target.name}.{n}") for n in range(len(records))]
                files[:1] = [target]
                for number, file in enumerate(files):
                    self.download(f"{path.removesuffix('.json')}.{number}.safetensors", file)
            except (FileNotFoundError, ValueError, TypeError, RecursionError):
                continue  # it is cut or damaged; an outage or a full disk is not passed over
            if records and [FileRecord.of(file) for file in files] == records:
                return files
        return []

    def micro_batch_note(self, kind: str, key: str) -> str:
        """The path of a note for the next attempt at a stage: how many examples fit into memory."""
        return f"{stage_folder(kind, key)}/checkpoint/micro_batch"

    def _download(self, remote: str, manifest: Manifest) -> Path:
        folder = COPIES.scratch() / manifest.key / manifest.attempt
        for name in manifest.files:
            with suppress(FileNotFoundError):  # found missing, and reported, by `fetch`
                self.download(f"{remote}/{name}", folder / name)
        return folder


def stage_folder(kind: str, key: str) -> str:
    """The path of a stage's folder below the root of a store."""
    return f"stages/{kind}/{key[:2]}/{key}"
