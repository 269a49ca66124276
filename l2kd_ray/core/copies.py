"""Local copies of remote stages, kept while this process lives."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l2kd_ray.core.scratch import Scratch

_Copy = tuple[str, str, str]


class Copies:
    """This process's local copies of remote stages, verified on download.

    Ray's workers live for a whole sweep and run many stages, so only the copies that were used last
    are kept, and those that the running stage uses, however many they are.
    """

    AT_MOST = 8

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: dict[_Copy, Path] = {}
        self._held: set[_Copy] | None = None
        self._scratch: Scratch | None = None

    def scratch(self) -> Path:
        """A folder for copies, removed when the process ends."""
        with self._lock:
            if self._scratch is None:
                self._scratch = Scratch("copies")
            return Path(self._scratch.name)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A context in which no copy is removed that is used in it: that of a running stage."""
        self._held = set()
        try:
            yield
        finally:
            self._held = None

    def get(self, root: str, key: str, attempt: str) -> Path | None:
        with self._lock:
            folder = self._folders.get((root, key, attempt))
            return None if folder is None else self._use((root, key, attempt), folder)

    def keep(self, root: str, key: str, attempt: str, folder: Path) -> None:
        with self._lock:
            self._use((root, key, attempt), folder)
            held = self._held or ()
            for oldest in list(self._folders)[: -self.AT_MOST]:
                if oldest not in held:
                    shutil.rmtree(self._folders.pop(oldest), ignore_errors=True)

    def _use(self, name: _Copy, folder: Path) -> Path:
        """Note the copy as the one that was used last."""
        self._folders.pop(name, None)
        self._folders[name] = folder
        if self._held is not None:
            self._held.add(name)
        return folder


COPIES = Copies()
"""The copies of this process."""
