"""A session of Ray: one that is started on this machine, or a running cluster that is joined."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import grpc  # type: ignore[import-untyped]
import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._private.log import PlainRayHandler
from ray.exceptions import AuthenticationError

from l2kd_ray.cluster import ENVIRONMENT
from l2kd_ray.cluster.executors import DRIVER, Job
from l2kd_ray.cluster.guard import kept_messages, overheard
from l2kd_ray.core.device import device_of
from l2kd_ray.errors import InputError

LOCAL = "local"
_EVENTS_S = 2.0
"""Until workers have reported their last tasks (each second); without it the dashboard, which
outlives the sweep, calls them failed."""
_LONGEST_SOCKET = 107  # bytes, of any AF_UNIX path
_EXPECTED = "worker processes have been started"
"""Part of a warning of Ray's that is not shown: there are more cursors than CPUs on purpose."""


class RayFailed(OSError):
    """Ray, or the machine that it runs on, failed. Finished stages are kept."""


@contextmanager
def started(jobs: Sequence[Job]) -> Iterator[float]:
    """Start Ray on this machine; yields its number of CPUs.

    `address="local"` never joins a cluster that another user has left running.
    """
    cpus = len(os.sched_getaffinity(0))
    for job in jobs:
        _check_fits(job, cpus)
    folder = scratch()
    _prepare()
    _keep_token()
    try:
        with _on_loopback():
            ray.init(
                address=LOCAL,
                num_cpus=cpus,
                resources={DRIVER: 1000},
                # Ray frees Train's placement groups after an abrupt stop through the dashboard.
                include_dashboard=any(job.distributed for job in jobs),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except OSError as error:
        raise RayFailed(
            f"Ray did not start ({error}). Its files are in {folder}: set TMPDIR or RAY_TMPDIR to "
            f"another folder if it is full or cannot be written{kept_messages()}"
        ) from None
    try:
        gpus = _resources().get("GPU", 0)
        for job in jobs:
            if job.gpus > gpus:
                raise InputError(
                    "a stage needs more GPUs than this machine has",
                    key=f"scale ({job.stage.kind}).gpus_per_worker",
                    got=job.gpus,
                    expected=f"at most {gpus:g}",
                )
        yield float(cpus)
    finally:
        leave()


def _check_fits(job: Job, cpus: int) -> None:
    """Raise InputError if this machine can never run the job, which would wait for ever."""
    device_of(job.gpus)
    if job.cpus > cpus:
        raise InputError(
            "a stage needs more CPUs than this machine has",
            key=f"scale ({job.stage.kind})",
            got=job.cpus,
            expected=f"at most {cpus}: workers x cpus_per_worker",
            fix=f"set scale.{job.stage.kind}.workers to {cpus} or fewer, or name a cluster",
        )
    if job.workers.labels:
        raise InputError(
            "a stage asks for a node with labels, which this machine has not",
            key=f"scale ({job.stage.kind}).labels",
            got=dict(job.workers.labels),
            fix="set labels to {} here, or name a cluster with --address",
        )


def scratch() -> str:
    """The folder that Ray keeps its files and sockets in. Raises: InputError if its name is too
    long for a socket."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name, "/tmp")
    inner = f"/ray/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    longest = _LONGEST_SOCKET - len(inner)
    if len(os.fsencode(folder)) > longest:
        raise InputError(
            "the folder of temporary files has a name too long for Ray's sockets",
            key=name,
            got=folder,
            expected=f"at most {longest} bytes",
            fix="set RAY_TMPDIR to a folder with a short name, such as /tmp",
        )
    return folder


def _prepare() -> None:
    """Set up this process for `ray.init`: signals, messages, and a word about authentication."""
    if callable(signal.getsignal(signal.SIGTERM)):
        # Ours ends the sweep as Ctrl-C does; Ray's handler would exit from within C++ code.
        ray._private.utils.set_sigterm_handler = lambda _: None
    messages = os.fdopen(2, "w", buffering=1, closefd=False)  # see `guard`: not always sys.stderr
    for handler in logging.getLogger("ray").handlers:
        if isinstance(handler, PlainRayHandler):
            handler.setStream(messages)

    said = set[str]()

    def brief(data: Mapping[str, Any], **_: object) -> None:
        for text in data["lines"]:
            print(text, file=messages)
            if _EXPECTED in str(text):
                continue
            first = str(text).partition("\n")[0]
            if first[:50] not in said:
                print(f"Ray: {first}", file=sys.stderr)
            said.add(first[:50])

    # Errors of the cluster (a node died, a task fits nowhere): some repeat, some are a page long.
    ray._private.worker.print_to_stdstream = brief  # type: ignore[assignment]
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        print(
            "RAY_AUTH_MODE=disabled: whoever reaches Ray's ports can run code as this user",
            file=sys.stderr,
        )


def _keep_token() -> None:
    """Let nobody else read the token that protects Ray; Ray itself writes it with the umask."""
    token = Path("~/.ray/auth_token").expanduser()
    with suppress(OSError, RuntimeError):  # no home folder: Ray says what it needs
        given = os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
        if token.exists():
            token.chmod(0o600)
        elif not given and os.environ.get("RAY_AUTH_MODE", "").lower() != "disabled":
            token.parent.mkdir(exist_ok=True)
            file = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(file, "w") as stream:
                stream.write(secrets.token_hex(32))


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray that is started in this context listens on 127.0.0.1 alone.

    This is Ray's behaviour on macOS and Windows. On Linux it would listen on all interfaces, and
    the setting that turns it off is read when Ray is imported (here) and by its processes (there).
    """
    constants, name = ray._private.ray_constants, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    former, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    os.environ[name] = "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = former
        del os.environ[name]


@contextmanager
def joined(address: str) -> Iterator[float]:
    """Join a running cluster; yields infinity for its CPUs.

    All ready stages are submitted to Ray at once, so that an autoscaler sees the whole demand.
    """
    _prepare()
    heard = list[str]()
    try:
        _knock(address)
        if _asks_for_token(address):  # Ray looks for one by itself for `auto` alone
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        with overheard() as heard:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {name: os.environ[name] for name in ENVIRONMENT}},
            )
    except (OSError, ValueError, RuntimeError, AuthenticationError) as error:
        if "InvalidAuthToken" in "".join(heard) or isinstance(error, AuthenticationError):
            raise InputError(
                "the cluster asks for a token, and this machine has none or another one",
                key="--address",
                got=address,
                fix="write what `ray get-auth-token` prints on the head to ~/.ray/auth_token here",
            ) from None
        raise InputError(
            "no Ray cluster there",
            key="--address",
            got=address,
            expected=f"auto, or the address of a head that this machine can reach ({error})",
        ) from None
    try:
        if not _resources().get(DRIVER):
            raise InputError(
                f"the cluster's head has no resource `{DRIVER}`, which cursors hold",
                key="--address",
                got=address,
                fix=f"start it with: ray start --head --resources='{{\"{DRIVER}\": 1000}}'",
            )
        yield math.inf
        time.sleep(_EVENTS_S)
    finally:
        leave()


def leave(patience: float = 30.0) -> None:
    """Call `ray.shutdown()`, and kill the head after `patience` seconds without an answer.

    `ray.shutdown()` waits, without a deadline, until the head confirms the end of a subscription.
    Killing the head that this process started ends the wait.
    """
    ending = Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(patience)
    if ending.is_alive():
        node = ray._private.worker._global_node  # Ray has no public access to the head's processes
        if node is not None:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        ending.join(patience)


def _knock(address: str) -> None:
    """Raise OSError at once if nothing listens at an address, which Ray would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _asks_for_token(address: str) -> bool:
    """Whether the head at an address refuses a call without a token.

    To send a token to a head that wants none is no way out: it could not call this process back.
    """
    if not address.rpartition(":")[2].isdigit() or "://" in address:
        return False
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            call(b"", timeout=10)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def _resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found
