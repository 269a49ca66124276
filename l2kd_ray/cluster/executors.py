"""Two ways to run a stage on a cluster: as a Ray task, or by Ray Train.

They share one contract with `core.execute.obtain`, which runs it in this process
(`testing.executors`): after one returns, the stage's manifest is in the store, and the
scores that it returns are the manifest's. Each accepts a stage that is in the store already.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray

from l2kd_ray.cluster import COLLECTIVE_TIMEOUT_S
from l2kd_ray.core.execute import execute
from l2kd_ray.core.scratch import Scratch
from l2kd_ray.core.stage import Scores, Stage
from l2kd_ray.core.store import Damaged, Store
from l2kd_ray.study.sections import Scale, Workers

DRIVER = "driver"  # a resource of the head node only; a cursor holds one, and no CPU


@dataclass(frozen=True)
class Job:
    """A stage with the resources that it needs."""

    stage: Stage
    workers: Workers
    checkpoint_seconds: float

    @classmethod
    def of(cls, stage: Stage, scale: Scale) -> Job:
        return cls(stage, scale.of(stage), scale.checkpoint_seconds)

    @property
    def distributed(self) -> bool:
        return self.workers.maximum > 1 and self.stage.distributable

    @property
    def gpus(self) -> float:
        """The fewest GPUs that the stage can start with."""
        return self.cpus / self.workers.cpus_per_worker * self.workers.gpus_per_worker

    @property
    def how(self) -> dict[str, Any]:
        """Keyword arguments for `execute`; the threads match the CPUs that a worker holds."""
        return {
            "threads": max(1, int(self.workers.cpus_per_worker)),
            "device": "cuda" if self.workers.gpus_per_worker > 0 else "cpu",
            "gpus": self.workers.gpus_per_worker,
            "checkpoint_seconds": self.checkpoint_seconds,
        }

    @property
    def cpus(self) -> float:
        """The fewest CPUs that the stage can start with."""
        # An elastic group states (minimum, maximum) and starts with the minimum.
        count = self.workers.workers if self.distributed else 1
        least = count if isinstance(count, int) else count[0]
        return least * self.workers.cpus_per_worker


def submit(job: Job, store: Store, title: str) -> ray.ObjectRef[Scores]:
    """Start the stage on the cluster and return a reference to its scores.

    `title`: its name in Ray's dashboard, to which the start of its key is added.

    A distributed stage is driven by a task on the head that holds no CPU; the resources belong to
    Ray Train's workers. Ray repeats a task whose worker died; the training loop resumes from its
    checkpoint.
    """
    name = f"{title} {job.stage.key[:8]}"
    if job.distributed:
        driving = _drive.options(
            name=name, num_cpus=0, resources={DRIVER: 1}, max_retries=3, runtime_env=this_cluster()
        )
        return driving.remote(job, store)
    return _task.options(
        name=name,
        num_cpus=job.workers.cpus_per_worker,
        num_gpus=job.workers.gpus_per_worker,
        label_selector=dict(job.workers.labels) or None,
        max_retries=3,
    ).remote(job, store)


def this_cluster() -> dict[str, dict[str, str]]:
    """A runtime environment whose processes ask this cluster, also for the state of its actors.

    Ray Train watches its controller by an address that Ray guesses: the last `ray start` on this
    machine, alive or dead. A dead one costs each stage 12 seconds, another one looks as if the
    controller had ended.
    """
    return {"env_vars": {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}}


@ray.remote
def _task(job: Job, store: Store) -> Scores:
    leaving = Notice(ray.get_runtime_context().get_node_id())
    manifest = execute(job.stage, store, leaving=leaving, **job.how)
    assert manifest is not None  # rank 0 publishes
    return manifest.scores


@ray.remote
def _drive(job: Job, store: Store) -> Scores:
    """Run the stage by Ray Train's TorchTrainer (DDP, or FSDP2) and wait for it.

    Raises: RuntimeError with the workers' error if the training failed.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    stage, workers = job.stage, job.workers
    use_gpu = workers.gpus_per_worker > 0
    resources = {"CPU": workers.cpus_per_worker}
    if use_gpu:
        resources["GPU"] = workers.gpus_per_worker
    # Ray Train insists on a storage path; our checkpoints are in the store, so it is thrown away.
    with Scratch("train") as folder:
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"job": job, "store": store},
            scaling_config=ScalingConfig(
                num_workers=workers.workers,  # type: ignore[arg-type]  # (min, max): elastic
                use_gpu=use_gpu,
                resources_per_worker=resources,
                label_selector=dict(workers.labels) or None,  # type: ignore[call-arg]  # V2 has it
            ),
            torch_config=TorchConfig(
                # NCCL refuses workers that share a card. Beside it, what is no tensor of a GPU (a
                # checkpoint's records, decoded answers) goes by gloo and waits for no device.
                backend="cpu:gloo,cuda:nccl" if workers.gpus_per_worker >= 1 else "gloo",
                timeout_s=COLLECTIVE_TIMEOUT_S,
            ),
            run_config=RunConfig(
                # A name of its own: Ray Train would resume a run of the same name, but our
                # checkpoints decide.
                name=f"{stage.key}-{uuid.uuid4().hex[:8]}",
                storage_path=folder,
                # A spot machine's return is no failure of the stage: retry without limit.
                failure_config=FailureConfig(
                    max_failures=3,
                    max_preemption_failures=-1,  # type: ignore[call-arg]  # V2 has it
                ),
            ),
        )
        try:
            error = trainer.fit().error
        except TrainingFailedError as failure:
            error = failure
    if error is not None:
        raise _cause(error)
    manifest = store.manifest(stage.kind, stage.key)
    if manifest is None:
        raise Damaged(stage.kind, stage.key, "its workers ended and published nothing")
    return manifest.scores


def _cause(error: Exception) -> Exception:
    """The reason why a worker group failed: a damaged input if there is one, else Train's error."""
    # The pool repairs damage (it computes the input again), so `Damaged` must not stay wrapped.
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "cause", failure)
        for candidate in (cause, getattr(cause, "cause", None)):
            if isinstance(candidate, Damaged):
                return candidate
    return error


def _train_worker(config: dict[str, Any]) -> None:
    """Run a distributed stage as one process of its worker group."""
    job: Job = config["job"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    worker = {"rank": rank, "world_size": world_size, "leaving": Notice()}
    execute(job.stage, config["store"], **worker, **job.how)


class Notice:
    """Tells whether a node is being drained: a spot machine's notice, SIGTERM, `ray drain-node`.

    A call returns True once for each drained node, so that the loop saves a checkpoint; training
    then goes on until the machine ends. `node` None means any node (of a worker group). The cluster
    is asked at most every two seconds; a call takes a millisecond (Ray Train's watcher does the
    same).
    """

    EVERY_S = 2.0

    def __init__(self, node: str | None = None) -> None:
        self._node, self._known, self._asked = node, set[str](), -math.inf

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._asked < self.EVERY_S:
            return False
        self._asked = now
        # Ray has no public call for draining nodes; this private one is what Ray Train uses.
        drained = set(ray._private.state.state.get_draining_nodes())
        new = {node for node in drained if self._node in (None, node)} - self._known
        self._known |= new
        return bool(new)
