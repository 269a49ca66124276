"""The models that Meta-KD trains, and their per-example losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2kd_ray.core.randomness import generator
from l2kd_ray.distill.corruption import DomainCorruption, corruption_loss
from l2kd_ray.distill.cross_entropy import interpolate
from l2kd_ray.distill.intermediate import MetaDistillation
from l2kd_ray.distill.logits import label_loss
from l2kd_ray.distill.states import Outputs
from l2kd_ray.families.classifiers.model.classifier import Classifier
from l2kd_ray.families.classifiers.model.states import TokenizedTexts
from l2kd_ray.families.classifiers.stages.lessons import ExampleLoss, ItemRow, targets

_FEATURE = frozenset({"feature"})


class MetaTeacher(nn.Module):
    """A classifier whose features are also trained to predict a (corrupted) domain."""

    def __init__(self, classifier: Classifier, domains: int, seed: int) -> None:
        """Add a corruption layer to `classifier`, with weights drawn from `seed`."""
        super().__init__()
        _start(seed, "corruption")
        self.classifier = classifier
        self.corruption = DomainCorruption(domains, classifier.body.state_width)

    def forward(self, inputs: TokenizedTexts, head: str, domain: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits [B, C] and the domain logits [B, K]."""
        outputs = self.classifier(inputs, head, wanted=_FEATURE)
        _, domains = self.corruption(outputs.feature, domain)
        return outputs.logits, domains


@dataclass(frozen=True)
class TeachLoss(ExampleLoss):
    """The meta-teacher's loss CE_class + gamma1 CE_corrupt, both weighted by the example's
    weight."""

    corruption: float

    def losses(
        self, model: MetaTeacher, network: nn.Module, rows: Sequence[ItemRow], device: str
    ) -> Tensor:
        items = [row.item for row in rows]
        inputs = model.classifier.prepare([item.texts for item in items]).to(device)
        domain = torch.tensor([item.domain for item in items], device=device)
        logits, domains = network(inputs, items[0].head, domain)
        loss = label_loss(logits.float(), targets(items, logits.float()))
        if self.corruption > 0:
            false = torch.tensor([row.false_domain for row in rows], device=device)
            loss = loss + self.corruption * corruption_loss(domains.float(), false)
        return loss


class MetaStudent(nn.Module):
    """A classifier with the maps that compare its layers with its teacher's.

    `fit` [d_S, d_T] maps hidden states, `transfer_fit` transferable features; None if both models
    have the same width or nothing is compared.
    """

    def __init__(
        self,
        classifier: Classifier,
        teacher: Classifier,
        corruption: DomainCorruption | None,
        wanted: frozenset[str],
        seed: int,
    ) -> None:
        """Add the maps to `classifier`, with weights drawn from `seed`; `corruption` is the
        teacher's."""
        super().__init__()
        _start(seed, "maps")
        widths = classifier.body.state_width, teacher.body.state_width
        self.classifier, self.wanted = classifier, wanted
        self.corruption: DomainCorruption | None = None
        if corruption is not None:
            domains = corruption.embedding.num_embeddings
            self.corruption = DomainCorruption(domains, widths[0])
        self.fit = _map(widths, "hidden" in wanted)
        self.transfer_fit = _map(widths, corruption is not None)

    def forward(
        self, inputs: TokenizedTexts, head: str, domain: Tensor
    ) -> tuple[Outputs, Tensor | None, tuple[Tensor | None, Tensor | None]]:
        """Returns the classifier's outputs, its transferable features [B, d_S], and both maps."""
        outputs = self.classifier(inputs, head, wanted=self.wanted)
        maps = _copy(self.fit), _copy(self.transfer_fit)
        if self.corruption is None:
            return outputs, None, maps
        return outputs, self.corruption(outputs.feature, domain)[0], maps


@dataclass(frozen=True)
class DistilLoss(ExampleLoss):
    """w expertise * meta-distillation + (1 - w) * label loss, against a live teacher.

    The teacher is frozen and without dropout.
    """

    weight: float
    objective: MetaDistillation
    teacher: Classifier
    head: str
    """The teacher's head."""
    corruption: DomainCorruption | None

    def to(self, device: str) -> None:
        self.teacher.to(device).freeze()
        if self.corruption is not None:
            self.corruption.to(device).requires_grad_(False)

    def losses(
        self, model: MetaStudent, network: nn.Module, rows: Sequence[ItemRow], device: str
    ) -> Tensor:
        items = [row.item for row in rows]
        texts = [item.texts for item in items]
        inputs = model.classifier.prepare(texts).to(device)
        domain = torch.tensor([item.domain for item in items], device=device)
        student, own, (fit, transfer_fit) = network(inputs, items[0].head, domain)
        with torch.no_grad():
            teacher_inputs = self.teacher.prepare(texts).to(device)
            teacher = self.teacher(teacher_inputs, self.head, wanted=self.objective.wanted)
            theirs = None
            if self.corruption is not None:
                theirs = self.corruption(teacher.feature, domain)[0]
        both = None if own is None or theirs is None else (own, theirs)
        kd = self.objective.loss(student, teacher, both, fit=fit, transfer_fit=transfer_fit)
        kd = kd * torch.tensor([item.expertise for item in items], device=device)
        if self.weight == 1:
            return kd
        logits = student.logits.float()
        return interpolate(kd, label_loss(logits, targets(items, logits)), self.weight)


def _copy(parameter: nn.Parameter | None) -> Tensor | None:
    """A copy with a gradient path, since DDP takes parameters that no output depends on for
    unused."""
    return None if parameter is None else parameter.clone()


def _start(seed: int, what: str) -> None:
    torch.manual_seed(int(generator(seed, "initial", what).integers(2**63)))


def _map(widths: tuple[int, int], needed: bool) -> nn.Parameter | None:
    if not needed or widths[0] == widths[1]:
        return None
    return nn.Parameter(torch.randn(widths) * widths[0] ** -0.5)
