"""The folder of a study in its storage: its study file, its keys and its results."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store

FailureRecord = Mapping[str, str]
"""A failed stage: kind, key, error and traceback."""
Tried = dict[str, list[dict[str, Any]]]
"""Settings by arm, in JSON form."""


class Folder:
    """The folder `<storage>/studies/<name>/`: study.yaml, keys, sweep notes, result files."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self._base = f"studies/{name}"

    def __str__(self) -> str:
        return self.store.address(self._base)

    @property
    def resolved(self) -> str | None:
        """The resolved study of the last sweep (study.yaml); None if it was never swept."""
        data = self.store.read(f"{self._base}/study.yaml")
        return None if data is None else data.decode()

    # What the last sweep left

    def failures(self) -> Sequence[FailureRecord]:
        """The stages that failed in the last sweep."""
        failed: list[FailureRecord] = self._read_json("failures.json", [])
        return failed

    def tried(self) -> Tried:
        """The settings that an adaptive search has finished."""
        tried: Tried = self._read_json("settings.json", {})
        return tried

    def cut(self) -> Tried:
        """The settings that ASHA stopped, which have no final score."""
        cut: Tried = self._read_json("cut.json", {})
        return cut

    def keep_failures(self, failures: Sequence[FailureRecord]) -> None:
        self._write_json("failures.json", failures)

    def keep_settings(self, tried: object, cut: object) -> None:
        """Store the state of an adaptive search, from which the next sweep continues."""
        self._write_json("settings.json", tried)
        self._write_json("cut.json", cut)

    def keep_study(self, text: str) -> None:
        """Write the resolved study; if it has changed, the old file is kept beside it."""
        former = self.resolved
        if former is not None and former != text:
            kept = f"study-until-{time.strftime('%Y%m%d-%H%M%S')}.yaml"
            self.store.write(f"{self._base}/{kept}", former.encode())
            print(
                f"{self.name} has changed since its last sweep; the former file is kept as {kept}"
            )
        self.store.write(f"{self._base}/study.yaml", text.encode())

    def keep_keys(self, stages: Iterable[Stage]) -> None:
        """Write the keys of the study's stages, which `gc` treats as roots."""
        lines = sorted(f"{stage.kind} {stage.key}\n" for stage in stages)
        self.store.write(f"{self._base}/keys", "".join(lines).encode())

    # The sweep that is running

    @contextmanager
    def live(self) -> Iterator[None]:
        """A context in which a note of this running sweep exists, for `status`."""
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        self._write_json("live.json", note)
        try:
            yield
        finally:
            self.store.remove(f"{self._base}/live.json")

    def who_is_live(self) -> str | None:
        """A description of the running sweep; None if none is running."""
        note = self._read_json("live.json", None)
        if note is None:
            return None
        if note["host"] == socket.gethostname() and not Path(f"/proc/{note['pid']}").exists():
            return None
        return f"process {note['pid']} on {note['host']} since {note['since']}"

    # Result files

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A local folder that is this folder, or is uploaded to it at the end."""
        if self.store.is_local:
            folder = Path(self.store.base, self._base)
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            return
        folder = Path(tempfile.mkdtemp(prefix=f"l2kd-{self.name}-"))
        yield folder
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.store.upload(path, f"{self._base}/{path.relative_to(folder)}")

    def _write_json(self, name: str, value: object) -> None:
        self.store.write(f"{self._base}/{name}", json.dumps(value, indent=1).encode())

    def _read_json(self, name: str, default: Any) -> Any:
        data = self.store.read(f"{self._base}/{name}")
        return default if data is None else json.loads(data)
