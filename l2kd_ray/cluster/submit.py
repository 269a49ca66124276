"""Submit a sweep to a cluster as a Ray job, which goes on when this machine is switched off."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from l2kd_ray.cluster.executors import DRIVER
from l2kd_ray.core.scratch import Scratch
from l2kd_ray.errors import InputError, refuse_credentials

_DASHBOARD = "http://127.0.0.1:8265"
_STUDY = "study.yaml"


def submit(
    study: str, words: Sequence[str], *, name: str, storage: str, address: str = _DASHBOARD
) -> str:
    """Submit a study (YAML text) with its overrides to a cluster; returns the job's id.

    The job's driver runs on the head. No environment variable of this machine is sent, because the
    dashboard shows whatever a job is given; the cluster has its own keys (roles, secrets).

    Raises: InputError if there is no dashboard, or the storage is a folder of this machine.
    """
    refuse_credentials(storage, "storage")
    if "://" not in storage and not Path(storage).is_absolute():
        raise InputError(
            "a cluster cannot reach a folder of this machine",
            key="storage",
            got=storage,
            expected="s3://bucket/prefix, gs://..., or an absolute path that every node mounts",
        )
    try:
        client = JobSubmissionClient(address)
        with Scratch("submit") as folder:
            Path(folder, _STUDY).write_text(study, encoding="utf-8")
            command = ["l2kd", "sweep", _STUDY, *words, "--address", "auto"]
            job: str = client.submit_job(
                entrypoint=shlex.join(command),
                runtime_env={"working_dir": folder},
                metadata={"study": name},
                # The driver only waits: it holds no CPU, only the head's own resource.
                entrypoint_num_cpus=0,
                entrypoint_resources={DRIVER: 1},
            )
    except (ConnectionError, RuntimeError) as error:
        raise InputError(
            "no Ray dashboard answers at this address",
            key="--address",
            got=address,
            expected=f"the address of a Ray dashboard, or of a tunnel to it ({error})",
            fix="open the tunnel: ray attach cluster.yaml -p 8265 (docs/cluster.md)",
        ) from None
    return job


def follow(job: str, address: str = _DASHBOARD) -> int:
    """Print a job's log until the job ends; returns the exit code of its command."""
    client = JobSubmissionClient(address)

    async def tail() -> None:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)

    asyncio.run(tail())
    info = client.get_job_info(job)
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    return 0 if info.status == JobStatus.SUCCEEDED else 4
