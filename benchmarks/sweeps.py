"""Whole sweeps: against plain Ray Tune, what is not arithmetic, and growth with the trials.

    python benchmarks/sweeps.py [ratios overhead growth] [--seconds 10]

`--seconds`: about what a training takes. Ratios: the same study by (a) plain Ray Tune, where a
trial is a whole order with teachers of its own; (b) the same, the teachers trained once before;
(c) `l2kd sweep`; (d) (c) once more. Work is counted in (c)'s own seconds: of the stages without
sharing, with shared teachers, and as they were run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from table import save

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store
from l2kd_ray.study import Trial, load

CORES = 2
STUDY: Mapping[str, Any] = {
    "name": "bench",
    "methods": ["l2kd"],
    "student": {"arch": "gpt2", "n_layer": 1, "n_embd": 96, "n_head": 4, "n_positions": 96},
    "tokenizer": {"vocab_size": 768},
    "train": {"epochs": 1, "batch_size": 8, "lr": 5e-3},
    "evaluate": {"max_new_tokens": 40},
    "max_train": 240,
    "max_test": 20,
    "wandb": {"mode": "disabled"},
}
GENERATED = ["gen.rest", "gen.hotel", "gen.tv", "gen.intent"]
EPOCHS_A_SECOND = 1.5
Row = dict[str, Any]


def ratios(seconds: float) -> Iterator[Row]:
    """(a) to (d) at three and at four tasks."""
    for n in (3, 4):
        with tempfile.TemporaryDirectory() as folder:
            training = _training(seconds if n == 3 else seconds / 2)  # there are five times as many
            file = _study(Path(folder), tasks=GENERATED[:n], train=training)
            wall = {"c": _sweep(file), "d": _sweep(file)}
            work = _work(file)
            for how in ("b", "a"):
                folder_of = str(Path(folder, how))
                wall[how] = _timed([sys.executable, __file__, "--plain", how, str(file), folder_of])
        names = {
            "a": "plain Tune, nothing shared",
            "b": "plain Tune, teachers shared",
            "c": "l2kd sweep",
            "d": "l2kd sweep, once more",
        }
        for how, name in names.items():
            yield {
                "tasks": n,
                "sweep": name,
                "wall clock, s": wall[how],
                "times (c)": wall[how] / wall["c"],
                "work, s": work.get(how, 0.0),
                "times (c)'s work": work.get(how, 0.0) / work["c"],
            }


def overhead(seconds: float) -> Iterator[Row]:
    """Where the wall clock of a sweep goes, in core-seconds and shares of all."""
    with tempfile.TemporaryDirectory() as folder:
        file = _study(Path(folder), tasks=GENERATED[:3], train=_training(seconds))
        begun = time.time()
        wall = _sweep(file)
        manifests = list(_manifests(file).values())
    starts = [datetime.fromisoformat(one.started).timestamp() for one in manifests]
    first = min(starts) - begun
    last = wall - (max(s + m.seconds for s, m in zip(starts, manifests, strict=True)) - begun)
    busy = sum(one.seconds for one in manifests)
    trainings = [one.seconds for one in manifests if one.kind in ("learn", "multitask")]
    lines = {
        "wall clock": wall * CORES,
        f"the {len(manifests)} stages": busy,
        "before the first stage (imports, plan, Ray)": first * CORES,
        "after the last stage (results, report, Ray's end)": last * CORES,
        "between: start of a worker, transfers, a core without a stage": (wall - first - last)
        * CORES
        - busy,
    }
    for line, spent in lines.items():
        yield {
            "line": line,
            "core-seconds": spent,
            "share, %": 100 * spent / (wall * CORES),
            "median training, s": sorted(trainings)[len(trainings) // 2],
        }


def growth(seconds: float) -> Iterator[Row]:
    """Memory of the driver and of the pool, with trainings that are next to nothing."""
    for seeds in (2, 17, 167):
        with tempfile.TemporaryDirectory() as folder:
            file = _study(
                Path(folder),
                tasks=GENERATED[:3],
                methods=["finetune"],
                seeds=list(range(seeds)),
                student={**STUDY["student"], "n_embd": 16},
                train={**STUDY["train"], "lm_weight": 0.0},
                max_train=8,
                max_test=2,
                evaluate={"max_new_tokens": 2},
            )
            begun = time.perf_counter()
            peaks = _peaks([sys.executable, "-m", "l2kd_ray.cli", "sweep", str(file)])
            wall = time.perf_counter() - begun
            stages = len(_manifests(file))
        yield {
            "trials": 6 * seeds,
            "stages": stages,
            "driver, MB": peaks["sweep"],
            "pool, MB": peaks["ray::StagePool"],
            "wall clock, s": wall,
            "stages/s": stages / wall,
        }


def _training(seconds: float) -> dict[str, Any]:
    return {**STUDY["train"], "epochs": max(1, round(seconds * EPOCHS_A_SECOND))}


def _study(folder: Path, **changes: Any) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "storage": f"{folder}/results", **changes}))
    return file


def _sweep(file: Path, *overrides: str, **variables: str) -> float:
    return _timed([sys.executable, "-m", "l2kd_ray.cli", "sweep", str(file), *overrides], variables)


def _timed(command: list[str], variables: Mapping[str, str] | None = None) -> float:
    begun = time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, **(variables or {})}
    )
    return time.perf_counter() - begun


def _work(file: Path) -> dict[str, float]:
    """Seconds of stages, a time for each occurrence: (a) in every trial, (b) teachers once."""
    seconds = {key: manifest.seconds for key, manifest in _manifests(file).items()}
    trials = load(file).trials()
    shared = _taught(trials)
    own = [stage for trial in trials for stage in trial.stages() if stage not in shared]
    every = [stage for trial in trials for stage in trial.stages()]
    return {
        "a": sum(seconds[stage.key] for stage in every),
        "b": sum(seconds[stage.key] for stage in [*own, *shared]),
        "c": sum(seconds.values()),
    }


def _taught(trials: Iterable[Trial]) -> set[Stage]:
    """The teachers of all trials, and what they are made from."""
    teachers = {s for trial in trials for s, role in trial.stages().items() if role == "teacher"}
    found: set[Stage] = set()
    while teachers:
        stage = teachers.pop()
        found.add(stage)
        teachers |= {source for _, source in stage.inputs()} - found
    return found


def _manifests(file: Path) -> dict[str, Manifest]:
    store = Store(str(file.parent / "results"))
    finished = store.listing().finished
    found = {key: store.manifest(kind, key) for key, kind in finished.items()}
    return {key: manifest for key, manifest in found.items() if manifest is not None}


def plain(how: str, file: Path, folder: Path) -> None:
    """The study as a plain Tune run: a trial does all of its path's stages in its own process."""
    import ray
    from ray import tune

    ray.init(address="local", num_cpus=CORES, log_to_driver=False, logging_level="ERROR")
    trials = list(load(file).trials())
    shared = folder / "teachers"
    shared.mkdir(parents=True)
    if how == "b":
        taught = _taught(trials)
        models = [s for s in taught if s.kind == "learn"]
        beside = {source for s in models for _, source in s.inputs()} & taught
        for stage in beside - set(models):
            obtain(stage, Store(str(shared)))
        train = ray.remote(num_cpus=1)(lambda stage: obtain(stage, Store(str(shared))))
        ray.get([train.remote(stage) for stage in models])

    def trial(config: dict[str, int]) -> dict[str, float]:
        number = config["trial"]
        store = shutil.copytree(shared, folder / str(number))
        cells = list(trials[number].cells)
        scores = [obtain(cell.stage, Store(str(store)))[cell.stage.metric_name] for cell in cells]
        return {"score": sum(scores) / len(scores)}

    tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"trial": tune.grid_search(list(range(len(trials))))},
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    ).fit()


def _peaks(command: list[str]) -> dict[str, float]:
    """MB that the command, and its stage pool, held at most."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peaks: dict[str, float] = {"sweep": 0.0, "ray::StagePool": 0.0}
    while process.poll() is None:
        time.sleep(0.5)
        pools = subprocess.run(["pgrep", "-f", "ray::StagePool"], capture_output=True, text=True)
        for name, numbers in (("sweep", [process.pid]), ("ray::StagePool", pools.stdout.split())):
            for number in numbers:
                with suppress(OSError):  # it has just ended
                    peaks[name] = max(peaks[name], _peak(number))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return peaks


def _peak(process: int | str) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(ln.split()[1]) / 1024 for ln in lines if ln.startswith("VmHWM")), 0.0)


PARTS = {"ratios": ratios, "overhead": overhead, "growth": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--plain", nargs=3, metavar=("HOW", "STUDY", "FOLDER"))
    given = parser.parse_args()
    if given.plain:
        how, file, folder = given.plain
        plain(how, Path(file), Path(folder))
        return
    for part in given.parts or PARTS:
        save(f"sweeps_{part}", list(PARTS[part](given.seconds)))


if __name__ == "__main__":
    main()
