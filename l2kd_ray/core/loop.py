"""The one training loop: every teacher, student and multi-task bound goes through it.

The global batch is the setting: workers and accumulation steps share its R rows, and each row's
loss is divided by the count of the *global* batch, which every worker knows before any forward
pass. So the sum of the parts is the whole, and no counts are exchanged.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from l2kd_ray.core.checkpoint import Progress, read, restore, save, write
from l2kd_ray.core.randomness import generator
from l2kd_ray.core.stage import CURVE, STATE, Context, Optimisation, Scores, TrainingStage

Curve = list[dict[str, float]]
GradientHook = Callable[[Any], None]
"""Changes the gradients of the global batch before the step: a penalty's, or a projection."""


class Watch(Protocol):
    """Looks at the model after each epoch, on dev data (early stopping)."""

    def ends(self, model: Any) -> bool:
        """Whether the training is over."""

    def restore(self, model: Any) -> None:
        """Put the best weights seen in place."""


class Lessons(Protocol):
    """What is learnt, in which batches, and what a batch's loss is: all that the loop knows of a
    method. Batches and rows are the lessons' own."""

    @property
    def optimisation(self) -> Optimisation: ...

    @property
    def seed(self) -> int: ...

    @property
    def place(self) -> str:
        """Name of the random streams."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def rows_per_example(self) -> int: ...

    @property
    def uses_all(self) -> bool:
        """False if a batch leaves parameters unused (DDP's find_unused_parameters)."""

    def to(self, device: str) -> None:
        """Move the teachers to where the training runs."""

    def batches(self, first_step: int) -> Iterator[Any]:
        """The global batches, from a step on, to the end of the training."""

    def rows(self, batch: Any) -> Sequence[Any]:
        """The R rows of a global batch."""

    def size(self, rows: Sequence[Any]) -> int:
        """Tokens in some rows."""

    def scale(self, rows: Sequence[Any]) -> Tensor:
        """[R]: what each row's loss sum is multiplied by, so that the sum over rows is the loss."""

    def loss(
        self, model: Any, network: nn.Module, rows: Sequence[Any], scale: Tensor, device: str
    ) -> Tensor:
        """The share of the global batch's loss that some of its rows bear. `network` is `model`, or
        what exchanges its gradients around it."""


def fit(
    stage: TrainingStage,
    model: nn.Module,
    lessons: Lessons,
    context: Context,
    constraint: GradientHook | None = None,
    watch: Watch | None = None,
) -> Curve:
    """Train `model` in place; resumes from the stage's newest checkpoint, or goes on from where the
    part before it ended.

    Returns a row a step: step, loss (of the global batch), lr, tokens (of the global batch).
    Raises: FloatingPointError where the loss is not finite.
    """
    how = lessons.optimisation
    model.to(context.device).train()
    lessons.to(context.device)
    optimizer = _optimizer(model, how)
    progress = restore(stage, model, optimizer, context) or Progress()
    if stage.before is not None and progress.step == 0:
        state = context.files_of(stage.before) / STATE
        progress = read(state, model, optimizer, context.device)
    network = _wrap(model, context, lessons.uses_all)
    total = how.epochs * lessons.steps_per_epoch
    last = (stage.until or how.epochs) * lessons.steps_per_epoch
    saved = time.monotonic()
    for batch in lessons.batches(progress.step):
        if progress.step == last:  # of a part; a checkpoint may have been its last step's
            break
        lr = how.lr * _schedule(progress.step, total, how.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        seed = generator(lessons.seed, "dropout", lessons.place, progress.step, context.rank)
        torch.manual_seed(int(seed.integers(2**63)))
        rows = lessons.rows(batch)
        optimizer.zero_grad()
        loss = accumulate(network, rows, lessons, context)
        if constraint is not None:
            constraint(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), how.clip)
        optimizer.step()
        progress.add(loss, lr, lessons.size(rows))
        due = context.rank == 0 and (
            time.monotonic() - saved > context.checkpoint_seconds or context.leaving()
        )
        due = due and watch is None  # its memory is no part of a checkpoint
        ended = progress.step % lessons.steps_per_epoch == 0
        if due or ended:
            _check_finite(loss, norm, progress.step)
        if due:
            save(stage, model, optimizer, progress, context)
            saved = time.monotonic()
        if ended and watch is not None and watch.ends(model):
            break
    if context.rank == 0 and stage.until is not None:
        write(context.out / STATE, model, optimizer, progress)
    if watch is not None:
        watch.restore(model)
    return progress.curve()


def write_curve(curve: Curve, context: Context) -> Scores:
    """Leave `curve.json` beside a trained model; what it says of the training as a whole."""
    if context.rank == 0:
        (context.out / CURVE).write_text(json.dumps(curve))
    tokens = sum(row["tokens"] for row in curve)
    return {"loss": curve[-1]["loss"], "steps": len(curve), "tokens": tokens}


def _check_finite(loss: Tensor, norm: Tensor, step: int) -> None:
    """Checked at epoch ends and checkpoints only: reading the loss synchronises with the GPU."""
    if not (math.isfinite(float(loss)) and math.isfinite(float(norm))):
        raise FloatingPointError(
            f"the loss is {float(loss)} and its gradient's norm {float(norm)} after step {step}; "
            "a lower train.lr may help"
        )


def accumulate(
    network: nn.Module, rows: Sequence[Any], lessons: Lessons, context: Context
) -> Tensor:
    """Add the gradients of the global batch's loss, forward by forward; returns it (detached)."""
    scale = lessons.scale(rows)
    mine = list(range(context.rank, len(rows), context.world_size)) or [0]
    if context.rank >= len(rows):  # no row is left for this worker, but it takes part
        scale = torch.zeros_like(scale)
    size = (lessons.optimisation.micro_batch or len(rows)) * lessons.rows_per_example
    parts = [mine[start : start + size] for start in range(0, len(mine), size)]
    model = network.module if isinstance(network, DistributedDataParallel) else network
    loss = torch.zeros((), device=context.device)
    for number, part in enumerate(parts):
        with _exchange(network, last=number == len(parts) - 1):
            chosen = [rows[index] for index in part]
            partial = lessons.loss(model, network, chosen, scale[part], context.device)
            # DDP averages over workers; the parts of the global batch are to be summed.
            (partial * context.world_size).backward()
        loss += partial.detach()
    if context.world_size > 1:
        dist.all_reduce(loss)
    return loss


def _optimizer(model: nn.Module, how: Optimisation) -> torch.optim.Optimizer:
    """AdamW; biases and norms (below two dimensions) do not decay."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[getattr(parameter, "decays", parameter.ndim >= 2)].append(parameter)
    decay = {True: how.weight_decay, False: 0.0}
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay[decays]} for decays, group in groups.items()],
        lr=how.lr,
        eps=how.adam_eps,
        fused=True,
    )


def _schedule(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over the first `warmup` of the steps, then linearly down to 0."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (math.floor(rise) + 1)
    return (total - step) / (total - rise)


def _exchange(network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Workers exchange gradients once a global batch, at its last part."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()  # type: ignore[no-any-return, unused-ignore]


def _wrap(model: nn.Module, context: Context, uses_all: bool) -> nn.Module:
    if context.world_size == 1:
        return model
    return DistributedDataParallel(model, find_unused_parameters=not uses_all)
