"""Seconds and peak memory of the verbs on large storages; prints and saves a table.

    python benchmarks/store_scale.py [--seeds 1 10 30] [--below FOLDER]

A small study is swept once. Its stages are then copied, with other scores, to every stage of the
same study with more seeds: real manifests and files, 1,021 stages a seed. Each verb is a process
of its own, run once on a storage that has just been written. CPU seconds are those of the process
and its threads, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from table import save

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store, stage_folder
from l2kd_ray.experiment import Experiment
from l2kd_ray.study import load
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.loading import to_yaml

STUDY: Mapping[str, Any] = {
    "name": "scale",
    "tasks": ["gen.rest", "gen.intent", "gen.slots", "gen.hotel"],
    "methods": ["finetune", "lamol", "l2kd"],
    "student": {"arch": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "n_positions": 96},
    "tokenizer": {"vocab_size": 400},
    "train": {"epochs": 1, "batch_size": 8, "lr": 5e-3},
    "evaluate": {"max_new_tokens": 2},
    "max_train": 8,
    "max_test": 4,
    "wandb": {"mode": "disabled"},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, nargs="*", default=[1, 10, 30])
    arguments.add_argument("--below", help="where the storages are made, one at a time")
    given = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=given.below) as folder:
        root = Path(folder)
        examples = _examples(root)
        for seeds in given.seeds:
            rows += _measured(root / str(seeds), seeds, examples)
            subprocess.run(["rm", "-r", str(root / str(seeds))], check=True)
    save("store_scale", rows)


def _file(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    data = {**STUDY, "storage": str(folder / "results"), **changes}
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    return folder / "study.yaml"


Examples = Mapping[tuple[str, ...], tuple[Manifest, Path]]


def _examples(root: Path) -> Examples:
    """A finished stage of each sort, with the folder of its files."""
    study = load(_file(root / "example", orders=[STUDY["tasks"]]))
    store = Store(study.config.storage)
    Experiment(study, store, "").sweep("inline")
    found = {}
    for stage in {stage for trial in study.trials() for stage in trial.stages()}:
        manifest = store.manifest(stage.kind, stage.key)
        assert manifest is not None
        found[_sort(stage)] = manifest, store.fetch(stage.kind, stage.key)
    return found


def _sort(stage: Stage) -> tuple[str, ...]:
    return stage.kind, *(str(getattr(stage, name, "")) for name in ("task", "metric_name"))


def _measured(folder: Path, seeds: int, examples: Examples) -> Iterator[dict[str, Any]]:
    file = _file(folder, seeds=list(range(seeds)))
    experiment = Experiment(load(file), Store(str(folder / "results")), "l2kd sweep")
    stages = sorted(experiment.snapshot().plan.every, key=lambda stage: stage.key)
    noise = np.random.default_rng(seeds)
    for stage in stages:
        _copy(stage, experiment.store, *examples[_sort(stage)], float(noise.normal()))
    own = Folder(experiment.store, experiment.name)
    own.add_keys(stages)
    own.keep_study(to_yaml(experiment.study))
    for words in (
        ["plan", str(file)],
        ["status", str(file)],
        ["report", str(file)],
        ["gc", "--storage", experiment.store.root],
        ["explain", stages[0].key, "--storage", experiment.store.root],
    ):
        seconds, busy, megabytes = _run(words)
        yield {
            "stages": len(stages),
            "verb": words[0],
            "seconds": seconds,
            "CPU seconds": busy,
            "CPU ms per stage": 1000 * busy / len(stages),
            "peak MB": round(megabytes),
        }


def _copy(stage: Stage, store: Store, example: Manifest, files: Path, noise: float) -> None:
    """Write the example as another stage. Its files are hard links, since nobody changes them."""
    manifest = replace(
        example,
        key=stage.key,
        settings=stage.settings,
        inputs={name: source.key for name, source in stage.inputs()},
        scores={name: score + noise for name, score in example.scores.items()},
    )
    folder = Path(store.base, stage_folder(stage.kind, stage.key))
    for name in example.files:
        target = folder / example.attempt / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(files / name, target)
    (folder / "starts").mkdir(parents=True)
    (folder / "starts" / f"{example.attempt}.json").write_text("{}")
    (folder / "manifest.json").write_bytes(manifest.to_json())


# The peak that `wait4` tells would be at least that of this process.
_CHILD = """
import atexit, pathlib, re, resource, sys
from l2kd_ray.cli import main
def tell():
    peak = re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, peak, file=sys.stderr)
atexit.register(tell)
main()
"""


def _run(words: list[str]) -> tuple[float, float, float]:
    """Wall-clock seconds, CPU seconds and peak resident megabytes of one command."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *words], capture_output=True, text=True, check=True
    )
    busy, peak = done.stderr.split()[-2:]
    return time.perf_counter() - started, float(busy), float(peak) / 1024


if __name__ == "__main__":
    main()
