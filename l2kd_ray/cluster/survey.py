"""A check of every node of a cluster, for `l2kd doctor --address`."""

from __future__ import annotations

import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from l2kd_ray.cluster.session import joined
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError

PACKAGES = ("l2kd-ray", "ray", "torch", "transformers")
_WAIT_S = 60.0


@dataclass(frozen=True)
class NodeReport:
    """One node's answers to the check."""

    host: str
    resources: Mapping[str, float]
    versions: Mapping[str, str]
    storage_s: float | None
    """Seconds to write and remove a file; None if that failed."""
    storage_error: str
    shares: bool
    """True if it can read a file that this machine has just written to the storage."""
    free_gb: float
    gpus: int
    """Number of GPUs that torch sees there."""
    clock_s: float
    """Seconds by which the node's clock is ahead of ours (the message's way is halved)."""


def survey(address: str, storage: str) -> list[NodeReport]:
    """Check every node that is up.

    Raises: InputError if there is no such cluster, a node does not answer within a minute, or the
        storage cannot be written here.
    """
    with joined(address), _written(storage) as probe:
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        looks = [
            _look.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            for node in nodes
        ]
        try:  # the first calls start the worker processes, the second ones read the clocks
            ray.get([look.remote(*probe) for look in looks], timeout=_WAIT_S)
            reports = []
            for node, look in zip(nodes, looks, strict=True):
                before = time.time()
                answer = ray.get(look.remote(None), timeout=_WAIT_S)
                # The node read its clock about half-way between the request and the answer.
                middle = (before + time.time()) / 2
                answers = ray.get(look.remote(*probe), timeout=_WAIT_S)
                skew = answer.pop("clock") - middle
                reports.append(
                    NodeReport(**{**answers, "clock_s": skew, "resources": dict(node["Resources"])})
                )
        except ray.exceptions.GetTimeoutError:
            raise InputError(
                f"a node does not answer within {_WAIT_S:.0f} s",
                key="--address",
                got=address,
                fix="see `ray status`; a node without l2kd-ray fails here, too: install it there",
            ) from None
    return reports


@contextmanager
def _written(storage: str) -> Iterator[tuple[str, str]]:
    """The storage's address from any node, and a file that this machine has written there."""
    store, name = Store(storage), f"probe-{uuid.uuid4().hex}"
    store.check_writable()
    store.write(name, b"")
    try:
        yield store.root, name
    finally:
        store.remove(name)


@ray.remote
def _look(storage: str | None, probe: str = "") -> dict[str, Any]:
    return {"clock": time.time()} if storage is None else look_here(storage, probe)


def look_here(storage: str, probe: str) -> dict[str, Any]:
    """Check the node that this runs on; `probe` is the name of a file in the storage."""
    import torch

    seconds, error, shares = None, "", False
    try:
        store = Store(storage)
        started = time.perf_counter()
        store.check_writable()
        seconds = time.perf_counter() - started
        shares = store.read(probe) is not None
    except (InputError, OSError) as problem:
        error = str(problem)
    return {
        "host": socket.gethostname(),
        "versions": {name: _version(name) for name in PACKAGES},
        "storage_s": seconds,
        "storage_error": error,
        "shares": shares,
        "free_gb": shutil.disk_usage(os.environ.get("TMPDIR", "/tmp")).free / 1e9,
        "gpus": torch.cuda.device_count(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
