"""Lessons of a classifier: its training items, their batches, and the loss of each item.

Shapes: B examples in a global batch, all from one task (or pool); C outputs of its head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from l2kd_ray.core.randomness import generator
from l2kd_ray.distill.corruption import false_domains
from l2kd_ray.distill.cross_entropy import interpolate
from l2kd_ray.distill.logits import label_loss, logit_regression
from l2kd_ray.families.classifiers.model.classifier import Classifier
from l2kd_ray.families.mixture import Pooled, TaskBatch


@dataclass(frozen=True)
class Item:
    """A training example: its label (or number), its weights, and a teacher's logits for it."""

    texts: tuple[str, ...]
    head: str
    target: float
    domain: int = 0
    weight: float = 1.0
    expertise: float = 1.0
    """Weight of its distillation losses (Meta-KD)."""
    taught: Tensor | None = None
    """The teacher's logits [C]; None without a teacher."""


@dataclass(frozen=True)
class ItemRow:
    """An item in a batch, with the false domain drawn for domain corruption (`false_domains`)."""

    item: Item
    false_domain: int


class ExampleLoss(Protocol):
    """An objective: runs the models on rows of a batch and returns one loss per row."""

    def to(self, device: str) -> None:
        """Move the objective's models, if it has any, to the training's device."""
        return  # without it a type checker takes the method for abstract

    def losses(
        self, model: Any, network: nn.Module, rows: Sequence[ItemRow], device: str
    ) -> Tensor:
        """The losses [B] of rows that share a head."""


@dataclass(frozen=True)
class LabelLoss(ExampleLoss):
    """The loss w ||z_T - z_S||^2 + (1 - w) label loss (MKD: w = 1); w = 0 without a teacher."""

    weight: float = 0.0
    over: Literal["mean", "sum"] = "mean"
    scales: Mapping[str, float] = field(default_factory=dict)
    """Factors of the losses of some heads; of the others it is 1."""

    def losses(
        self, model: Classifier, network: nn.Module, rows: Sequence[ItemRow], device: str
    ) -> Tensor:
        items = [row.item for row in rows]
        inputs = model.prepare([item.texts for item in items]).to(device)
        logits = network(inputs, items[0].head).logits.float()
        loss = label_loss(logits, targets(items, logits))
        if self.weight > 0:
            taught = torch.stack([item.taught for item in items if item.taught is not None])
            kd = logit_regression(logits, taught.to(device), self.over)
            loss = interpolate(kd, loss, self.weight)
        return self.scales.get(items[0].head, 1.0) * loss


def targets(items: Sequence[Item], logits: Tensor) -> Tensor:
    """The targets [B]: class indices, or numbers if `logits` [B, C] has one column."""
    dtype = logits.dtype if logits.shape[-1] == 1 else torch.long
    return torch.tensor([item.target for item in items], device=logits.device).to(dtype)


@dataclass(frozen=True, kw_only=True)
class ClassifierLessons(Pooled):
    """Lessons on pools of items with one objective."""

    pools: Mapping[str, Sequence[Item]]
    objective: ExampleLoss
    by_weight: bool = True
    """True for the weighted mean of the losses, False for the mean of the weighted losses."""

    def to(self, device: str) -> None:
        self.objective.to(device)

    def batches(self, first_step: int) -> Iterator[TaskBatch]:
        return self.mixture.batches(first_step)

    def rows(self, batch: TaskBatch) -> list[ItemRow]:
        items = [self.pools[batch.task][index] for index in batch.examples]
        random = generator(self.seed, "false domains", self.stream, *batch.examples)
        false = false_domains(torch.tensor([item.domain for item in items]), random).tolist()
        return [ItemRow(item, domain) for item, domain in zip(items, false, strict=True)]

    def size(self, rows: Sequence[ItemRow]) -> int:
        """Number of words, since the number of tokens depends on the model's tokenizer."""
        return sum(len(text.split()) for row in rows for text in row.item.texts)

    def scale(self, rows: Sequence[ItemRow]) -> Tensor:
        weight = torch.tensor([row.item.weight for row in rows])
        total = weight.sum() if self.by_weight else torch.tensor(float(len(rows)))
        return weight / total if total > 0 else torch.zeros_like(weight)

    def loss(
        self, model: Any, network: nn.Module, rows: Sequence[ItemRow], scale: Tensor, device: str
    ) -> tuple[Tensor, Tensor]:
        half = self.precision == "bfloat16"
        with torch.autocast(device, torch.bfloat16, enabled=half):
            losses = self.objective.losses(model, network, rows, device)
        loss = (scale.to(device) * losses).sum()
        return loss, loss.new_empty(0)
