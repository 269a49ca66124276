"""Files are read, decoded and parsed here, or refused with the position of the fault."""

from __future__ import annotations

import hashlib
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from l2kd_ray.errors import InputError

_RACY_NS = 2 * 10**9
"""Age below which a file's time is not trusted: with coarse clocks it may change unnoticed."""


def read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror}", where=str(path), expected="a readable file"
        ) from None


def decode(data: bytes, where: str) -> str:
    """Decode UTF-8, with or without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            "the file is not UTF-8",
            where=f"{where}:{line}",
            got=data[error.start : error.start + 8],
            expected="text in UTF-8",
            fix="convert it, for instance: iconv -f latin1 -t utf-8",
        ) from None


def read_text(path: str | Path) -> str:
    return decode(read_bytes(path), str(path))


def parse_json(text: str, where: str, first_line: int = 1) -> Any:
    """The value of a JSON text that begins at a line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"not valid JSON: {error.msg}", where=f"{where}:{line}") from None
    except RecursionError:
        raise InputError("not valid JSON: too deep", where=f"{where}:{first_line}") from None


def digest(path: str | Path) -> str:
    """sha256 of a file's bytes, cached by its path, size and modification time."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror}",
            where=str(path),
            expected="a file",
            fix="on a cluster, data files must have the same path on every machine",
        ) from None
    if time.time_ns() - stat.st_mtime_ns < _RACY_NS:
        return _hash(path)
    # Size and time only serve as the cache's key.
    return _remembered(str(path), stat.st_size, stat.st_mtime_ns)


def _hash(path: str | Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


@lru_cache(maxsize=1024)
def _remembered(path: str, size: int, mtime_ns: int) -> str:
    return _hash(path)
