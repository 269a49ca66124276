"""Faults on purpose: kill anything at any time, run the command again, get the same bytes.

`make drills` runs every drill; `tests/test_drills.py` a short set. A drill sweeps a study into an
empty storage while processes of one kind are killed (SIGKILL) at random moments, re-runs the
command until it ends with 0, and compares with the undisturbed reference: the result files byte
for byte, and no stage begun again after it had been published.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

RESULTS = ("scores.parquet", "results.parquet")
STUDY: Mapping[str, Any] = {
    "name": "drill",
    "tasks": ["gen.rest", "gen.intent", "gen.slots"],
    "methods": ["lamol", "l2kd"],
    "student": {"arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96},
    "tokenizer": {"vocab_size": 400},
    "train": {"epochs": 4, "batch_size": 4, "lr": 5e-3},
    "evaluate": {"max_new_tokens": 6},
    "max_train": 24,
    "max_test": 4,
    "storage": "results",
    "scale": {"checkpoint_seconds": 0.2, "multitask": {"workers": 2}},
    "wandb": {"mode": "disabled"},
}

# What is killed: the titles that Ray gives its processes; the command has none of them.
TARGETS: Mapping[str, str | tuple[str, ...]] = {
    "stage": ("ray::learn ", "ray::replay ", "ray::evaluate "),
    "train worker": "ray::RayTrainWorker",
    "train driver": "ray::multitask ",
    "cursor": "ray::ImplicitFunc",
    "pool": "ray::StagePool",
    "command": "",
}


@dataclass(frozen=True)
class Run:
    """One end of a study: its folder, how often the command ran, what was killed."""

    folder: Path
    commands: int
    kills: int
    seconds: float

    def results(self) -> dict[str, bytes]:
        base = self.folder / "results/studies" / STUDY["name"]
        return {name: (base / name).read_bytes() for name in RESULTS}

    def begun_again(self) -> list[str]:
        """Stages that an attempt was begun at after they had been published."""
        late = []
        for manifest in (self.folder / "results/stages").glob("*/*/*/manifest.json"):
            published = manifest.stat().st_mtime
            for note in (manifest.parent / "starts").glob("*.json"):
                begun = datetime.fromisoformat(json.loads(note.read_text())["started"])
                if begun.timestamp() > published:
                    late.append(f"{manifest.parent.name} by {note.stem}")
        return late


def start(folder: Path, *words: str, verb: str = "sweep") -> subprocess.Popen[bytes]:
    """The verb as its user starts it, in a process group of its own."""
    command = [sys.executable, "-m", "l2kd_ray.cli", verb, "study.yaml", *words]
    environment = {**os.environ, "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    log = (folder / "log").open("ab")
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=_interruptible,
    )


def _interruptible() -> None:
    """As in a terminal: what a shell starts in the background is deaf to Ctrl-C, and so are its
    children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def descendants(pid: int) -> dict[int, str]:
    """Process ids below `pid` -> their titles."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # it has just ended
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return {child: titles[child].replace("\0", " ") for child in found - {pid} if child in titles}


def wait_for_end(group: Mapping[int, str], seconds: float = 30) -> list[str]:
    """What of some processes is still alive after a while."""
    deadline = time.monotonic() + seconds
    alive: list[str] = []
    while time.monotonic() < deadline:
        alive = [title for pid, title in group.items() if is_alive(pid)]
        if not alive:
            return []
        time.sleep(0.2)
    return alive


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent (a zombie) does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def disturb(folder: Path, target: str, kills: int, seed: int, words: tuple[str, ...] = ()) -> Run:
    """Sweep while `kills` processes of a kind are killed; again until the command ends with 0."""
    stream, begun, done, commands = random.Random(seed), time.monotonic(), 0, 0
    while True:
        process = start(folder, *words)
        commands += 1
        while done < kills and process.poll() is None:
            if target == "command":
                time.sleep(stream.uniform(4, 12))
                family = descendants(process.pid)
                if process.poll() is None:
                    process.kill()
                    done += 1
                wait_for_end(family)
            else:
                time.sleep(stream.uniform(0.05, 1.0))
                done += kill_one(process.pid, TARGETS[target], stream)
        code = process.wait(timeout=600)
        if code == 0:
            return Run(folder, commands, done, time.monotonic() - begun)
        if commands > kills + 3:
            raise RuntimeError(f"the command still ends with {code}: see {folder / 'log'}")


def kill_one(pid: int, title: str | tuple[str, ...], stream: random.Random) -> bool:
    """Kill one process below `pid` with such a title, if there is one, a little later."""
    hits = [child for child, name in descendants(pid).items() if name.startswith(title)]
    if not hits:
        return False
    time.sleep(stream.uniform(0, 0.5))
    try:
        os.kill(stream.choice(sorted(hits)), signal.SIGKILL)
    except ProcessLookupError:
        return False
    time.sleep(stream.uniform(0.5, 2.0))
    return True


def make(root: Path, name: str, **changes: Any) -> Path:
    folder = root / name.replace(" ", "-")
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))
    return folder


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A cluster of a head without CPUs and two nodes of one CPU; yields its address, and a
    function that kills one node's raylet and starts another node."""
    environment = {**os.environ, "HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    port = "6391"

    def spawn(*words: str) -> subprocess.Popen[bytes]:
        log = (folder / "cluster.log").open("ab")
        return subprocess.Popen(
            [*ray, *words], env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def node() -> subprocess.Popen[bytes]:
        return spawn("--address", f"127.0.0.1:{port}", "--num-cpus", "1")

    head = spawn("--head", "--port", port, "--num-cpus", "0", "--resources", '{"driver": 1000}',
                 "--dashboard-port", "8299")  # fmt: skip
    time.sleep(6)
    nodes = [node(), node()]
    time.sleep(6)

    def kill() -> None:
        victim = nodes.pop(0)
        for pid, title in descendants(victim.pid).items():
            if "raylet/raylet" in title:
                os.kill(pid, signal.SIGKILL)
        nodes.append(node())

    try:
        yield f"127.0.0.1:{port}", kill
    finally:
        del os.environ["RAY_AUTH_MODE"]
        for process in [*nodes, head]:
            family = descendants(process.pid)
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
            for pid in wait_for_pids(family):
                os.kill(pid, signal.SIGKILL)


def wait_for_pids(family: Mapping[int, str]) -> list[int]:
    wait_for_end(family, 10)
    return [pid for pid in family if Path(f"/proc/{pid}/cmdline").exists()]


def kill_nodes(folder: Path, kills: int, seed: int) -> Run:
    """Sweep on a two-node cluster while raylets are killed."""
    stream, begun, commands = random.Random(seed), time.monotonic(), 0
    with two_nodes(folder) as (address, kill):
        done = 0
        while True:
            process = start(folder, "--address", address)
            commands += 1
            while done < kills and process.poll() is None:
                time.sleep(stream.uniform(8, 15))
                if process.poll() is None:
                    kill()
                    done += 1
            code = process.wait(timeout=600)
            if code == 0:
                return Run(folder, commands, done, time.monotonic() - begun)
            if commands > kills + 3:
                raise RuntimeError(f"the command still ends with {code}: see {folder / 'log'}")


def verdict(name: str, run: Run, reference: Run, wanted: int) -> bool:
    same, again = run.results() == reference.results(), run.begun_again()
    print(
        f"{name:<14} kills {run.kills} of {wanted}  commands {run.commands}  {run.seconds:5.0f} s  "
        f"bytes {'same' if same else 'DIFFER'}  begun again {len(again)}",
        flush=True,
    )
    return same and not again and run.kills >= wanted


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=4, help="of each kind")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", nargs="*", default=[*TARGETS, "raylet"])
    given = arguments.parse_args()
    root = Path(tempfile.mkdtemp(prefix="l2kd-drills-"))
    print(f"below {root}")
    reference = disturb(make(root, "reference"), "stage", 0, 0)
    print(f"reference      {reference.seconds:5.0f} s", flush=True)
    good = True
    for number, name in enumerate(given.only):
        folder = make(root, name)
        if name == "raylet":
            run = kill_nodes(folder, given.kills, given.seed + number)
        else:
            run = disturb(folder, name, given.kills, given.seed + number)
        good &= verdict(name, run, reference, given.kills)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
