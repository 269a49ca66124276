"""The training loop that every teacher, student and multi-task bound goes through.

The global batch is a setting of the study: workers and accumulation steps share its R rows, and
each row's loss is divided by a count over the *global* batch, which every worker knows before any
forward pass. So partial losses only add up, and workers exchange no counts. For the same reason a
step whose rows do not fit into memory is done again in smaller parts, with the same result; but
dropout draws other masks for smaller parts.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from l2kd_ray.core import memory
from l2kd_ray.core.checkpoint import Progress, Stateful, read, restore, save, write
from l2kd_ray.core.randomness import generator
from l2kd_ray.core.shard import is_sharded, place, put_together, whole
from l2kd_ray.core.stage import CURVE, STATE, Context, Optimisation, Scores, TrainingStage

BETA2 = 0.999
"""AdamW's decay of the mean square of gradients."""
T = TypeVar("T")
Curve = list[dict[str, float]]
GradientHook = Callable[[Any, int], None]
"""Changes the global batch's gradients of a model before the optimizer's step (counted from 0): a
penalty or a projection."""


class Watch(Protocol):
    """Evaluates the model on dev data after each epoch and at the end (early stopping)."""

    def ends(self, model: Any) -> bool:
        """True if training should stop now."""

    def restore(self, model: Any) -> None:
        """Load the best weights seen so far."""


class Lessons(Protocol):
    """The loop's only view of a method: its data, its batches and the loss of a batch.

    The types of batches and rows belong to the implementation; the loop only passes them on.
    """

    @property
    def optimisation(self) -> Optimisation: ...

    @property
    def seed(self) -> int: ...

    @property
    def stream(self) -> str:
        """Name that tells this training's random streams from those of other trainings."""

    @property
    def precision(self) -> str:
        """`float32`, `tf32` or `bfloat16`, for which the lessons turn on autocast."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def rows_per_example(self) -> int: ...

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the K terms of the loss that the training curve shows beside it."""

    @property
    def uses_all(self) -> bool:
        """False if a batch leaves parameters unused (DDP's find_unused_parameters)."""

    def to(self, device: str) -> None:
        """Move the teachers to the training's device."""

    def batches(self, first_step: int) -> Iterator[Any]:
        """The global batches from a step (counted from 0) on, epoch after epoch without end."""

    def rows(self, batch: Any) -> Sequence[Any]:
        """The R rows of a global batch."""

    def size(self, rows: Sequence[Any]) -> int:
        """Number of tokens in these rows."""

    def scale(self, rows: Sequence[Any]) -> Tensor:
        """[R] factors of the rows' loss sums, chosen so that the sum over all rows is the loss.

        They hold the instance weights and one over the count of the *global* batch. They are made
        before the forward pass because the fused loss computes its gradient during it.
        """

    def loss(
        self, model: Any, network: nn.Module, rows: Sequence[Any], scale: Tensor, device: str
    ) -> tuple[Tensor, Tensor]:
        """The part of the global batch's loss that belongs to some of its rows, and the values [K]
        of its terms, without gradients and on the loss's device.

        `network` is `model`, or its DDP wrapper, which exchanges the gradients between workers.
        """


def fit(
    stage: TrainingStage,
    model: nn.Module,
    lessons: Lessons,
    context: Context,
    constraint: GradientHook | None = None,
    watch: Watch | None = None,
    stateful: Sequence[Stateful] = (),
) -> Curve:
    """Train `model` in place, from the newest checkpoint or the end of the previous part, if any.

    `stateful`: the parts of the lessons that change on the way.

    Returns one row for each step: step, loss (and its terms) and tokens of the global batch, norm
    of the gradient before it is clipped, lr.
    Raises: FloatingPointError if the loss or its gradient is not finite.
    """
    how = lessons.optimisation
    with _kernels(how.deterministic, lessons.precision):
        for name in ("deterministic", "gradient_checkpointing", "shard"):
            if getattr(how, name):
                context.notes[name] = True
        return _fit(stage, model, lessons, context, constraint, watch, stateful)


def _fit(
    stage: TrainingStage,
    whole_model: nn.Module,
    lessons: Lessons,
    context: Context,
    constraint: GradientHook | None,
    watch: Watch | None,
    stateful: Sequence[Stateful],
) -> Curve:
    how = lessons.optimisation
    model = place(whole_model, how.shard, context.device).train()
    lessons.to(context.device)
    optimizer = _optimizer(model, how)
    progress = restore(stage, model, optimizer, context, stateful) or Progress()
    if stage.before is not None and progress.step == 0:
        state = context.files_of(stage.before) / STATE
        progress = read([state], model, optimizer, context.device, stateful)
    network = _wrap(model, context, lessons.uses_all)
    fitting = memory.Fitting.of(stage, model, how.micro_batch, context)
    total = how.total_steps(lessons.steps_per_epoch)
    rise = how.warmup * (lessons.steps_per_epoch if how.warmup_of_epoch else total)
    # A part of a training (`train.rungs`) ends at `until`, but follows the whole schedule.
    last = how.total_steps(lessons.steps_per_epoch, stage.until)
    began, first = time.perf_counter(), progress.step
    saved = time.monotonic()
    for batch in lessons.batches(progress.step):
        # Checked before the step: the checkpoint of a part may hold its last step already.
        if progress.step == last:
            break
        lr = how.lr * _schedule(progress.step, total, rise)
        for group in optimizer.param_groups:
            group["lr"], group["eps"] = lr, _eps(how, progress.step)
        seed = generator(lessons.seed, "dropout", lessons.stream, progress.step, context.rank)
        draws = int(seed.integers(2**63))
        rows = lessons.rows(batch)

        def compute(size: int | None, rows: Sequence[Any] = rows, draws: int = draws) -> Tensor:
            # Seeded anew at each try of a step, so that a resumed training draws the same masks.
            torch.manual_seed(draws)
            optimizer.zero_grad()
            return accumulate(network, rows, lessons, context, size)

        losses = fitting.run(
            compute, progress.step, math.ceil(len(rows) / lessons.rows_per_example)
        )
        if constraint is not None:
            constraint(model, progress.step)
        # Gradients that are kept in the host's memory (`cpu_offload`) have their norm there.
        norm = whole(nn.utils.clip_grad_norm_(model.parameters(), how.clip)).to(losses.device)
        optimizer.step()
        progress.add(torch.cat((losses, norm.reshape(1))), lr, lessons.size(rows))
        due = context.rank == 0 and (
            time.monotonic() - saved > context.checkpoint_seconds or context.leaving()
        )
        due = due and watch is None  # the best weights it remembers are not in a checkpoint
        name = None
        if is_sharded(model):
            # Rank 0 saves a whole model alone, at a moment of its own. Of a shared one each worker
            # has a part, so they must agree.
            name = agreed(context.store.checkpoint_name(progress.step) if due else None)
            due = name is not None
        ended = progress.step % lessons.steps_per_epoch == 0 or progress.step == last
        if due or ended:
            _check_finite(losses[0], norm, progress.step)
        if due:
            save(stage, model, optimizer, progress, context, stateful, name)
            saved = time.monotonic()
        if ended and watch is not None and watch.ends(model):
            break
    if stage.until is not None:
        write(context.out / STATE, model, optimizer, progress, context, stateful)
    if watch is not None:
        watch.restore(model)
    if is_sharded(model):
        put_together(model, whole_model)
    curve = progress.curve(("loss", *lessons.terms, "grad_norm"))
    # The curve is made of what the device has finished. Its own rows hold no times: a resumed
    # training has the same.
    seconds = time.perf_counter() - began
    if progress.step > first:
        context.notes["tokens_per_second"] = round(sum(progress.tokens[first:]) / seconds, 1)
    return curve


@contextmanager
def _kernels(deterministic: bool, precision: str) -> Iterator[None]:
    """Choose torch's kernels for the time of a training."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.allow_tf32  # recurrent layers and convolutions, True by default
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_float32_matmul_precision(before[1])
        torch.backends.cudnn.allow_tf32 = cudnn


def agreed(value: T) -> T:
    """Rank 0's value, on every worker; all must ask."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def write_curve(curve: Curve, context: Context) -> Scores:
    """Write `curve.json` beside a trained model; returns the training's scores."""
    if context.rank == 0:
        (context.out / CURVE).write_text(json.dumps(curve), "utf-8")
    tokens = sum(row["tokens"] for row in curve)
    return {"loss": curve[-1]["loss"], "steps": len(curve), "tokens": tokens}


def _check_finite(loss: Tensor, norm: Tensor, step: int) -> None:
    """Raise FloatingPointError if the loss or the gradient's norm is not finite.

    Called at epoch ends and checkpoints only: reading the loss synchronises with the GPU.
    """
    if not (math.isfinite(float(loss)) and math.isfinite(float(norm))):
        raise FloatingPointError(
            f"the loss is {float(loss)} and its gradient's norm {float(norm)} after step {step}; "
            "a lower train.lr may help"
        )


def accumulate(
    network: nn.Module,
    rows: Sequence[Any],
    lessons: Lessons,
    context: Context,
    size: int | None = None,
) -> Tensor:
    """Add the gradients of the global batch's loss, `size` examples at a time (None: all).

    Returns the detached loss and its terms, [1 + K].
    """
    scale = lessons.scale(rows)
    mine = list(range(context.rank, len(rows), context.world_size))
    step = size * lessons.rows_per_example if size else len(rows)
    # Collectives need every worker in every part: as many parts as the worker with most rows has.
    most = math.ceil(len(rows) / context.world_size)
    parts = [mine[start : start + step] for start in range(0, most, step)]
    model = network.module if isinstance(network, DistributedDataParallel) else network
    losses = torch.zeros(1 + len(lessons.terms), device=context.device)
    for number, part in enumerate(parts):
        with _exchange(network, last=number == len(parts) - 1):
            # One that has no rows left computes the first row with factor 0.
            chosen = [rows[index] for index in part or [0]]
            factors = scale[part] if part else torch.zeros(1)
            partial, terms = lessons.loss(model, network, chosen, factors, context.device)
            # DDP averages over workers; the parts of the global batch are to be summed.
            (partial * context.world_size).backward()
        losses += torch.cat((partial.detach().reshape(1), terms))
    if context.world_size > 1:
        dist.all_reduce(losses)
    return losses


def _optimizer(model: nn.Module, how: Optimisation) -> torch.optim.Optimizer:
    """AdamW without weight decay on biases and norms (parameters of fewer than two dimensions)."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            # `lora` sets `decays` to False on embeddings of which only some rows are trained.
            groups[getattr(parameter, "decays", parameter.ndim >= 2)].append(parameter)
    decay = {True: how.weight_decay, False: 0.0}
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay[decays]} for decays, group in groups.items()],
        lr=how.lr,
        betas=(0.9, BETA2),
        eps=how.adam_eps,
        # One fused kernel instead of a Python loop over the parameters.
        fused=True,
    )


def _eps(how: Optimisation, step: int) -> float:
    """AdamW's epsilon for a step, counted from 0.

    torch adds it to sqrt(v / (1 - beta2^t)). Added to sqrt(v) before that correction (Kingma & Ba
    2015, end of section 2), it is divided by sqrt(1 - beta2^t), too.
    """
    return how.adam_eps / math.sqrt(1 - BETA2 ** (step + 1)) if how.eps_first else how.adam_eps


def _schedule(step: int, total: int, rise: float) -> float:
    """Factor of the learning rate: linear warm-up over `rise` steps, then linear to 0."""
    if step < rise:
        # Never 0, so that the first step trains, too.
        return (step + 1) / (math.floor(rise) + 1)
    return (total - step) / (total - rise)


def _exchange(network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Gradients are exchanged once per global batch, in the backward pass of its last part."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()  # type: ignore[no-any-return, unused-ignore]


def _wrap(model: nn.Module, context: Context, uses_all: bool) -> nn.Module:
    if context.world_size == 1 or is_sharded(model):
        return model
    return DistributedDataParallel(model, find_unused_parameters=not uses_all)
