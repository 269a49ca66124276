"""The one training loop: every teacher, student and multi-task bound goes through it.

R rows of tokens in a global batch, P supervised positions. A sample gives a QA row and, where the
LM loss is on, an LM row. The global batch is the setting: workers and accumulation steps share
its rows, and each row's loss is divided by the count of the *global* batch, which every worker
knows before any forward pass. So the sum of the parts is the whole, and no counts are exchanged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from l2kd_ray.config import Training
from l2kd_ray.distill.linear_loss import Head
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.models.causal_lm import CausalLM
from l2kd_ray.stages.base import Context, Stage, generator
from l2kd_ray.stages.checkpoint import Progress, restore, save
from l2kd_ray.stages.curriculum import Curriculum, Row, inputs, positions

Curve = list[dict[str, float]]
Network = CausalLM | DistributedDataParallel
Constraint = Callable[[CausalLM], None]
"""Changes the gradients of the global batch before the step: a penalty's, or a projection."""


def fit(
    stage: Stage,
    model: CausalLM,
    objective: SoftTargets,
    curriculum: Curriculum,
    context: Context,
    constraint: Constraint | None = None,
) -> Curve:
    """Train `model` in place; resumes from the stage's newest checkpoint.

    Returns a row a step: step, loss (of the global batch), lr, tokens (of the global batch).
    Raises: FloatingPointError where the loss is not finite.
    """
    training = curriculum.training
    model.to(context.device).train()
    for teacher in curriculum.teachers:
        teacher.to(context.device)
    optimizer = _optimizer(model, training)
    progress = restore(stage, model, optimizer, context) or Progress()
    network = _wrap(model, context)
    total = training.epochs * curriculum.steps_per_epoch
    saved = time.monotonic()
    for batch in curriculum.batches(progress.step):
        lr = training.lr * _schedule(progress.step, total, training.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        seed = generator(curriculum.seed, "dropout", curriculum.place, progress.step, context.rank)
        torch.manual_seed(int(seed.integers(2**63)))
        rows = curriculum.rows(batch)
        optimizer.zero_grad()
        loss = accumulate(network, objective, rows, curriculum, context)
        if constraint is not None:
            constraint(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        progress.add(loss, lr, sum(len(row.sequence.tokens) for row in rows))
        due = context.rank == 0 and (
            time.monotonic() - saved > context.checkpoint_seconds or context.leaving()
        )
        if due or progress.step % curriculum.steps_per_epoch == 0:
            _check_finite(loss, norm, progress.step)
        if due:
            save(stage, model, optimizer, progress, context)
            saved = time.monotonic()
    return progress.curve()


def _check_finite(loss: Tensor, norm: Tensor, step: int) -> None:
    """Looked at now and then, for a look waits for the device."""
    if not (math.isfinite(float(loss)) and math.isfinite(float(norm))):
        raise FloatingPointError(
            f"the loss is {float(loss)} and its gradient's norm {float(norm)} after step {step}; "
            "a lower train.lr may help"
        )


def accumulate(
    network: Network,
    objective: SoftTargets,
    rows: Sequence[Row],
    curriculum: Curriculum,
    context: Context,
) -> Tensor:
    """Add the gradients of the global batch's loss, forward by forward; returns it (detached)."""
    scale = _scale(rows, objective, curriculum)
    mine = list(range(context.rank, len(rows), context.world_size)) or [0]
    if context.rank >= len(rows):  # no row is left for this worker, but it takes part
        scale = torch.zeros_like(scale)
    size = (curriculum.training.micro_batch or len(rows)) * len(curriculum.training.parts)
    parts = [mine[start : start + size] for start in range(0, len(mine), size)]
    loss = torch.zeros((), device=context.device)
    for number, part in enumerate(parts):
        with _exchange(network, last=number == len(parts) - 1):
            chosen = [rows[index] for index in part]
            partial = _forward(network, objective, chosen, scale[part], curriculum, context)
            # DDP averages over workers; the parts of the global batch are to be summed.
            (partial * context.world_size).backward()
        loss += partial.detach()
    if context.world_size > 1:
        dist.all_reduce(loss)
    return loss


def _forward(
    network: Network,
    objective: SoftTargets,
    rows: Sequence[Row],
    scale: Tensor,
    curriculum: Curriculum,
    context: Context,
) -> Tensor:
    """The share of the global batch's loss that some of its rows bear."""
    half = curriculum.training.precision == "bfloat16"
    model = network if isinstance(network, CausalLM) else network.module
    places = positions(rows, curriculum.format.answer).to(context.device)
    with torch.autocast(context.device, torch.bfloat16, enabled=half):
        knowledge = []
        for number, teacher in enumerate(curriculum.teachers):
            taught = [row for row in rows if row.teacher == number]
            knowledge.append(teacher.listen(taught, context.device) if taught else None)
        hidden = network(*inputs(rows, context.device))
    head = Head.of(model.head, half)
    return objective.loss(hidden, head, knowledge, places, scale.to(context.device))


def _scale(rows: Sequence[Row], objective: SoftTargets, curriculum: Curriculum) -> Tensor:
    """[R]: what each row's loss sum is multiplied by, so that the sum over rows is the loss.

    One weighted mean per part (QA, LM); replay shares it, or has a mean of its own.
    """
    count = objective.count(positions(rows, curriculum.format.answer), len(rows))
    weight = torch.tensor([row.weight for row in rows])
    part_weight = {"qa": 1.0, "lm": curriculum.training.lm_weight}
    groups = [(row.part, curriculum.separate and row.is_replay) for row in rows]
    scale = torch.zeros(len(rows))
    for group in set(groups):
        inside = torch.tensor([one == group for one in groups])
        total = (weight * count)[inside].sum()
        if total > 0:
            scale[inside] = part_weight[group[0]] * weight[inside] / total
    return scale


def _optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW; biases and norms (below two dimensions) do not decay."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[getattr(parameter, "decays", parameter.ndim >= 2)].append(parameter)
    decay = {True: training.weight_decay, False: 0.0}
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay[decays]} for decays, group in groups.items()],
        lr=training.lr,
        eps=training.adam_eps,
        fused=True,
    )


def _schedule(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over the first `warmup` of the steps, then linearly down to 0."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (math.floor(rise) + 1)
    return (total - step) / (total - rise)


def _exchange(network: Network, *, last: bool) -> AbstractContextManager[None]:
    """Workers exchange gradients once a global batch, at its last part."""
    if last or isinstance(network, CausalLM):
        return nullcontext()
    return network.no_sync()  # type: ignore[no-any-return, unused-ignore]


def _wrap(model: CausalLM, context: Context) -> Network:
    return model if context.world_size == 1 else DistributedDataParallel(model)
