"""Whether a commit is slower than another: a step, a generation and a study, in turns in one run.

    python benchmarks/two_commits.py 02a9783 [HEAD] [--parts step generation study] [--times 9]

Each commit is checked out into a temporary folder and has a process of its own, on one thread. The
time is that of the process on its CPU. A ratio above 1 says that the second commit is slower.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
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


def compared(folders: Mapping[str, Path], part: str, times: int) -> dict[str, Any]:
    """The seconds of both commits, and the ratio of the second to the first, round by round."""
    sides = {commit: Side(folder, part) for commit, folder in folders.items()}
    rounds = [[side.once() for side in sides.values()] for _ in range(times + 1)][1:]  # warm
    for side in sides.values():
        side.end()
    ratios = [second / first for first, second in rounds]
    medians = {f"s, {commit}": statistics.median(r[n] for r in rounds)
               for n, commit in enumerate(folders)}  # fmt: skip
    low, high = min(ratios), max(ratios)
    ratio = {"ratio": statistics.median(ratios), "from": low, "to": high}
    return {"part": part, **medians, **ratio, "n": times}


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
    arguments.add_argument("--times", type=int, default=9)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as below:
        folders = dict(checked_out([given.first, given.second], Path(below)))
        save("two_commits", [compared(folders, part, given.times) for part in given.parts])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main()
