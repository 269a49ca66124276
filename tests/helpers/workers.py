"""A process of a worker group, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from l2kd_ray.core.execute import execute
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store

WORKERS = 2


def worker(rank: int, stages: Sequence[Stage], root: str, meeting: Path) -> None:
    """Run the stages as one of WORKERS processes of a group that meets at a file."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    for stage in stages:
        execute(stage, Store(root), rank=rank, world_size=WORKERS)
        dist.barrier()
    dist.destroy_process_group()
