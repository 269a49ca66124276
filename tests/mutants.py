"""Faults put in by hand, one at a time, in a copy of the package: do the tests notice them?

    python tests/mutants.py                        # every fault of tests/mutants.yaml: an hour
    python tests/mutants.py --only distill         # those of one area
    python tests/mutants.py --match temperature    # those with this text in their file or lines

A fault is noticed where one of its tests fails, or does not end in time; those tests must pass
without it. The exit code is 1 if fewer than 95 % are noticed or one cannot be tried: its line is
not found exactly once (it has moved: change the list), or its tests fail without it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ROOT / "tests" / "mutants.yaml"
WANTED, SECONDS = 0.95, 300
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "site", "build", "l2kd_results")
NOTICED, SURVIVED = "noticed", "SURVIVED"
PASSED, FAILED, COLLECTED_NOTHING = 0, 1, 5  # exit codes of pytest; 2: a module cannot be imported


@dataclass(frozen=True)
class Fault:
    """`before`, a part of a file that stands there once, is replaced by `after`."""

    area: str
    file: str
    """Below l2kd_ray/."""
    before: str
    after: str
    tests: Sequence[str]
    """Arguments of one run of pytest each; the next ones run where the first ones pass."""

    @property
    def title(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.area:<10} {self.file}: {before} -> {after or '(taken out)'}"


class Copy:
    """A copy of the repository in which faults are put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "copy"
        left_out = shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(ROOT, self.folder, ignore=left_out)
        self.passes = cache(self._passes)

    def outcome(self, fault: Fault) -> str:
        """Whether the tests notice the fault, or why it cannot be tried."""
        file = self.folder / "l2kd_ray" / fault.file
        found = file.read_text(encoding="utf-8").count(fault.before) if file.is_file() else 0
        if found != 1:
            return f"DOES NOT APPLY: its line is found {found} times"
        for tests in fault.tests:
            with self._patched(file, fault):
                code = self._run(tests)
            if code == PASSED:
                continue
            if not self.passes(tests):
                return f"DOES NOT APPLY: without it, too, this does not pass: {tests}"
            return NOTICED
        return SURVIVED

    @contextmanager
    def _patched(self, file: Path, fault: Fault) -> Iterator[None]:
        """Within, the fault is there. Python knows a changed file by its size and its seconds,
        which may be the same: so what it has compiled goes."""
        whole = file.read_text(encoding="utf-8")
        compiled = Path(importlib.util.cache_from_source(str(file)))
        compiled.unlink(missing_ok=True)
        file.write_text(whole.replace(fault.before, fault.after), encoding="utf-8")
        try:
            yield
        finally:
            compiled.unlink(missing_ok=True)
            file.write_text(whole, encoding="utf-8")

    def _passes(self, tests: str) -> bool:
        """Whether tests pass without any fault."""
        return self._run(tests) == PASSED

    def _run(self, tests: str) -> int:
        """The exit code of pytest; that of a failure where it does not end."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        process = subprocess.Popen(
            [*command, *shlex.split(tests)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return FAILED


def faults(only: str | None, text: str) -> list[Fault]:
    """The faults of the list, of one area and with some text."""
    listed = [Fault(**one) for one in yaml.safe_load(FAULTS.read_text(encoding="utf-8"))]
    return [
        one
        for one in listed
        if only in (None, one.area) and text in f"{one.file} {one.before} {one.after}"
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="the faults of this area")
    parser.add_argument("--match", default="", help="those with this text")
    options = parser.parse_args()
    tried, noticed, broken = Counter[str](), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="l2kd-mutants-") as folder:
        copy = Copy(Path(folder))
        for fault in faults(options.only, options.match):
            start = time.monotonic()
            outcome = copy.outcome(fault)
            print(f"{outcome:<8} {time.monotonic() - start:4.0f} s  {fault.title}", flush=True)
            broken += outcome not in (NOTICED, SURVIVED)
            tried[fault.area] += 1
            noticed[fault.area] += outcome == NOTICED
    print(f"\n{'area':<12} {'faults':>6} {'noticed':>8}")
    for area in sorted(tried):
        print(f"{area:<12} {tried[area]:>6} {noticed[area]:>8}")
    print(f"{'all':<12} {tried.total():>6} {noticed.total():>8}")
    return int(broken > 0 or noticed.total() < WANTED * tried.total())


if __name__ == "__main__":
    sys.exit(main())
