"""Training checkpoints, saved between two steps: by rank 0, or each worker's chunk of the model.

Rank 0 alone saves without a collective operation. A model that is shared out is saved by all
workers, a file each, and read by any number of them: the files' rows follow one another. (torch's
own distributed checkpoint keeps its index as a pickle, which is never read from the store.)

Randomness is a function of (seed, stream, task, step), so no generator state is stored: the
parameters, the optimizer's moments, the number of steps and what the lessons remember are the whole
state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from l2kd_ray.core.manifest import FileRecord
from l2kd_ray.core.shard import chunk, chunk_of, whole
from l2kd_ray.core.stage import Context, Stage

_LESSONS = "lessons."


@dataclass
class Progress:
    """The steps done and the training curve so far.

    Losses stay tensors until they are read: converting each one would wait for the GPU at every
    step.
    """

    losses: list[Tensor] = field(default_factory=list)
    """[1 + K + 1] of each step: the loss, its terms, the norm of the gradient."""
    rates: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def step(self) -> int:
        return len(self.losses)

    def add(self, losses: Tensor, lr: float, tokens: int) -> None:
        self.losses.append(losses)
        self.rates.append(lr)
        self.tokens.append(tokens)

    def curve(self, names: Sequence[str]) -> list[dict[str, float]]:
        """A row for each step; `names` are those of its losses."""
        losses = torch.stack(self.losses).tolist() if self.losses else []
        return [
            {"step": step, **dict(zip(names, row, strict=True)), "lr": lr, "tokens": tokens}
            for step, (row, lr, tokens) in enumerate(
                zip(losses, self.rates, self.tokens, strict=True), start=1
            )
        ]


class Stateful(Protocol):
    """A part of the lessons that changes during a training, and so belongs to its checkpoints."""

    def state(self) -> Mapping[str, Tensor]:
        """The tensors to keep, by names that no other part has."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take back the tensors of `state`, in which other parts' are, too."""


def save(
    stage: Stage,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    context: Context,
    stateful: Sequence[Stateful] = (),
    name: str | None = None,
) -> None:
    """Save the state as the stage's newest checkpoint in the store.

    With a `name`, this worker's part of the checkpoint of that name: then all workers call it.
    """
    file, store, where = context.out.parent / "checkpoint", context.store, (stage.kind, stage.key)
    _write(file, state(model, optimizer, progress, stateful, chunk), progress)
    if name is None:
        store.save_checkpoint(*where, progress.step, file)
    else:
        parts: list[Any] = [None] * context.world_size
        # It returns when all parts are stored.
        dist.all_gather_object(parts, store.save_part(*where, name, context.rank, file))
        if context.rank == 0:
            store.complete_checkpoint(*where, name, parts)
    file.unlink()


def write(
    file: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    context: Context,
    stateful: Sequence[Stateful] = (),
) -> None:
    """Write the whole training state to a file (safetensors); all workers call it."""
    found = state(model, optimizer, progress, stateful, whole)
    if context.rank == 0:
        _write(file, found, progress)


def state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    stateful: Sequence[Stateful],
    part: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The tensors of a training's state by name; `part` of each parameter and moment."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.named_parameters():
        tensors[f"model.{name}"] = part(value.detach())
        for moment, tensor in optimizer.state.get(value, {}).items():
            tensors[f"optimizer.{moment}.{name}"] = part(tensor)
    for one in stateful:
        tensors |= {f"{_LESSONS}{name}": value for name, value in one.state().items()}
    tensors["losses"] = torch.stack(progress.losses)
    return tensors


def _write(file: Path, tensors: dict[str, Tensor], progress: Progress) -> None:
    notes = {"rates": progress.rates, "tokens": progress.tokens}
    # The metadata of safetensors hold text only.
    save_file(tensors, file, metadata={name: json.dumps(value) for name, value in notes.items()})


def restore(
    stage: Stage,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    context: Context,
    stateful: Sequence[Stateful] = (),
) -> Progress | None:
    """Load the newest complete checkpoint into model and optimizer; None if there is none.

    Raises: RuntimeError if the workers have found different ones, so that their group starts again.
    """
    file = context.out.parent / "checkpoint"
    files = context.store.load_checkpoint(stage.kind, stage.key, file)
    if context.world_size > 1:
        found: list[Any] = [None] * context.world_size
        # Each looks by itself. DDP sends rank 0's weights around, but neither moments nor steps.
        dist.all_gather_object(found, [FileRecord.of(one) for one in files])
        if any(one != found[0] for one in found):
            raise RuntimeError("the workers of a training have found different checkpoints")
    if not files:
        return None
    progress = read(files, model, optimizer, context.device, stateful)
    for one in files:
        one.unlink()
    return progress


def read(
    files: Sequence[Path],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: str,
    stateful: Sequence[Stateful] = (),
) -> Progress:
    """Load a training state; `files` hold the parts of model and optimizer in turn."""
    with ExitStack() as opened, torch.no_grad():
        parts = [opened.enter_context(safe_open(file, framework="pt")) for file in files]
        names = list(parts[0].keys())
        for name, parameter in model.named_parameters():
            chunk(parameter).copy_(_mine(f"model.{name}", parts, parameter))
            # Set directly: load_state_dict needs parameter indices, the file has parameter names.
            optimizer.state[parameter] = {
                key.split(".")[1]: _moment(_mine(key, parts, parameter), parameter)
                for key in names
                if key.startswith("optimizer.") and key.split(".", 2)[2] == name
            }
        held = [name for name in names if name.startswith(_LESSONS)]
        kept = {name.removeprefix(_LESSONS): parts[0].get_tensor(name) for name in held}
        for one in stateful:
            one.load(kept)
        losses = list(parts[0].get_tensor("losses").to(device).unbind())
        notes = {name: json.loads(value) for name, value in parts[0].metadata().items()}
    return Progress(losses, **notes)


def _mine(name: str, parts: Sequence[Any], parameter: Tensor) -> Tensor:
    """This worker's rows of a stored tensor; a number is stored by each worker."""
    first: Tensor = parts[0].get_tensor(name)
    if first.ndim == 0:
        return first
    rows = [first, *(part.get_tensor(name) for part in parts[1:])]
    return chunk_of(torch.cat(rows) if len(rows) > 1 else first, parameter)


def _moment(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment of the optimizer, shared out as its parameter is."""
    value = value.to(chunk(parameter).device)
    if value.ndim == 0 or not hasattr(parameter, "to_local"):
        return value
    from torch.distributed.tensor import DTensor

    given: Any = parameter
    local: Tensor = DTensor.from_local(
        value, given.device_mesh, given.placements, shape=given.shape, stride=given.stride()
    )
    return local
