"""The one training loop: every teacher, student and multi-task bound goes through it.

R rows of tokens in a global batch, P supervised positions. A sample gives a QA row and, where the
LM loss is on, an LM row. The global batch is the setting: workers and accumulation steps share
its rows, and each row's loss is divided by the count of the *global* batch, which every worker
knows before any forward pass. So the sum of the parts is the whole, and no counts are exchanged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from l2kd_ray.config import Training
from l2kd_ray.distill.objectives import Positions, SoftTargets
from l2kd_ray.models.causal_lm import CausalLM, pad_right
from l2kd_ray.models.sequences import Sample, SequenceFormat, TrainingSequence
from l2kd_ray.stages.base import Context, Stage, generator
from l2kd_ray.stages.checkpoint import Progress, restore, save

Curve = list[dict[str, float]]
Network = CausalLM | DistributedDataParallel


@dataclass(frozen=True)
class Curriculum:
    """What is learnt: new samples, replayed ones, and how the loop weighs them."""

    samples: Sequence[Sample]
    replayed: Sequence[Sample]
    replay_weight: str | float
    format: SequenceFormat
    training: Training
    seed: int
    place: str
    """Name of the random streams: the task, so that methods on one instance see one order."""

    def __len__(self) -> int:
        return len(self.samples) + len(self.replayed)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self) / self.training.batch_size)

    def batches(self, first_step: int) -> Iterator[list[int]]:
        """The samples of each global batch, from a step on."""
        size = self.training.batch_size
        for epoch in range(first_step // self.steps_per_epoch, self.training.epochs):
            order = generator(self.seed, "shuffle", self.place, epoch).permutation(len(self))
            for step in range(self.steps_per_epoch):
                if epoch * self.steps_per_epoch + step >= first_step:
                    yield order[step * size : (step + 1) * size].tolist()

    def rows(self, batch: Sequence[int]) -> list[Row]:
        """The QA rows of the samples, then their LM rows."""
        new = len(self.samples)
        samples = [
            (index, self.samples[index] if index < new else self.replayed[index - new])
            for index in batch
        ]
        rows = [Row(self.format.qa(sample), "qa", index >= new) for index, sample in samples]
        if self.training.lm_weight > 0:
            rows += [Row(self.format.lm(sample), "lm", index >= new) for index, sample in samples]
        return rows


@dataclass(frozen=True)
class Row:
    """One sequence of a batch, the part of the loss that it bears, and whether it is replayed."""

    sequence: TrainingSequence
    part: Literal["qa", "lm"]
    is_replay: bool


def fit(
    stage: Stage,
    model: CausalLM,
    teacher: CausalLM | None,
    objective: SoftTargets,
    curriculum: Curriculum,
    context: Context,
) -> Curve:
    """Train `model` in place; resumes from the stage's newest checkpoint.

    Returns a row a step: step, loss (of the global batch), lr.
    Raises: FloatingPointError where the loss is not finite.
    """
    training = curriculum.training
    model.to(context.device).train()
    if teacher is not None:
        teacher.to(context.device).freeze()
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
        loss = _accumulate(network, teacher, objective, rows, curriculum, context)
        norm = nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        progress.add(loss, lr)
        due = context.rank == 0 and time.monotonic() - saved > context.checkpoint_seconds
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


def _accumulate(
    network: Network,
    teacher: CausalLM | None,
    objective: SoftTargets,
    rows: Sequence[Row],
    curriculum: Curriculum,
    context: Context,
) -> Tensor:
    """Gradients of the global batch's loss, forward by forward; returns that loss (detached)."""
    scale = _scale(rows, objective, curriculum)
    mine = list(range(context.rank, len(rows), context.world_size)) or [0]
    if context.rank >= len(rows):  # no row is left for this worker, but it takes part
        scale = torch.zeros_like(scale)
    rows_a_sample = 2 if curriculum.training.lm_weight > 0 else 1
    size = (curriculum.training.micro_batch or len(rows)) * rows_a_sample
    parts = [mine[start : start + size] for start in range(0, len(mine), size)]
    loss = torch.zeros((), device=context.device)
    for number, part in enumerate(parts):
        with _exchange(network, last=number == len(parts) - 1):
            partial = _forward(network, teacher, objective, rows, part, scale, curriculum, context)
            # DDP averages over workers; the parts of the global batch are to be summed.
            (partial * context.world_size).backward()
        loss += partial.detach()
    if context.world_size > 1:
        dist.all_reduce(loss)
    return loss


def _forward(
    network: Network,
    teacher: CausalLM | None,
    objective: SoftTargets,
    rows: Sequence[Row],
    part: Sequence[int],
    scale: Tensor,
    curriculum: Curriculum,
    context: Context,
) -> Tensor:
    """The share of the global batch's loss that the rows of `part` bear."""
    chosen = [rows[index] for index in part]
    eos = curriculum.format.eos
    input_ids = pad_right([row.sequence.tokens for row in chosen], eos).to(context.device)
    positions, flat = _positions(chosen, input_ids.shape[1], curriculum.format.answer)
    positions, flat = positions.to(context.device), flat.to(context.device)
    half = curriculum.training.precision == "bfloat16"
    knowledge = None
    with torch.autocast(context.device, torch.bfloat16, enabled=half):
        if teacher is not None and bool(positions.distilled.any()):
            with torch.no_grad():
                knowledge = teacher(input_ids, flat[positions.distilled]).float()
        logits = network(input_ids, flat).float()
    sums = objective.sum(logits, knowledge, positions)
    return (scale[list(part)].to(context.device) * sums).sum()


def _scale(rows: Sequence[Row], objective: SoftTargets, curriculum: Curriculum) -> Tensor:
    """[R]: what each row's loss sum is multiplied by, so that the sum over rows is the loss.

    One mean per part (QA, LM); replay shares it (`natural`, or counted `number` times), or has a
    mean of its own (`separate`).
    """
    positions, _ = _positions(rows, 0, curriculum.format.answer)
    count = objective.count(positions)
    separate = curriculum.replay_weight == "separate"
    times = curriculum.replay_weight if isinstance(curriculum.replay_weight, float) else 1.0
    weight = torch.tensor([times if row.is_replay else 1.0 for row in rows])
    part_weight = {"qa": 1.0, "lm": curriculum.training.lm_weight}
    groups = [(row.part, separate and row.is_replay) for row in rows]
    scale = torch.zeros(len(rows))
    for group in set(groups):
        inside = torch.tensor([one == group for one in groups])
        total = (weight * count)[inside].sum()
        if total > 0:
            scale[inside] = part_weight[group[0]] * weight[inside] / total
    return scale


def _positions(rows: Sequence[Row], width: int, answer: int) -> tuple[Positions, Tensor]:
    """The supervised positions of rows padded to `width`; their flat indices [P] in [R, width].

    The position before a token is the one that predicts it.
    """
    target: list[int] = []
    row_of: list[int] = []
    flat: list[int] = []
    for number, row in enumerate(rows):
        tokens, start = row.sequence.tokens, row.sequence.supervised
        target += tokens[start:]
        row_of += [number] * (len(tokens) - start)
        flat += range(number * width + start - 1, number * width + len(tokens) - 1)
    targets, owner = torch.tensor(target), torch.tensor(row_of)
    distilled = torch.tensor([not row.is_replay for row in rows])[owner]
    return Positions(targets, owner, targets == answer, distilled, len(rows)), torch.tensor(flat)


def _optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW; biases and norms (below two dimensions) do not decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in parameters if parameter.ndim >= 2],
            "weight_decay": training.weight_decay,
        },
        {
            "params": [parameter for parameter in parameters if parameter.ndim < 2],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(groups, lr=training.lr, eps=training.adam_eps, fused=True)


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
