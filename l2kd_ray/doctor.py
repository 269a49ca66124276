"""Checks of what a sweep needs from a machine, one by one."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from l2kd_ray.api import DEFAULT_STORAGE
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError

_PACKAGES = ("l2kd-ray", "ray", "torch", "transformers", "datasets", "wandb", "pyarrow", "pandas")
_FREE_GB = 5
_SKEW_S = 5.0  # allowed difference of clocks: far more than a message's way


@dataclass(frozen=True)
class Finding:
    """The result of one check; if it is not good, `text` says what to do."""

    good: bool
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.good else 'FIX '} {self.subject:<12} {self.text}"


def examine(storage: str | None = None, address: str | None = None) -> Iterator[Finding]:
    """Check everything that a sweep relies on: this machine, and with `address` a cluster.

    Results are yielded one by one, since some checks are slow.
    """
    storage = storage or DEFAULT_STORAGE
    good = sys.version_info >= (3, 11)
    yield Finding(good, "python", sys.version.split()[0] + ("" if good else ": 3.11 is needed"))
    for package in _PACKAGES:
        try:
            yield Finding(True, package, version(package))
        except PackageNotFoundError:
            yield Finding(False, package, f"is not installed: pip install {package}")
    yield _storage(storage)
    yield _gpu()
    yield _wandb()
    yield Finding(True, "cpus", str(len(os.sched_getaffinity(0))))
    yield _scratch()
    yield _session()
    yield _clock(storage)
    if address is not None:
        yield from _cluster(address, storage)


def _cluster(address: str, storage: str) -> Iterator[Finding]:
    """Check every node that is up; an autoscaling cluster at rest has only its head."""
    from l2kd_ray.cluster.survey import PACKAGES, survey

    try:
        nodes = survey(address, storage)
    except InputError as error:
        yield Finding(False, "cluster", str(error))
        return
    yield Finding(True, "cluster", f"{address}: {len(nodes)} nodes are up")
    here = {name: version(name) for name in PACKAGES}
    for node in nodes:
        problems = []
        if node.storage_s is None:
            problems.append(
                f"cannot write {storage}: give the node's role access ({node.storage_error})"
            )
        other = [f"{name} {v}" for name, v in node.versions.items() if v != here[name]]
        if other:
            problems.append(f"has {', '.join(other)}: install this machine's versions")
        if node.free_gb < _FREE_GB:
            problems.append(f"has {node.free_gb:.1f} GB free: give it a larger disk")
        if node.gpus < node.resources.get("GPU", 0):
            problems.append(f"promises GPUs, of which torch sees {node.gpus}: use a GPU image")
        if abs(node.clock_s) > _SKEW_S:
            problems.append(f"its clock is {node.clock_s:+.1f} s from ours: turn on NTP")
        if Store(storage).is_local and not node.shares:
            problems.append(f"{storage} must be a folder that all nodes mount: or use s3://, gs://")
        if problems:
            yield Finding(False, "node", f"{node.host}: " + "; ".join(problems))
        else:
            took = 1000 * (node.storage_s or 0)
            measured = f"storage in {took:.0f} ms, {node.free_gb:.0f} GB free, {node.gpus} GPUs"
            yield Finding(True, "node", f"{node.host}: {measured}, clock {node.clock_s:+.2f} s")


def _scratch() -> Finding:
    """Check the temporary folder, which holds a stage's files before they are published."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / 1e9
    if free < _FREE_GB:
        return Finding(False, "disk", f"{folder}: only {free:.1f} GB free: set TMPDIR to another")
    return Finding(True, "disk", f"{folder}: {free:.0f} GB free")


def _session() -> Finding:
    """Check what Ray needs when a sweep starts it here."""
    from l2kd_ray.cluster.session import scratch

    try:
        folder = scratch()
    except InputError as error:
        return Finding(False, "session", str(error))
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return Finding(False, "session", "RAY_AUTH_MODE=disabled lets others run code: unset it")
    return Finding(True, "session", f"{folder}: short enough a name for Ray's sockets")


def _clock(root: str) -> Finding:
    """Compare our clock with the storage's: ages of files are judged by the storage's times."""
    probe = f"probe-{uuid.uuid4().hex}/clock"
    try:
        store = Store(root)
        before = time.time()
        store.write(probe, b"")
        middle = (before + time.time()) / 2
        written = store.files(probe.split("/")[0])[0].modified.timestamp()
        store.remove(probe.split("/")[0])
    except (InputError, OSError, IndexError) as error:
        return Finding(False, "clock", f"not compared with the storage's: {error}")
    apart = middle - written
    if abs(apart) > _SKEW_S:
        return Finding(False, "clock", f"{apart:+.1f} s from the storage's: turn on NTP")
    return Finding(True, "clock", f"{apart:+.1f} s from the storage's")


def _storage(root: str) -> Finding:
    try:
        store = Store(root)
        started = time.perf_counter()
        store.check_writable()
    except InputError as error:
        return Finding(False, "storage", str(error))
    took = f"{root}: written and removed in {1000 * (time.perf_counter() - started):.0f} ms"
    if store.is_local:
        free = shutil.disk_usage(Path(store.base)).free / 1e9
        if free < _FREE_GB:
            return Finding(False, "storage", f"{took}; only {free:.1f} GB free: make room")
        took += f", {free:.0f} GB free"
    return Finding(True, "storage", took)


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(True, "gpu", "none: stages run on CPUs (leave scale.gpus_per_worker at 0)")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    advice = "scale.gpus_per_worker=0.1 lets ten stages of small models share one; 1 for large ones"
    return Finding(True, "gpu", f"{', '.join(names)} ({advice})")


def _wandb() -> Finding:
    netrc = Path("~/.netrc").expanduser()
    if os.environ.get("WANDB_API_KEY") or (
        netrc.is_file() and "wandb" in netrc.read_text("utf-8", "replace")
    ):
        return Finding(True, "w&b", "a key is set: runs go online")
    return Finding(True, "w&b", "no key: runs are written offline; set WANDB_API_KEY to go online")
