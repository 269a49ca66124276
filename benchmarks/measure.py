"""What the machine around the stages costs, as ratios and per stage; prints and saves a table.

    python benchmarks/measure.py [overhead planning growth] [--device cuda]

Medians of at least five, interleaved where two things are compared, all in one run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from table import save, timing

from l2kd_ray.core.execute import _keep_memory, execute
from l2kd_ray.core.stage import Context, Stage
from l2kd_ray.core.store import Store
from l2kd_ray.study import load, plan

TINY: Mapping[str, Any] = {
    "name": "bench",
    "methods": ["l2kd"],
    "student": {"arch": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 96},
    "tokenizer": {"vocab_size": 768},
    "train": {"epochs": 4, "batch_size": 8, "lr": 5e-3},
    "evaluate": {"max_new_tokens": 20},
    "max_train": 100,
    "max_test": 10,
    "wandb": {"mode": "disabled"},
}
GENERATED = ["gen.rest", "gen.hotel", "gen.tv", "gen.intent", "gen.slots", "gen.state"]


@dataclass(frozen=True, eq=False)
class Empty(Stage):
    """A stage that does nothing but leave a small file."""

    kind = "evaluate"
    number: int

    def run(self, context: Context) -> Mapping[str, float]:
        (context.out / "file").write_text(str(self.number))
        return {"score": 0.0}


def overhead() -> Iterator[dict[str, Any]]:
    """Milliseconds per stage that store, pool and Ray add to a stage's own work."""
    import ray

    from l2kd_ray.cluster.pool import StagePool
    from l2kd_ray.study.sections import Scale

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        execute(Empty(-1), store)
        ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
        actor = ray.remote(StagePool).options(num_cpus=0, max_concurrency=1000)
        pool = actor.remote(store, Scale(), 2.0, {}, {}, "measure")
        ray.get([pool.scores.remote(Empty(-2 - k)) for k in range(8)])  # warm workers
        numbers = iter(range(10_000))
        alone, pooled, known = [], [], []
        for _ in range(7):
            stages = [Empty(next(numbers)) for _ in range(50)]
            alone.append(timed(lambda: [execute(stage, store) for stage in stages]) / 50)  # noqa: B023
            stages = [Empty(next(numbers)) for _ in range(50)]
            for times in (pooled, known):
                asked = timed(lambda: ray.get([pool.scores.remote(s) for s in stages]))  # noqa: B023
                times.append(asked / 50)
        ray.shutdown()
    for name, times in (("execute and publish", alone), ("by the pool", pooled), ("stored", known)):
        yield timing("overhead", f"a stage: {name}", times, "ms", scale=1000)


def planning() -> Iterator[dict[str, Any]]:
    """Seconds to plan a study, from n = 3 to n = 6 with all orders."""
    with tempfile.TemporaryDirectory() as folder:
        for n, search in ((4, {}), (5, {}), (6, {}), (5, {"kd.temperature": {"grid": [1, 2, 4]}})):
            file = study_file(Path(folder), tasks=GENERATED[:n], search=search)
            store, sizes = Store(folder + "/none"), []

            def once(file: Path = file, store: Store = store, sizes: list[int] = sizes) -> None:
                counts = plan(load(file).trials(), store).stages.values()
                sizes[:] = [sum(count.naive for count in counts), sum(c.unique for c in counts)]

            times = [timed(once) for _ in range(5)]
            what = (
                f"n={n}{', 3 temperatures' if search else ''}: {sizes[0]} stages, {sizes[1]} shared"
            )
            yield timing("planning", what, times, "s")
            scale = 1e4 / sizes[1]
            yield timing("planning", f"per 10,000 shared stages, n={n}", times, "s", scale=scale)


def growth(device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Seconds of a training step per 1,000 tokens, as its batch grows."""
    from step import model, our_step, sequences

    torch.set_num_threads(1)
    _keep_memory()
    sizes = (4, 8, 16, 32)
    steps, tokens = [], []
    for size in sizes:
        models = (model("small", seed).to(device) for seed in (0, 1))
        qa, lm = sequences(0, size)
        steps.append(our_step(*models, qa, lm, "ours", device=device))
        tokens.append(sum(len(sequence.tokens) for sequence in qa + lm) / 1000)
        steps[-1]()
    rounds = [[timed(step) for step in steps] for _ in range(5)]
    for size, many, times in zip(sizes, tokens, zip(*rounds, strict=True), strict=True):
        what = f"a step of {size} examples: per 1,000 of its {1000 * many:.0f} tokens"
        yield timing("growth", what, [one / many for one in times], "s")


def study_file(folder: Path, **changes: Any) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**TINY, **changes}))
    return file


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


PARTS = {"overhead": overhead, "planning": planning, "growth": growth}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", help=", ".join(PARTS))
    arguments.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of growth")
    given = arguments.parse_args()
    parts = {**PARTS, "growth": partial(growth, given.device)}
    save("measure", [found for part in given.parts or parts for found in parts[part]()])


if __name__ == "__main__":
    main()
