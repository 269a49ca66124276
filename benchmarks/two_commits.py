"""Whether a commit is slower than another: a step, a generation and a study, in turns in one run.

    python benchmarks/two_commits.py 02a9783 [HEAD] [--parts step generation study] [--pairs 5]

Each commit is checked out into a temporary folder and has a process of its own, on one thread. The
time is that of the process on its CPU. A ratio above 1 says that the second commit is slower. Two
processes of the same code differ by some per cent, so there are several pairs of them: a commit
beside itself (`HEAD HEAD~0`) shows by how much.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from table import save


def step() -> Callable[[], object]:
    """An optimizer step of L2KD on 8 examples, with a live teacher: 4 layers, V = 50,257."""
    from step import model, our_step, sequences

    return our_step(model("small", 0), model("small", 1), *sequences(0), "ours")


def generation() -> Callable[[], object]:
    """32 prompts continued by up to 64 tokens each, drawn from the 20 most likely."""
    from generation import Case, gpt2, ours

    case = Case(gpt2(), 32, "ragged", "top-k")
    return lambda: ours(case)


def study() -> Callable[[], object]:
    """All stages of L2KD on two generated tasks, by one process."""
    from measure import GENERATED, study_file

    from l2kd_ray.core.execute import obtain
    from l2kd_ray.core.store import Store
    from l2kd_ray.study import load

    def once() -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = study_file(Path(folder), tasks=GENERATED[:2], max_train=40)
            for trial in load(file).trials():
                for cell in trial.cells:
                    obtain(cell.stage, Store(folder))

    return once


PARTS: Mapping[str, Callable[[], Callable[[], object]]] = {
    "step": step,
    "generation": generation,
    "study": study,
}


def serve(part: str) -> None:
    """Do the work once for each line of the input; print its seconds."""
    import torch

    torch.set_num_threads(1)
    work = PARTS[part]()
    for _ in sys.stdin:
        started = time.process_time()
        work()
        print(f"seconds {time.process_time() - started}", flush=True)


class Side:
    """A process that works with the code of one folder."""

    def __init__(self, folder: Path, part: str) -> None:
        paths = os.pathsep.join(map(str, (folder, folder / "benchmarks")))
        command = [sys.executable, "-P", __file__, "--serve", part]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, "PYTHONPATH": paths}
        )

    def once(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise SystemExit(f"the process ended with {self._process.wait()}")

    def end(self) -> None:
        self._process.communicate()


def compared(folders: Mapping[str, Path], part: str, pairs: int, times: int) -> dict[str, Any]:
    """The median seconds of both commits, and the ratio of the second to the first: the median,
    the least and the most of the pairs of processes."""
    found = [_pair(folders.values(), part, times) for _ in range(pairs)]
    ratios = [second / first for first, second in found]
    medians = {
        f"s, {commit}": statistics.median(pair[n] for pair in found)
        for n, commit in enumerate(folders)
    }
    low, high = min(ratios), max(ratios)
    ratio = {"ratio": statistics.median(ratios), "from": low, "to": high}
    return {"part": part, **medians, **ratio, "n": pairs}


def _pair(folders: Iterable[Path], part: str, times: int) -> list[float]:
    """The median seconds of a process of each folder, which take turns."""
    sides = [Side(folder, part) for folder in folders]
    rounds = [[side.once() for side in sides] for _ in range(times + 1)][1:]  # the first warms up
    for side in sides:
        side.end()
    return [statistics.median(taken) for taken in zip(*rounds, strict=True)]


def checked_out(commits: list[str], below: Path) -> Iterator[tuple[str, Path]]:
    """A folder with the files of each commit."""
    for commit in commits:
        folder = below / commit.replace("/", "-")
        folder.mkdir()
        packed = subprocess.run(["git", "archive", commit], check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", folder], check=True, input=packed.stdout)
        yield commit, folder


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("first", help="the commit that is compared with")
    arguments.add_argument("second", nargs="?", default="HEAD")
    arguments.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments.add_argument("--pairs", type=int, default=5)
    arguments.add_argument("--times", type=int, default=5, help="times that each process works")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as below:
        folders = dict(checked_out([given.first, given.second], Path(below)))
        rows = [compared(folders, part, given.pairs, given.times) for part in given.parts]
        save("two_commits", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main()
