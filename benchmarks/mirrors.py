"""What mirrors add to a sweep of about 200 stages: each on and off, interleaved.

    python benchmarks/mirrors.py [--rounds 5] [--seconds 2] [wandb tensorboard dead ...]

Every sweep starts from an empty storage. `--seconds`: about what a training takes. `dead`: W&B
online with a server that does not answer.
A ratio is over the sweep without mirrors of the same round: of the wall clock, and of the CPU
seconds of the whole machine (from /proc/stat), in which a mirror's work is seen where it waits.
`own` are the CPU seconds of the mirror's processes: a bound on what stages can lose to it, which
does not vary with the machine as the two ratios do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sweeps import GENERATED, Row, _manifests, _study, _sweep, _training
from table import save

DEAD = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
OFF = "none"
_PROCESSES = (b"l2kd_ray.mirrors.follow", b"wandb-core")


def mirrors(names: Sequence[str], rounds: int, seconds: float) -> Iterator[Row]:
    """Wall clock with each mirror, and its ratio to none."""
    times: dict[str, list[float]] = {name: [] for name in (OFF, *names)}
    cpu: dict[str, list[float]] = {name: [] for name in times}
    own: dict[str, list[float]] = {name: [] for name in times}
    stages = 0
    for number in range(rounds):
        # Each round in another sequence, so that a slow drift of the machine hits all alike.
        turn = number % len(times)
        for name in [*times][turn:] + [*times][:turn]:
            with tempfile.TemporaryDirectory() as folder:
                online = name == "dead"
                file = _study(
                    Path(folder),
                    tasks=GENERATED[:3],
                    methods=["finetune"],
                    seeds=[1, 2, 3],
                    max_test=4,
                    train=_training(seconds),
                    report_to="wandb" if online else name,
                    wandb={"mode": "online"} if online else {},
                )
                before = _busy()
                with _of_mirrors() as spent:
                    times[name].append(_sweep(file, **(DEAD if online else {})))
                cpu[name].append(_busy() - before)
                own[name].append(sum(spent.values()))
                stages = len(_manifests(file))
    for name in times:
        row: Row = {"mirror": name, "stages": stages}
        for what, taken in (("wall clock, s", times), ("CPU, s", cpu)):
            ratios = [one / off for one, off in zip(taken[name], taken[OFF], strict=True)]
            row[what] = statistics.median(taken[name])
            row[f"{what}: times none"] = statistics.median(ratios)
            row[f"{what}: range"] = f"{min(ratios):.3f} to {max(ratios):.3f}"
        row["own CPU, s"] = statistics.median(own[name])
        row["own CPU, % of the sweep's"] = 100 * row["own CPU, s"] / row["CPU, s"]
        yield row


def _busy() -> float:
    """CPU seconds that all processes of the machine have used."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _of_mirrors() -> Iterator[dict[str, float]]:
    """CPU seconds of the mirrors' processes by process, as /proc last had them."""
    spent: dict[str, float] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it has just ended
                    if any(name in (process / "cmdline").read_bytes() for name in _PROCESSES):
                        fields = (process / "stat").read_text().rpartition(")")[2].split()
                        ticks = int(fields[11]) + int(fields[12])  # utime and stime
                        spent[process.name] = ticks / os.sysconf("SC_CLK_TCK")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield spent
    finally:
        over.set()
        looking.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["wandb", "tensorboard", "dead"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    save("mirrors", list(mirrors(given.names, given.rounds, given.seconds)))


if __name__ == "__main__":
    main()
