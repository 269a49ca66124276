"""Plain files below a root, on any filesystem that pyarrow or fsspec reaches."""

from __future__ import annotations

import os
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyarrow.fs as pafs

from l2kd_ray.errors import InputError, refuse_credentials
from l2kd_ray.section import expanded

P = ParamSpec("P")
R = TypeVar("R")
_CHUNK = 1 << 20
_OBJECT_STORES = ("s3", "gcs")  # they have no folders; creating one costs a request per level
_AS_IT_GROWS = ("sftp", "ssh", "ftp", "smb", "webhdfs", "hdfs", "arrow_hdfs", "file", "local")
"""Schemes of fsspec at which a file is seen while it is being written."""


def side_by_side(function: Callable[..., R], *arguments: Iterable[Any]) -> list[R]:
    """`list(map(function, ...))` in 16 threads, for calls that each wait for a storage."""
    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(function, *arguments))


@dataclass(frozen=True)
class FileEntry:
    """A file below the root: its relative path, its size in bytes, its time of writing."""

    path: str
    size: int
    modified: datetime


_WAITS_S = (0.2, 1.0, 4.0)


def _patient(
    operation: Callable[Concatenate[FileTree, P], R],
) -> Callable[Concatenate[FileTree, P], R]:
    """A decorator: retry the operation a few times if a remote storage fails.

    The operations are idempotent. pyarrow itself retries most requests, but not a GetObject that
    was refused (503), because the error's text does not fit into the range's buffer.
    """

    @wraps(operation)
    def retried(tree: FileTree, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for wait in () if tree.is_local else _WAITS_S:
            try:
                return operation(tree, *args, **kwargs)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                raise
            except OSError:
                time.sleep(wait * random.uniform(0.5, 1.5))
        return operation(tree, *args, **kwargs)

    return retried


class NotAFile(ValueError):
    """A folder, or a link that leads to itself, where a file belongs."""


class FileTree:
    """Files below a root; each is written whole or not at all, and appears when it is complete.

    `root` is a path or a URI (s3://, gs://, memory://).
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.filesystem, self.base = _open(root)
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)
        if self.is_local:
            self.root = self.base  # the same folder from any working directory

    @_patient
    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None if it does not exist. Raises: NotAFile, on a local disk."""
        full = f"{self.base}/{path}"
        try:
            with self.filesystem.open_input_stream(full) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            if self.is_local and os.path.lexists(full) and not os.path.isfile(full):
                raise NotAFile(f"{full} is a folder, or a link to itself") from None
            raise

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

    def check_reachable(self) -> None:
        """Raise InputError if the storage does not answer at its address."""
        with self._refused("reached", "read"):
            self._look()

    @_patient
    def _look(self) -> None:
        self.filesystem.get_file_info(pafs.FileSelector(self.base, allow_not_found=True))

    def check_writable(self) -> None:
        """Raise InputError if nothing can be written below the root."""
        probe = f"probe-{uuid.uuid4().hex}"
        with self._refused("written", "write"):
            self.write(probe, b"")
            self.remove(probe)

    @contextmanager
    def _refused(self, done: str, may: str) -> Iterator[None]:
        """An error of the storage becomes bad input."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"the storage cannot be {done}",
                key="storage",
                got=self.root,
                expected=f"a folder or bucket that this user may {may} ({str(error)[:200]})",
                fix="set storage=... to one",
            ) from None

    @_patient
    def files(self, path: str, *, recursive: bool = True) -> list[FileEntry]:
        """All files below a folder, or those directly in it, from one listing."""
        start = len(self.base.rstrip("/")) + 1
        return [
            FileEntry(info.path[start:], info.size or 0, info.mtime or datetime.now(UTC))
            for info in self._list(path, recursive)
            if info.type == pafs.FileType.File
        ]

    @_patient
    def folders(self, path: str) -> list[str]:
        """The names of the folders directly in a folder, sorted."""
        if self.filesystem.type_name == "gcs":  # pyarrow lists its objects, and no folders
            start = len(f"{self.base}/{path}/")
            below = (info.path[start:].split("/") for info in self._list(path, recursive=True))
            return sorted({names[0] for names in below if len(names) > 1})
        found = self._list(path, recursive=False)
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def _list(self, path: str, recursive: bool) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(f"{self.base}/{path}", True, recursive)
        found: list[pafs.FileInfo] = self.filesystem.get_file_info(selector)
        return found

    @contextmanager
    def _writing(self, path: str) -> Iterator[Any]:
        """A binary stream to a file that appears at its path only when it is complete.

        A local one is on the disk before it gets its name: after a power cut there is the old file
        or the new one, and none of 0 bytes.
        """
        full = f"{self.base}/{path}"
        folder = full.rpartition("/")[0]
        if self.filesystem.type_name not in _OBJECT_STORES:
            self.filesystem.create_dir(folder, recursive=True)
        if not self.is_local:
            with self.filesystem.open_output_stream(full) as stream:
                yield stream
            return
        aside = f"{full}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(aside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, full)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        handle = os.open(folder, os.O_RDONLY)  # the folder holds the name
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _open(root: str) -> tuple[pafs.FileSystem, str]:
    refuse_credentials(root, "storage")
    try:
        root = expanded(root)
    except InputError as error:
        raise error.at("", "storage") from None
    scheme, mark, _ = root.partition("://")
    if mark and scheme.rpartition("::")[2].lower() in _AS_IT_GROWS:
        raise InputError(
            "a reader would find half a file there",
            key="storage",
            got=root,
            expected="a path, or a storage that shows whole files alone (s3://, gs://, abfs://)",
            fix="mount it on each machine, and give its path",
        )
    try:
        if "://" not in root:
            folder = Path(root).resolve()
            folder.exists()  # raises OSError for a name that is too long
            return pafs.LocalFileSystem(), str(folder)
        if root.startswith(("s3://", "gs://", "gcs://")):
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
