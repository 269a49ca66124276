"""What a machine needs for a sweep, looked at one by one."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from l2kd_ray.api import DEFAULT_STORAGE
from l2kd_ray.config import InputError
from l2kd_ray.store import Store

_PACKAGES = ("l2kd-ray", "ray", "torch", "transformers", "datasets", "wandb", "pyarrow", "pandas")
_FREE_GB = 5


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `text` says what to do where it is not good."""

    good: bool
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.good else 'MEND'} {self.subject:<12} {self.text}"


def examine(storage: str | None = None) -> Iterator[Finding]:
    """Everything that a sweep on this machine relies on; slow or failing things say so."""
    good = sys.version_info >= (3, 11)
    yield Finding(good, "python", sys.version.split()[0] + ("" if good else ": 3.11 is needed"))
    for package in _PACKAGES:
        try:
            yield Finding(True, package, version(package))
        except PackageNotFoundError:
            yield Finding(False, package, f"is not installed: pip install {package}")
    yield _storage(storage or DEFAULT_STORAGE)
    yield _gpu()
    yield _wandb()
    yield Finding(True, "cpus", str(len(os.sched_getaffinity(0))))


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
    return Finding(True, "gpu", ", ".join(names) + " (set scale.gpus_per_worker=1 to use it)")


def _wandb() -> Finding:
    netrc = Path("~/.netrc").expanduser()
    if os.environ.get("WANDB_API_KEY") or (netrc.is_file() and "wandb" in netrc.read_text()):
        return Finding(True, "w&b", "a key is set: runs go online")
    return Finding(True, "w&b", "no key: runs are written offline; set WANDB_API_KEY to go online")
