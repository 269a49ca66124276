"""The folder of a study in its storage: its study file, its keys and its results."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from l2kd_ray.core.filetree import FileEntry, side_by_side
from l2kd_ray.core.scratch import Scratch
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store

if TYPE_CHECKING:
    from l2kd_ray.analysis.looks import Seen

T = TypeVar("T")
FailureRecord = Mapping[str, str]
"""A failed stage: kind, key, error and traceback."""
_LOOKS = "looks.json"
Tried = dict[str, list[dict[str, Any]]]
"""Settings by arm, in JSON form."""
KEYS, FORMER_KEYS = "keys", "keys-until-"
"""The list of stages that a study needs, and the beginning of the names of former lists."""
_LIVE = "live-"
"""The beginning of the names of the notes of running sweeps."""
_BEAT_S, _SILENCE = 300.0, timedelta(minutes=15)
"""How often a sweep writes its note again, and without it for how long it counts as dead."""
_MIRRORS = ("tensorboard", "wandb")
"""The folders that the built-in mirrors write, and read when they go on."""


@dataclass(frozen=True)
class Failure:
    """A failed stage, as in failures.json. The trials that need it fail too; all others go on."""

    kind: str
    key: str
    error: str
    traceback: str


@dataclass(frozen=True)
class _Live:
    """The note of a running sweep."""

    pid: int
    host: str
    since: str
    began: float = 0.0
    """Seconds since 1970."""


class Folder:
    """The folder `<storage>/studies/<name>/`: study.yaml, keys, sweep notes, result files.

    A small file that cannot be read is taken as absent, with one line that names it: no verb is
    blocked by what the next sweep writes anew.

    The stages that a study needs, which `gc` must keep, are in `keys` and, while a search proposes
    settings, in a `keys-<id>` for each proposal. A sweep first adds to `keys` all that it could
    reach. Only a complete one replaces the lists, the last of those that run at the same time; what
    is no longer needed stays in a `keys-until-<id>` for the grace of `gc`.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self._base = f"studies/{name}"

    def __str__(self) -> str:
        return self.store.address(self._base)

    @property
    def resolved(self) -> str | None:
        """The resolved study of the last sweep (study.yaml); None if it was never swept."""
        return self._read("study.yaml", unseal, None)

    # What the last sweep left

    def failures(self) -> Sequence[FailureRecord]:
        """The stages that failed in the last sweep."""
        failed: list[Failure] = self._read("failures.json", _json(list[Failure]), [])
        return [asdict(one) for one in failed]

    def tried(self) -> Tried:
        """The settings that an adaptive search has finished."""
        return self._read("settings.json", _json(Tried), {})

    def cut(self) -> Tried:
        """The settings that ASHA stopped, which have no final score."""
        return self._read("cut.json", _json(Tried), {})

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
        self.store.write(f"{self._base}/study.yaml", seal(text))

    # The stages that the study needs

    def needed(self) -> set[str]:
        """The stages that the study needs, as lines "kind key"."""
        return self._keys(self._lists())

    def _lists(self) -> list[str]:
        """The names of the lists of stages that hold now."""
        names = (entry.path.rpartition("/")[2] for entry in self.files())
        return [n for n in names if is_key_list(n) and not n.startswith(FORMER_KEYS)]

    def files(self) -> list[FileEntry]:
        """The files directly in the folder."""
        return self.store.files(self._base, recursive=False)

    def report(self) -> bytes | None:
        """The last report in Markdown."""
        return self.store.read(f"{self._base}/report.md")

    def add_keys(self, stages: Iterable[Stage]) -> None:
        """Add to the stages that the study needs."""
        self._write_keys(KEYS, _lines(stages) | self._keys([KEYS]))

    def propose(self, stages: Iterable[Stage]) -> None:
        """Add stages in a file of their own: processes that do so at once do not wait."""
        if lines := _lines(stages):
            self._write_keys(f"{KEYS}-{uuid.uuid4().hex}", lines)

    def settle_keys(self, stages: Iterable[Stage]) -> None:
        """Replace the stages that the study needs: it is complete, or needs none any more.

        Where another sweep of it runs, which may need others, they are added.
        """
        names = self._lists()
        if self._running():  # asked after the lists were read: a list comes after its sweep's note
            self.add_keys(stages)
            return
        needed = _lines(stages)
        if former := self._keys(names) - needed:
            self._write_keys(f"{FORMER_KEYS}{uuid.uuid4().hex}", former)
        self._write_keys(KEYS, needed)
        for name in names:
            if name != KEYS:
                self.store.remove(f"{self._base}/{name}")

    def _keys(self, names: Iterable[str]) -> set[str]:
        return {line for name in names for line in self._read(name, unseal, "").splitlines()}

    def _write_keys(self, name: str, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in sorted(lines))
        self.store.write(f"{self._base}/{name}", seal(text))

    # What was read from it

    def looks(self) -> tuple[Seen, ...]:
        """The sizes at which its intervals were shown, oldest first."""
        from l2kd_ray.analysis.looks import Seen

        return self._read(_LOOKS, _json(tuple[Seen, ...]), ())

    def keep_look(self, look: Seen) -> None:
        """Add a size at which intervals are shown, if it is new."""
        former = self.looks()
        if look not in former:
            self._write_json(_LOOKS, [asdict(one) for one in (*former, look)])

    # The sweep that is running

    @contextmanager
    def live(self) -> Iterator[None]:
        """A context in which a note of this running sweep exists, for `status` and `settle_keys`.

        It is written again and again: nothing else tells that a sweep on another machine has died.
        """
        name, ended = f"{_LIVE}{uuid.uuid4().hex}.json", Event()
        note = _Live(os.getpid(), socket.gethostname(), time.strftime("%F %T"), time.time())

        def beat() -> None:
            while not ended.wait(_BEAT_S):
                with suppress(OSError):  # the next beat may succeed
                    self._write_json(name, asdict(note))

        for other, its in self._notes().items():
            if its is None:
                self.store.remove(f"{self._base}/{other}")
        self._write_json(name, asdict(note))
        beating = Thread(target=beat, name="live", daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            self.store.remove(f"{self._base}/{name}")

    def who_is_live(self) -> str | None:
        """A description of the running sweeps; None if none is running."""
        notes = self._running()
        return "; ".join(f"process {n.pid} on {n.host} since {n.since}" for n in notes) or None

    def live_since(self) -> float | None:
        """When the first running sweep began, in seconds since 1970; None if none is running."""
        return min((note.began for note in self._running()), default=None)

    def _running(self) -> list[_Live]:
        return [note for note in self._notes().values() if note is not None]

    def _notes(self) -> dict[str, _Live | None]:
        """The notes of sweeps by their names; None for one that is damaged or of a dead sweep."""
        files = {entry.path.rpartition("/")[2]: entry for entry in self.files()}
        notes = {n: e for n, e in files.items() if n.startswith(_LIVE) and n.endswith(".json")}
        return {name: self._note(name, entry.modified) for name, entry in notes.items()}

    def _note(self, name: str, written: datetime) -> _Live | None:
        note = self._read(name, _json(_Live), None)
        if note is None or datetime.now(UTC) - written > _SILENCE:
            return None
        gone = note.host == socket.gethostname() and not Path(f"/proc/{note.pid}").exists()
        return None if gone else note

    # Result files

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A local folder that is this folder, or is uploaded to it at the end.

        In the latter case it begins with what mirrors have written before, to which they add.
        """
        if self.store.is_local:
            folder = Path(self.store.base, self._base)
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            return
        with Scratch("report") as name:
            folder = Path(name)
            former = [e.path for kind in _MIRRORS for e in self.store.files(f"{self._base}/{kind}")]

            def fetch(path: str) -> None:
                with suppress(FileNotFoundError):  # another sweep has removed it
                    self.store.download(path, folder / path.removeprefix(f"{self._base}/"))

            side_by_side(fetch, former)
            before = _stamps(folder)
            yield folder
            after = _stamps(folder)
            changed = [path for path, stamp in after.items() if before.get(path) != stamp]
            targets = [f"{self._base}/{path}" for path in changed]
            side_by_side(self.store.upload, [folder / path for path in changed], targets)
            gone = before.keys() - after.keys()
            side_by_side(self.store.remove, [f"{self._base}/{path}" for path in gone])

    def _write_json(self, name: str, value: object) -> None:
        self.store.write(f"{self._base}/{name}", json.dumps(value, indent=1).encode())

    def _read(self, name: str, parse: Callable[[bytes], T], default: T) -> T:
        """A parsed file; `default` if there is none or, with a line that says so, it is damaged."""
        try:
            data = self.store.read(f"{self._base}/{name}")
            return default if data is None else parse(data)
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            print(f"study: {self}/{name} is damaged and not used: {reason}", file=sys.stderr)
            return default


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """The time and size of each file below a folder, by its relative path."""
    found = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(path.relative_to(folder)): (s.st_mtime_ns, s.st_size) for path, s in found.items()}


def _json(of: type[T]) -> Callable[[bytes], T]:
    return TypeAdapter(of).validate_json


def _lines(stages: Iterable[Stage]) -> set[str]:
    return {f"{stage.kind} {stage.key}" for stage in stages}


def is_key_list(name: str) -> bool:
    """True for the name of a list of stages, former ones included; not while it is written."""
    return re.fullmatch(rf"{KEYS}|({KEYS}-|{FORMER_KEYS})[0-9a-f]{{32}}", name) is not None


def seal(text: str) -> bytes:
    """Text with a last line of its length and its digest, by which a cut file is known."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}# {text.count(chr(10))} lines, sha256 {digest}\n".encode()


def unseal(data: bytes) -> str:
    """The text that was sealed. Raises: ValueError if the file is cut, altered or not UTF-8."""
    text = data.decode()
    text = text[: text.rfind("\n", 0, -1) + 1]
    if seal(text) != data:
        raise ValueError("it is cut or altered: its last line has another digest")
    return text
