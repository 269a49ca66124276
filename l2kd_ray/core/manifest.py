"""The manifest of a finished stage: what it was, what it scored, and the digests of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileRecord:
    """A published file: its size in bytes and the digest of its content."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        with path.open("rb") as file:
            return cls(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


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
    """Versions of packages, CPU type, threads, world size, device and its peak memory in bytes; of
    a training, its `tokens_per_second`."""

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
