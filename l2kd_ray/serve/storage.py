"""A store that is never written, and that reads no unchanged small file twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

from l2kd_ray.core.filetree import FileEntry
from l2kd_ray.core.store import Damaged, Store

_LARGEST = 1 << 18
_MOST = 1 << 28
"""Bytes of a file that is kept, and of all files that are kept."""
_Version = tuple[datetime, int]


class ReadOnlyStore(Store):
    """A store of which every write is refused.

    Small files are kept in memory for as long as the listing shows them with the same time and
    size. Any number of threads may use it.
    """

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._listed: dict[str, _Version] = {}
        self._below: dict[str, frozenset[str]] = {}
        self._kept: dict[str, tuple[_Version, bytes]] = {}
        self._bytes = 0

    def files(self, path: str, *, recursive: bool = True) -> list[FileEntry]:
        found = super().files(path, recursive=recursive)
        versions = {entry.path: (entry.modified, entry.size) for entry in found}
        for gone in self._below.get(path, frozenset()) - versions.keys():
            self._listed.pop(gone, None)
        self._below[path] = frozenset(versions)
        self._listed.update(versions)
        return found

    def read(self, path: str) -> bytes | None:
        version = self._listed.get(path)
        kept = self._kept.get(path)
        if kept is not None and kept[0] == version:
            return kept[1]
        data = super().read(path)
        if data is not None and version is not None and len(data) == version[1] <= _LARGEST:
            if self._bytes > _MOST:
                self._kept, self._bytes = {}, 0
            self._kept[path] = version, data
            self._bytes += len(data)
        return data

    @contextmanager
    def _writing(self, path: str) -> Iterator[Any]:
        self._refuse(path)
        yield

    def remove(self, path: str) -> None:
        self._refuse(path)

    def withdraw(self, damage: Damaged) -> None:
        """Leave a damaged stage as it is; the next sweep withdraws it."""

    def _refuse(self, path: str) -> NoReturn:
        raise PermissionError(f"{path} is only read here")
