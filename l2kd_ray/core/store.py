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
import os
import random
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyarrow.fs as pafs

from l2kd_ray.errors import InputError, refuse_credentials

MANIFEST = "manifest.json"
DROPPED = "dropped"
_CHUNK = 1 << 20
_OBJECT_STORES = ("s3", "gcs")  # they have no folders; creating one costs a request per level
SIDE_BY_SIDE = 16
"""Number of small files read in parallel: on a remote storage each costs one or two round trips."""


class Damaged(RuntimeError):
    """A published stage whose files differ from its manifest; it must be computed again."""

    def __init__(self, kind: str, key: str, problem: str) -> None:
        super().__init__(kind, key, problem)
        self.kind, self.key, self.problem = kind, key, problem

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.problem}"


@dataclass(frozen=True)
class FileRecord:
    """A published file: its size in bytes and the digest of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Listing:
    """The finished stages (key -> kind), and the keys of those whose files were dropped."""

    finished: Mapping[str, str]
    dropped: frozenset[str]


@dataclass(frozen=True)
class FileEntry:
    """A file below the root: its relative path, its size in bytes, its time of writing."""

    path: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Manifest:
    """The record of a finished stage: its fields, its inputs, its files, and how it was run."""

    kind: str
    key: str
    version: int
    settings: Mapping[str, Any]
    """The stage's fields as they entered its key."""
    inputs: Mapping[str, str]
    """Keys of its input stages, by field."""
    scores: Mapping[str, float]
    files: Mapping[str, FileRecord]
    attempt: str
    started: str
    seconds: float
    host: str
    environment: Mapping[str, Any]
    """Versions of packages, CPU type, threads and world size."""

    def to_json(self) -> bytes:
        """The manifest as JSON with its own digest, by which an altered one is detected."""
        body = asdict(self)
        return json.dumps({**body, "sha256": _digest_of(body)}, indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Parse a manifest.

        Raises: ValueError if it is torn or altered, or names a file outside the stage's folder.
        """
        body = json.loads(data)
        if not isinstance(body, dict) or body.pop("sha256", None) != _digest_of(body):
            raise ValueError("the manifest is altered")
        files = {name: FileRecord(**record) for name, record in body.pop("files").items()}
        for name in (body["attempt"], *files):
            if Path(name).is_absolute() or not name or ".." in Path(name).parts:
                raise ValueError(f"{name!r} lies outside of the stage")
        return cls(files=files, **body)


def _digest_of(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


P = ParamSpec("P")
R = TypeVar("R")
_WAITS_S = (0.2, 1.0, 4.0)


def _patient(
    operation: Callable[Concatenate[Store, P], R],
) -> Callable[Concatenate[Store, P], R]:
    """A decorator: retry the operation a few times if a remote storage fails.

    The operations are idempotent. pyarrow itself retries most requests, but not a GetObject that
    was refused (503), because the error's text does not fit into the range's buffer.
    """

    @wraps(operation)
    def retried(store: Store, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for wait in () if store.is_local else _WAITS_S:
            try:
                return operation(store, *args, **kwargs)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                raise
            except OSError:
                time.sleep(wait * random.uniform(0.5, 1.5))
        return operation(store, *args, **kwargs)

    return retried


class Store:
    """Finished stages on a filesystem. `tests/test_store.py` checks this contract on each one.

    Atomic: a reader sees a whole stage or none. Files go under an attempt's own name first, the
    manifest goes last; a local file is written aside and renamed, an object appears on close.
    Visible: after `publish` has returned, every process sees the stage.
    Shared: any number of processes and clusters may publish one key. Each attempt has its own
    folder, the manifest names one of them, and `l2kd gc` removes the others.
    A published file is never changed; `drop_files` removes it and leaves the manifest.
    Checked: `fetch` compares every file with its digest before it is read. No pickle.

    A store is a location and may be pickled; `root` is a path or a URI (s3://, gs://, memory://).
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.filesystem, self.base = _open(root)
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)
        if self.is_local:
            self.root = self.base  # the same folder from any working directory
        self._verified: dict[tuple[str, str], Path] = {}

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

        A stage whose manifest is torn or altered is withdrawn, and counts as not finished.
        """
        data = self.read(f"{_folder(kind, key)}/{MANIFEST}")
        if data is None:
            return None
        try:
            return Manifest.from_json(data)
        except (ValueError, TypeError, KeyError):
            self.withdraw(Damaged(kind, key, "the manifest is torn or altered"))
            return None

    def manifests(self, stages: Mapping[str, str]) -> dict[str, Manifest]:
        """The manifests of the finished stages among `stages` (key -> kind), by key.

        They keep the order of `stages` and are read in parallel.
        """
        with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
            found = threads.map(self.manifest, stages.values(), stages.keys())
            return {one.key: one for one in found if one is not None}

    def listing(self) -> Listing:
        """All finished stages, from one listing of the storage."""
        finished, dropped = {}, set()
        for entry in self.files("stages"):
            _, kind, *middle, key, name = entry.path.split("/")
            if len(middle) == 1 and name == MANIFEST:
                finished[key] = kind
            elif len(middle) == 1 and name == DROPPED:
                dropped.add(key)
        return Listing(finished, frozenset(dropped))

    def has_files(self, kind: str, key: str) -> bool:
        """True if the stage is finished and its files were not dropped."""
        return self.manifest(kind, key) is not None and not self._dropped(kind, key)

    def drop_files(self, kind: str, key: str) -> None:
        """Remove a finished stage's files; its manifest and scores remain."""
        manifest = self.manifest(kind, key)
        if manifest is not None:
            self.write(f"{_folder(kind, key)}/{DROPPED}", b"")
            self.remove(f"{_folder(kind, key)}/{manifest.attempt}")

    def _dropped(self, kind: str, key: str) -> bool:
        return self.read(f"{_folder(kind, key)}/{DROPPED}") is not None

    def content(self, manifest: Manifest, name: str) -> bytes:
        """The bytes of one file of a stage, checked against its digest. Raises: Damaged."""
        data = self.read(f"{_folder(manifest.kind, manifest.key)}/{manifest.attempt}/{name}")
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
        known = self._verified.get((key, manifest.attempt))
        if known is None and not self.is_local:
            known = _copies.get(self.root, key, manifest.attempt)
        if known is not None and known.exists():
            return known
        remote = f"{_folder(kind, key)}/{manifest.attempt}"
        folder = Path(self.base, remote) if self.is_local else self._download(remote, manifest)
        for name, record in manifest.files.items():
            path = folder / name
            if not path.is_file():
                problem = f"{name} is missing"
            elif path.stat().st_size != record.size:
                problem = f"{name} has {path.stat().st_size} bytes, {record.size} were published"
            elif sha256_of(path) != record.sha256:
                problem = f"{name} is altered: its digest is not the published one"
            else:
                continue
            raise self._withdrawn(manifest, problem)
        self._verified[key, manifest.attempt] = folder
        if not self.is_local:
            _copies.keep(self.root, key, manifest.attempt, folder)
        return folder

    def publish(self, manifest: Manifest, folder: Path) -> Manifest:
        """Publish the files in `folder` as the stage of `manifest` (whose `files` are set here).

        Returns the valid manifest, which is that of another attempt if that one was first.
        """
        stage = _folder(manifest.kind, manifest.key)
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        records = {}
        for name in names:
            records[name] = FileRecord((folder / name).stat().st_size, sha256_of(folder / name))
            self.upload(folder / name, f"{stage}/{manifest.attempt}/{name}")
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
        self.write(f"{_folder(kind, key)}/starts/{attempt}.json", json.dumps(note).encode())

    def withdraw(self, damage: Damaged) -> None:
        """Remove a damaged stage's manifest, so that the stage is no longer finished."""
        print(f"store: {damage}; it will be computed again", flush=True)
        self.remove(f"{_folder(damage.kind, damage.key)}/{MANIFEST}")

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
        folder = f"{_folder(kind, key)}/checkpoint"
        name = f"{step:09d}-{uuid.uuid4().hex[:8]}"
        self.upload(file, f"{folder}/{name}.safetensors")
        record = FileRecord(file.stat().st_size, sha256_of(file))
        self.write(f"{folder}/{name}.json", json.dumps(asdict(record)).encode())
        for old in self.files(folder):
            if Path(old.path).name < name[:9]:
                self.remove(old.path)

    def load_checkpoint(self, kind: str, key: str, target: Path) -> bool:
        """Copy the newest complete checkpoint to `target`; False if there is none."""
        folder = f"{_folder(kind, key)}/checkpoint"
        paths = [entry.path for entry in self.files(folder) if entry.path.endswith(".json")]
        for path in sorted(paths, reverse=True):
            try:
                record = FileRecord(**json.loads(self.read(path) or b""))
                self.download(path.removesuffix(".json") + ".safetensors", target)
            except (ValueError, TypeError, OSError):
                continue
            if target.stat().st_size == record.size and sha256_of(target) == record.sha256:
                return True
        return False

    # Plain files below the root

    @_patient
    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None if it does not exist."""
        try:
            with self.filesystem.open_input_stream(f"{self.base}/{path}") as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    @_patient
    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically: a reader sees the old bytes or the new ones."""
        with self._writing(path) as stream:
            stream.write(data)

    @_patient
    def upload(self, source: Path, path: str) -> None:
        with source.open("rb") as file, self._writing(path) as stream:
            shutil.copyfileobj(file, stream, _CHUNK)

    @_patient
    def download(self, path: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self.filesystem.open_input_stream(f"{self.base}/{path}")
        with source as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, _CHUNK)

    @_patient
    def remove(self, path: str) -> None:
        """Remove a file or a folder below the root, if it exists."""
        full = f"{self.base}/{path}"
        info = self.filesystem.get_file_info(full)
        try:
            if info.type == pafs.FileType.Directory:
                self.filesystem.delete_dir(full)
            elif info.type == pafs.FileType.File:
                self.filesystem.delete_file(full)
        except FileNotFoundError:
            pass  # another process was quicker

    def check_writable(self) -> None:
        """Raise InputError if nothing can be written below the root."""
        probe = f"probe-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"")
            self.remove(probe)
        except OSError as error:
            raise InputError(
                "the storage cannot be written",
                key="storage",
                got=self.root,
                expected=f"a folder or bucket that this user may write ({error})",
                fix="set storage=... to one",
            ) from None

    @_patient
    def files(self, path: str) -> list[FileEntry]:
        """All files below a folder, from one listing."""
        selector = pafs.FileSelector(f"{self.base}/{path}", recursive=True, allow_not_found=True)
        start = len(self.base.rstrip("/")) + 1
        return [
            FileEntry(info.path[start:], info.size or 0, info.mtime or datetime.now(UTC))
            for info in self.filesystem.get_file_info(selector)
            if info.type == pafs.FileType.File
        ]

    def _writing(self, path: str) -> _AtomicFile:
        return _AtomicFile(self.filesystem, f"{self.base}/{path}", self.is_local)

    def _download(self, remote: str, manifest: Manifest) -> Path:
        folder = _copies.scratch() / manifest.key / manifest.attempt
        for name in manifest.files:
            with suppress(FileNotFoundError):  # found missing, and reported, by `fetch`
                self.download(f"{remote}/{name}", folder / name)
        return folder


class _AtomicFile:
    """A binary file that appears at its path only when complete, as the context is left."""

    def __init__(self, filesystem: pafs.FileSystem, path: str, is_local: bool) -> None:
        self._filesystem, self._path = filesystem, path
        self._aside = f"{path}.{uuid.uuid4().hex[:8]}.tmp" if is_local else path

    def __enter__(self) -> Any:
        if self._filesystem.type_name not in _OBJECT_STORES:
            self._filesystem.create_dir(self._path.rsplit("/", 1)[0], recursive=True)
        self._stream = self._filesystem.open_output_stream(self._aside)
        return self._stream

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        whole = False
        try:
            self._stream.close()  # a full disk may be noticed here
            whole = kind is None
        finally:
            if self._aside != self._path:
                if whole:
                    self._filesystem.move(self._aside, self._path)
                else:
                    self._filesystem.delete_file(self._aside)


def _folder(kind: str, key: str) -> str:
    return f"stages/{kind}/{key[:2]}/{key}"


def _open(root: str) -> tuple[pafs.FileSystem, str]:
    refuse_credentials(root, "storage")
    try:
        if "://" not in root:
            folder = Path(root).expanduser().resolve()
            folder.exists()  # raises OSError for a name that is too long
            return pafs.LocalFileSystem(), str(folder)
        if root.startswith(("s3://", "gs://", "gcs://", "file://")):
            filesystem, base = pafs.FileSystem.from_uri(root)
        else:
            import fsspec

            inner, base = fsspec.core.url_to_fs(root)
            filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(inner))
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            "no such storage", key="storage", got=root, expected=f"a path or a URI ({error})"
        ) from None
    return filesystem, base.rstrip("/")


class _Copies:
    """This process's local copies of remote stages, verified on download.

    Ray's workers live for a whole sweep and run many stages, so only the last few copies are kept.
    """

    AT_MOST = 8

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: dict[tuple[str, str, str], Path] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def scratch(self) -> Path:
        """A folder for copies, removed when the process ends."""
        with self._lock:
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix=f"l2kd-{os.getpid()}-")
            return Path(self._scratch.name)

    def get(self, root: str, key: str, attempt: str) -> Path | None:
        with self._lock:
            return self._folders.get((root, key, attempt))

    def keep(self, root: str, key: str, attempt: str, folder: Path) -> None:
        with self._lock:
            self._folders[root, key, attempt] = folder
            for oldest in list(self._folders)[: -self.AT_MOST]:
                shutil.rmtree(self._folders.pop(oldest), ignore_errors=True)


_copies = _Copies()
