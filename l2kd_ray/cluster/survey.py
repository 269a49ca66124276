"""A check of every node of a cluster, for `l2kd doctor --address`."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping
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
    free_gb: float
    gpus: int
    """Number of GPUs that torch sees there."""
    clock_s: float
    """Seconds by which the node's clock is ahead of ours (the message's way is halved)."""


def survey(address: str, storage: str) -> list[NodeReport]:
    """Check every node that is up.

    Raises: InputError if there is no such cluster, or a node does not answer within a minute.
    """
    with joined(address):
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        looks = [
            _look.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            for node in nodes
        ]
        try:  # the first calls start the worker processes, the second ones read the clocks
            ray.get([look.remote(storage) for look in looks], timeout=_WAIT_S)
            reports = []
            for node, look in zip(nodes, looks, strict=True):
                before = time.time()
                answer = ray.get(look.remote(None), timeout=_WAIT_S)
                # The node read its clock about half-way between the request and the answer.
                middle = (before + time.time()) / 2
                answers = ray.get(look.remote(storage), timeout=_WAIT_S)
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


@ray.remote
def _look(storage: str | None) -> dict[str, Any]:
    if storage is None:
        return {"clock": time.time()}
    import torch

    seconds, error = None, ""
    try:
        store = Store(storage)
        started = time.perf_counter()
        store.check_writable()
        seconds = time.perf_counter() - started
    except InputError as problem:
        error = str(problem)
    return {
        "host": socket.gethostname(),
        "versions": {name: _version(name) for name in PACKAGES},
        "storage_s": seconds,
        "storage_error": error,
        "free_gb": shutil.disk_usage(os.environ.get("TMPDIR", "/tmp")).free / 1e9,
        "gpus": torch.cuda.device_count(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
