"""A process of a worker group, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from l2kd_ray.core.checkpoint import restore
from l2kd_ray.core.execute import execute
from l2kd_ray.core.stage import Context, Stage
from l2kd_ray.core.store import Store

WORKERS = 2


def worker(
    rank: int, stages: Sequence[Stage], root: str, meeting: Path, late: Sequence[int] = ()
) -> None:
    """Run the stages as one of WORKERS processes of a group that meets at a file.

    `late`: ranks that look for a stage when another sweep has just published it.
    """
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    store = Store(root)
    looks = store.has_files
    if rank in late:
        keys = {stage.key for stage in stages}
        store.has_files = lambda kind, key: key in keys or looks(kind, key)  # type: ignore[method-assign]
    for stage in stages:
        execute(stage, store, rank=rank, world_size=WORKERS)
        dist.barrier()
    dist.destroy_process_group()


def resume(rank: int, stage: Stage, root: str, folder: Path, blind: Sequence[int]) -> None:
    """Resume as one of WORKERS processes; it is refused if `blind` ones find no checkpoint."""
    import pytest
    import torch
    import torch.distributed as dist

    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORKERS)
    store, model = Store(root), torch.nn.Linear(2, 1)
    if rank in blind:
        store.load_checkpoint = lambda *_: []  # type: ignore[method-assign]
    context = Context(store, folder / str(rank) / "out", rank, WORKERS)
    optimizer = torch.optim.AdamW(model.parameters())
    if blind:
        with pytest.raises(RuntimeError, match="different checkpoints"):
            restore(stage, model, optimizer, context)
    else:
        progress = restore(stage, model, optimizer, context)
        assert progress is not None
        assert progress.step == 1
    dist.destroy_process_group()
