"""Temporary folders that are removed even if their process is killed: by a later process."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_PREFIX = "l2kd-scratch-"
_YOUNG_S = 60
"""Age up to which a folder may not have its lock yet."""


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder, locked while its process lives.

    The kernel frees the lock of a killed process. Its id alone may be another's by now, or that of
    another container.
    """

    def __init__(self, purpose: str) -> None:
        super().__init__(prefix=f"{_PREFIX}{purpose}-", ignore_cleanup_errors=True)
        self._handle = os.open(self.name, os.O_RDONLY)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        super().cleanup()
        os.close(self._handle)


def remove_abandoned() -> None:
    """Remove this user's scratch folders whose processes are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # in use, of another user, or removed meanwhile
            if folder.stat().st_mtime < time.time() - _YOUNG_S:
                handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                finally:
                    os.close(handle)
