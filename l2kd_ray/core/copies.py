"""Local copies of remote stages, kept while this process lives."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from l2kd_ray.core.scratch import Scratch


class Copies:
    """This process's local copies of remote stages, verified on download.

    Ray's workers live for a whole sweep and run many stages, so only the last few copies are kept.
    """

    AT_MOST = 8

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: dict[tuple[str, str, str], Path] = {}
        self._scratch: Scratch | None = None

    def scratch(self) -> Path:
        """A folder for copies, removed when the process ends."""
        with self._lock:
            if self._scratch is None:
                self._scratch = Scratch("copies")
            return Path(self._scratch.name)

    def get(self, root: str, key: str, attempt: str) -> Path | None:
        with self._lock:
            return self._folders.get((root, key, attempt))

    def keep(self, root: str, key: str, attempt: str, folder: Path) -> None:
        with self._lock:
            self._folders[root, key, attempt] = folder
            for oldest in list(self._folders)[: -self.AT_MOST]:
                shutil.rmtree(self._folders.pop(oldest), ignore_errors=True)
