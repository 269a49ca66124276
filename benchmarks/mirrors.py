"""What mirrors add to a sweep of about 200 stages: each on and off, interleaved.

    python benchmarks/mirrors.py [--rounds 5] [--seconds 2] [wandb tensorboard dead ...]

Every sweep starts from an empty storage. `--seconds`: about what a training takes. `dead`: W&B
online with a server that does not answer.
A ratio is over the sweep without mirrors of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sweeps import GENERATED, Row, _manifests, _study, _sweep, _training
from table import save

DEAD = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
OFF = "none"


def mirrors(names: Sequence[str], rounds: int, seconds: float) -> Iterator[Row]:
    """Wall clock with each mirror, and its ratio to none."""
    times: dict[str, list[float]] = {name: [] for name in (OFF, *names)}
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
                    max_train=80,
                    max_test=4,
                    train=_training(seconds),
                    report_to="wandb" if online else name,
                    wandb={"mode": "online"} if online else {},
                )
                times[name].append(_sweep(file, **(DEAD if online else {})))
                stages = len(_manifests(file))
    for name, taken in times.items():
        ratios = [one / off for one, off in zip(taken, times[OFF], strict=True)]
        yield {
            "mirror": name,
            "stages": stages,
            "wall clock, s": statistics.median(taken),
            "times none": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["wandb", "tensorboard", "dead"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    save("mirrors", list(mirrors(given.names, given.rounds, given.seconds)))


if __name__ == "__main__":
    main()
