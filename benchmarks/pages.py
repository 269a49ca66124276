"""First paint of the browser pages on a storage of many studies and stages.

    python benchmarks/pages.py [--studies 50] [--stages 10000]

A tiny study is swept for real and copied under other names and keys; then the pages are served on
loopback and fetched, first from a cold server and then again. With Chromium, its first paint too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from l2kd_ray.api import load_study
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.store import stage_folder
from l2kd_ray.study.folder import seal
from l2kd_ray.testing.studies import tiny

PORT = 8276


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--stages", type=int, default=10_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder, "storage")
        make(storage, chosen.studies, chosen.stages)
        with serving(storage) as address:
            names = ("/", "/study/tiny", *(f"/study/tiny/{p}" for p in PARTS))
            print(f"{'page':24} {'cold, s':>8} {'warm, s':>8} {'KB':>6}")
            cold = {name: fetch(address + name) for name in names}
            time.sleep(15)  # the study is read in a thread meanwhile
            for name in names:
                fetch(address + name)
                seconds, size = fetch(address + name)
                print(f"{name:24} {cold[name][0]:8.2f} {seconds:8.2f} {size / 1024:6.0f}")
            if browser := shutil.which("chromium") or shutil.which("google-chrome"):
                for name in names[:2]:
                    print(f"{name:24} {paint(browser, address + name):8.2f} s to first paint")


PARTS = ("curves", "tree", "answers", "replay")


def make(storage: Path, studies: int, stages: int) -> None:
    """A storage with a study that was swept, and copies of its stages and folder."""
    data = tiny(methods=["finetune", "lamol"], storage=str(storage))
    file = storage.parent / "tiny.yaml"
    file.write_text(yaml.safe_dump(data))
    load_study(file).sweep("inline")
    models = [path.parent for path in storage.glob("stages/evaluate/*/*/manifest.json")]
    there = len(list(storage.glob("stages/*/*/*/manifest.json")))
    own = storage / "studies/tiny"
    copies: list[list[str]] = [[] for _ in range(studies - 1)]
    for number in range(stages - there):
        key = uuid.uuid4().hex
        copy(models[number % len(models)], storage / stage_folder("evaluate", key), key)
        copies[number % len(copies)].append(f"evaluate {key}\n")
    for number, lines in enumerate(copies):
        folder = storage / f"studies/study-{number:02}"
        folder.mkdir()
        for name in ("report.md", "failures.json"):
            shutil.copy(own / name, folder / name)
        (folder / "keys").write_bytes(seal("".join(sorted(lines))))


def copy(stage: Path, target: Path, key: str) -> None:
    """A stage under another key, its manifest in order."""
    shutil.copytree(stage, target)
    manifest = Manifest.from_json((stage / "manifest.json").read_bytes())
    body = {**vars(manifest), "key": key}
    (target / "manifest.json").write_bytes(Manifest(**body).to_json())


@contextmanager
def serving(storage: Path) -> Iterator[str]:
    words = [sys.executable, "-m", "l2kd_ray.cli", "serve", str(storage), "--port", str(PORT)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield f"http://127.0.0.1:{PORT}"
    finally:
        process.terminate()
        process.wait()


def fetch(address: str) -> tuple[float, int]:
    """Seconds and bytes of one page."""
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(address) as answer:
            size = len(answer.read())
    except urllib.error.HTTPError as error:  # 503: "The storage is being read"
        size = len(error.read())
    return time.perf_counter() - started, size


def paint(browser: str, address: str) -> float:
    """Seconds from the request to Chromium's first contentful paint, by its own trace."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/p"]
        flags += [
            "--trace-startup=blink.user_timing,loading",
            "--trace-startup-format=json",
            f"--trace-startup-file={trace}",
            "--screenshot",
        ]
        flags += ["--trace-startup-duration=6"]
        subprocess.run([browser, *flags, address], cwd=folder, capture_output=True, check=True)
        events = json.loads(trace.read_text())["traceEvents"]
    at = {event["name"]: event["ts"] for event in events if "ts" in event}
    return float(at["firstContentfulPaint"] - at["navigationStart"]) / 1e6


if __name__ == "__main__":
    main()
