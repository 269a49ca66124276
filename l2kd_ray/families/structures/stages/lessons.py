"""Lessons of a tagger or parser: its sentences, their batches, and the loss of each sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2kd_ray.core.loop import agreed
from l2kd_ray.distill.cross_entropy import interpolate
from l2kd_ray.distill.structured.objective import (
    StructuralKD,
    annealed_weight,
    negative_log_likelihood,
)
from l2kd_ray.distill.structured.packing import to, unpack
from l2kd_ray.distill.structured.structure import Structure
from l2kd_ray.families.mixture import Pooled, TaskBatch
from l2kd_ray.families.structures.model.structured import StructuredModel


@dataclass(frozen=True)
class Sentence:
    """Words and gold labels (empty if unlabelled); `index` is the sentence's index in its task."""

    task: str
    index: int
    words: list[str]
    labels: list[str]


@dataclass(frozen=True)
class SentenceRow:
    """A sentence in a batch, and the weight of distillation in that batch."""

    sentence: Sentence
    weight: float


@dataclass(frozen=True)
class Distilled:
    """A teacher's scores of a task's sentences, and the distillation loss against them."""

    objective: StructuralKD
    weight: float
    packed: Mapping[str, Tensor]

    def loss(self, student: Structure, indices: Sequence[int], device: str) -> Tensor:
        """The losses [B] of a batch of sentences, given by their indices in the task."""
        rows = unpack(self.packed, indices)
        return self.objective.loss(student, self.objective.targets(to(rows, device)))


@dataclass(frozen=True, kw_only=True)
class StructuredLessons(Pooled):
    """Lessons on the sentences of each task, with one loss per sentence (Wang et al. 2021).

    The weight of distillation is annealed from step to step; where it is 0, and for tasks without
    a teacher, the loss is the negative log-likelihood.
    """

    pools: Mapping[str, Sequence[Sentence]]
    distilled: Mapping[str, Distilled]
    anneal: float

    def to(self, device: str) -> None:
        """Do nothing: the teacher's scores are moved batch by batch."""

    def batches(self, first_step: int) -> Iterator[tuple[int, TaskBatch]]:
        """The batches from a step on, each with the number of its step."""
        return enumerate(self.mixture.batches(first_step), start=first_step)

    def rows(self, batch: tuple[int, TaskBatch]) -> list[SentenceRow]:
        step, chosen = batch
        distilled = self.distilled.get(chosen.task)
        weight = 0.0
        if distilled is not None:  # the paper's schedule counts 100 epochs
            total = self.optimisation.total_steps(self.steps_per_epoch)
            weight = distilled.weight * annealed_weight(100 * step / total, self.anneal)
        sentences = [self.pools[chosen.task][index] for index in chosen.examples]
        return [SentenceRow(sentence, weight) for sentence in sentences]

    def size(self, rows: Sequence[SentenceRow]) -> int:
        return sum(len(row.sentence.words) for row in rows)

    def scale(self, rows: Sequence[SentenceRow]) -> Tensor:
        return torch.full((len(rows),), 1 / len(rows))

    def loss(
        self,
        model: StructuredModel,
        network: nn.Module,
        rows: Sequence[SentenceRow],
        scale: Tensor,
        device: str,
    ) -> tuple[Tensor, Tensor]:
        task = rows[0].sentence.task
        distilled = self.distilled.get(task)
        chosen = [row.sentence for row in rows]
        inputs = model.prepare([s.words for s in chosen]).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            structure = network(inputs, task)
        longest = max(len(sentence.words) for sentence in chosen)
        gold = model.encode_gold([s.labels for s in chosen], task, longest).to(device)
        losses = negative_log_likelihood(structure, gold)
        labelled = torch.tensor([bool(sentence.labels) for sentence in chosen], device=device)
        if distilled is not None and (rows[0].weight > 0 or not labelled.all()):
            kd = distilled.loss(structure, [sentence.index for sentence in chosen], device)
            losses = interpolate(kd, losses, rows[0].weight, labelled)
        loss = (scale.to(device) * losses).sum()
        return loss, loss.new_empty(0)


class Best:
    """Early stopping after `patience` epochs without a better dev score; keeps the best weights."""

    def __init__(self, patience: int, look: Callable[[StructuredModel], float]) -> None:
        self.patience, self.look = patience, look
        self.score, self.waited = -1.0, 0
        self.weights: dict[str, Tensor] = {}

    def ends(self, model: StructuredModel) -> bool:
        # Each worker looks for itself, and a GPU may round in another way.
        score = agreed(self.look(model))
        self.waited += 1
        if score > self.score:
            self.score, self.waited = score, 0
            self.weights = {name: one.clone() for name, one in model.state_dict().items()}
        return self.waited >= self.patience

    def restore(self, model: StructuredModel) -> None:
        model.load_state_dict(self.weights)
