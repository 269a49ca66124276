"""Training checkpoints, saved by rank 0 between two steps without a collective operation.

Randomness is a function of (seed, stream, task, step), so no generator state is stored: the
parameters, the optimizer's moments and the number of steps are the whole state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from l2kd_ray.core.stage import Context, Stage


@dataclass
class Progress:
    """The steps done and the training curve so far.

    Losses stay tensors until they are read: converting each one would wait for the GPU at every
    step.
    """

    losses: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def step(self) -> int:
        return len(self.losses)

    def add(self, loss: Tensor, lr: float, tokens: int) -> None:
        self.losses.append(loss)
        self.rates.append(lr)
        self.tokens.append(tokens)

    def curve(self) -> list[dict[str, float]]:
        losses = torch.stack(self.losses).tolist() if self.losses else []
        return [
            {"step": step, "loss": loss, "lr": lr, "tokens": tokens}
            for step, (loss, lr, tokens) in enumerate(
                zip(losses, self.rates, self.tokens, strict=True), start=1
            )
        ]


def save(
    stage: Stage,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    context: Context,
) -> None:
    """Save the state as the stage's newest checkpoint in the store."""
    file = context.out.parent / "checkpoint"
    write(file, model, optimizer, progress)
    context.store.save_checkpoint(stage.kind, stage.key, progress.step, file)
    file.unlink()


def write(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write the training state to a file (safetensors)."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.named_parameters():
        tensors[f"model.{name}"] = value
        for moment, tensor in optimizer.state.get(value, {}).items():
            tensors[f"optimizer.{moment}.{name}"] = tensor
    tensors["losses"] = torch.stack(progress.losses)
    notes = {"rates": progress.rates, "tokens": progress.tokens}
    # The metadata of safetensors hold text only.
    save_file(tensors, file, metadata={name: json.dumps(value) for name, value in notes.items()})


def restore(
    stage: Stage, model: nn.Module, optimizer: torch.optim.Optimizer, context: Context
) -> Progress | None:
    """Load the newest complete checkpoint into model and optimizer; None if there is none."""
    file = context.out.parent / "checkpoint"
    if not context.store.load_checkpoint(stage.kind, stage.key, file):
        return None
    progress = read(file, model, optimizer, context.device)
    file.unlink()
    return progress


def read(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: str) -> Progress:
    """Load a training state from a file into the model and the optimizer."""
    with safe_open(file, framework="pt", device="cpu") as tensors, torch.no_grad():
        names = list(tensors.keys())
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors.get_tensor(f"model.{name}"))
            # Set directly: load_state_dict needs parameter indices, the file has parameter names.
            optimizer.state[parameter] = {
                key.split(".")[1]: tensors.get_tensor(key).to(parameter.device)
                for key in names
                if key.startswith("optimizer.") and key.split(".", 2)[2] == name
            }
        losses = list(tensors.get_tensor("losses").to(device).unbind())
        notes = {name: json.loads(value) for name, value in tensors.metadata().items()}
    return Progress(losses, **notes)
