"""Run one stage in this process and publish its result: the core of every executor."""

from __future__ import annotations

import platform
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from l2kd_ray.core.copies import COPIES
from l2kd_ray.core.device import describe, peak, prepare, reset_peak
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.scratch import Scratch, remove_abandoned
from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.core.store import Damaged, Store

_FULL = 1 << 20  # bytes: a disk with less free space is full


def execute(
    stage: Stage,
    store: Store,
    *,
    rank: int = 0,
    world_size: int = 1,
    threads: int = 1,
    device: str = "cpu",
    gpus: float = 0.0,
    checkpoint_seconds: float = 60.0,
    leaving: Callable[[], bool] = lambda: False,
) -> Manifest | None:
    """Run `stage` as one of `world_size` processes; rank 0 publishes and returns the manifest.

    `gpus`: how many this process holds; below 1 it takes no more of a card's memory than that.

    Raises:
        InputError: the device is a GPU, and torch sees none.
        store.Damaged: an input differs from what was published; it has been withdrawn.
        Exception: whatever the stage raises; nothing is published then.
    """
    import torch

    from l2kd_ray.core.loop import agreed

    if world_size > 1 and not stage.distributable:
        raise ValueError(f"a stage of kind {stage.kind} runs on one worker, not {world_size}")
    # The number of threads changes the order of float sums, hence the bits of a result.
    torch.set_num_threads(threads)
    _keep_memory()
    _clean()
    prepare(device, gpus)
    # Published before its worker died; or by another sweep, between two workers' looks.
    if agreed(store.has_files(stage.kind, stage.key)):
        return store.manifest(stage.kind, stage.key)
    attempt = uuid.uuid4().hex[:12]
    if rank == 0:
        store.note_start(stage.kind, stage.key, attempt)
    reset_peak(device)
    started, clock = datetime.now(UTC), time.perf_counter()
    with Scratch("stage") as folder, COPIES.holding():
        out = Path(folder, "out")
        out.mkdir()
        context = Context(store, out, rank, world_size, device, checkpoint_seconds, leaving)
        try:
            scores = stage.run(context)
        except Exception as error:
            if shutil.disk_usage(folder).free > _FULL:
                raise
            raise OSError(
                f"no space left for temporary files in {folder}: set TMPDIR to a larger folder"
            ) from error
        if rank > 0:
            return None
        manifest = Manifest(
            kind=stage.kind,
            key=stage.key,
            version=stage.version,
            settings=stage.settings,
            inputs={name: source.key for name, source in stage.inputs()},
            scores={name: float(score) for name, score in scores.items()},
            files={},
            attempt=attempt,
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - clock, 3),
            host=socket.gethostname(),
            environment={
                **environment(),
                "threads": threads,
                "world_size": world_size,
                **({"gpus": gpus} if device != "cpu" else {}),
                **describe(device),
                "peak_memory": peak(device),
                **context.notes,
            },
        )
        return store.publish(manifest, out)


ATTEMPTS = 3
"""How often a stage with damaged inputs is tried; damaged inputs are computed again each time."""


def obtain(stage: Stage, store: Store, **how: Any) -> Scores:
    """The scores of a stage: from the store, or by running what is missing, one by one.

    This is the executor `inline`: no Ray, one process, easy to debug. `how` is passed to `execute`.
    """
    manifest = store.manifest(stage.kind, stage.key)
    return manifest.scores if manifest is not None else _with_inputs(stage, store, how).scores


def _with_inputs(stage: Stage, store: Store, how: Mapping[str, Any]) -> Manifest:
    for attempt in range(ATTEMPTS):
        for _, source in stage.inputs():
            if not store.has_files(source.kind, source.key):
                _with_inputs(source, store, how)
        try:
            manifest = execute(stage, store, **how)
            break
        except Damaged:  # an input was withdrawn: the next round computes it
            if attempt + 1 == ATTEMPTS:
                raise
    assert manifest is not None  # rank 0 publishes
    return manifest


_clean = cache(remove_abandoned)  # once a process, so that every node of a cluster is cleaned


@cache
def _keep_memory() -> None:
    """Let the C library keep freed memory (up to 1 GB a block) for the next step's tensors.

    By default glibc maps each large tensor anew and the kernel clears its pages, which took nearly
    half of a step on a small model with a large vocabulary.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        library.mallopt(-3, 2**30)
        library.mallopt(-1, 2**31 - 1)


@cache
def environment() -> Mapping[str, Any]:
    """The versions and the machine that bit-for-bit repetition depends on."""
    packages = ("l2kd-ray", "torch", "transformers", "tokenizers", "numpy", "ray")
    return {
        "python": platform.python_version(),
        "cpu": _cpu(),
        **{package: version(package) for package in packages},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((ln.split(":")[1].strip() for ln in lines if ln.startswith("model name")), "")
