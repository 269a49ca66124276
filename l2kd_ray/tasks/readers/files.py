"""Files are read, decoded and parsed here, or refused with the position of the fault."""

from __future__ import annotations

import bz2
import codecs
import hashlib
import io
import json
import re
import time
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from l2kd_ray.errors import InputError, did_you_mean

_RACY_NS = 2 * 10**9
"""Age below which a file's time is not trusted: with coarse clocks it may change unnoticed."""
LARGEST = 2**28
"""Bytes that an archive may unpack to: a few kilobytes can spell out any number of them."""
_MARKS = {
    # UTF-32 first: its mark begins with that of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LINE_END = re.compile(r"\r\n|\n|\r")


def read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror}", where=str(path), expected="a readable file"
        ) from None


def decode(data: bytes, where: str) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark. Raises: InputError."""
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
        at = text.find("\0")  # a NUL tells of UTF-16 without its mark, or of a damaged file
        before, got = text[:at], data[:16]
    except UnicodeDecodeError as error:
        at, got = 0, data[error.start : error.start + 8]
        before = data[: error.start].decode(encoding, "ignore")
    if at < 0:
        return text
    raise InputError(
        f"the file is not {encoding.removesuffix('-sig').upper()} text",
        where=f"{where}:{len(_LINE_END.findall(before)) + 1}",
        got=got,
        expected="text in UTF-8, or in UTF-16 with a byte order mark",
        fix="convert it, for instance: iconv -f latin1 -t utf-8",
    )


def read_text(path: str | Path) -> str:
    return decode(read_bytes(path), str(path))


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text with their numbers from 1; they end with CR, LF or both, nowhere else.

    `str.splitlines` would also split at U+2028 and the like, which texts may contain.
    """
    return enumerate(_LINE_END.split(text), start=1)


def unpack(data: bytes, where: str, member: str | None = None) -> bytes:
    """The content of a bz2 file, or of a member of a zip archive.

    Raises:
        InputError: the archive is damaged, or its content is larger than `LARGEST`.
    """
    try:
        with _opened(data, member) as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError("the archive is damaged", where=where, got=str(error)) from None
    if len(content) > LARGEST:
        raise InputError(
            "the archive is too large to be unpacked here",
            where=where,
            got=f"more than {LARGEST} bytes from {len(data)}",
            fix="unpack it, and name the file",
        )
    return content


def _opened(data: bytes, member: str | None) -> IO[bytes]:
    if member is None:
        return bz2.open(io.BytesIO(data))
    return zipfile.ZipFile(io.BytesIO(data)).open(member)


def parse_json(text: str, where: str, first_line: int = 1) -> Any:
    """The value of a JSON text that begins at a line of a file; no key may stand in it twice."""
    line = first_line
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        problem, line = error.msg, first_line + error.lineno - 1
    except ValueError as error:  # a key twice, or a number of thousands of digits
        problem = str(error)
    except RecursionError:
        problem = "too deep"
    raise InputError(f"not valid JSON: {problem}", where=f"{where}:{line}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return found


def digest(path: str | Path) -> str:
    """sha256 of a file's bytes, cached by its path, size and modification time."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror}",
            where=str(path),
            expected="a file",
            fix=_instead_of(Path(path)),
        ) from None
    if time.time_ns() - stat.st_mtime_ns < _RACY_NS:
        return _hash(path)
    # Size and time only serve as the cache's key.
    return _remembered(str(path), stat.st_size, stat.st_mtime_ns)


def check_unchanged(what: str, where: str, found: str, planned: str) -> None:
    """Raise InputError if a digest is not the one that the study was planned with."""
    if found != planned:
        raise InputError(
            f"the {what} has changed since the study was planned",
            where=where,
            got=f"sha256 {found[:12]}",
            expected=f"sha256 {planned[:12]}",
            fix="put the former one back, or start the study again with the new one",
        )


def _instead_of(path: Path) -> str:
    """The file that may be meant, or what else can be the reason."""
    siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    return (
        did_you_mean(path.name, siblings)
        or "on a cluster, data files must have the same path on every machine"
    )


def _hash(path: str | Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


@lru_cache(maxsize=1024)
def _remembered(path: str, size: int, mtime_ns: int) -> str:
    return _hash(path)
