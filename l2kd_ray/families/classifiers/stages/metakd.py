"""Meta-KD (Pan et al., ACL 2021): prototype scores, the meta-teacher, meta-distillation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from l2kd_ray.core.stage import Context, Scores, Stage, TrainingStage
from l2kd_ray.families.classifiers.stages.learn import (
    SHARED,
    Classify,
    Logits,
    head_of,
    leave,
    outputs,
)
from l2kd_ray.families.classifiers.stages.start import Labels, Untrained, load_classifier
from l2kd_ray.families.examples import Labelled
from l2kd_ray.families.settings import Precision

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.distill.corruption import DomainCorruption
    from l2kd_ray.families.classifiers.model.classifier import Classifier
    from l2kd_ray.families.classifiers.stages.lessons import Item

_PROTOTYPES = "prototypes.safetensors"
_CORRUPTION = "corruption.safetensors"


@dataclass(frozen=True, eq=False)
class Prototypes(Stage):
    """Prototype scores: how typical each example is of its domain and of the others.

    The features are those of an untrained encoder. File: `prototypes.safetensors`, one tensor [N]
    per domain.
    """

    kind = "prototypes"
    model: Untrained
    tasks: tuple[Labelled, ...]
    centroid: Literal["domain_class", "domain"]
    others: Literal["mean_of_cosines", "cosine_of_mean"]
    alpha: float

    def run(self, context: Context) -> Scores:
        import torch
        from safetensors.torch import save_file

        from l2kd_ray.distill.prototypes import prototype_scores, typicality

        model, labels = load_classifier(context.files_of(self.model))
        model.to(context.device).freeze()
        found = [
            outputs(model, task, task.load(context), context.device, "feature")
            for task in self.tasks
        ]
        sizes = [len(features) for features in found]
        domain = torch.repeat_interleave(torch.arange(len(found)), torch.tensor(sizes))
        answers = [
            labels.target(head_of(model, task.task), example.answers[0])
            for task in self.tasks
            for example in task.load(context)
        ]
        by_class = torch.tensor(answers).long() if self.centroid == "domain_class" else None
        scores = prototype_scores(
            torch.cat(found), domain, by_class, alpha=self.alpha, others=self.others
        )
        parts = dict(zip(_names(self.tasks), scores.split(sizes), strict=True))
        save_file({name: part.clone() for name, part in parts.items()}, context.out / _PROTOTYPES)
        return {"below_zero": typicality(scores)[1], "mean": float(scores.mean())}

    def of(self, task: Labelled, context: Context) -> Tensor:
        """[N]: the scores of a task's examples, which may be a part of those that were scored."""
        import torch
        from safetensors.torch import load_file

        (whole,) = [one for one in self.tasks if one.task == task.task]
        index = {example.id: n for n, example in enumerate(whole.load(context))}
        chosen = [index[example.id] for example in task.load(context)]
        return load_file(context.files_of(self) / _PROTOTYPES)[task.task][torch.tensor(chosen)]


def _names(tasks: tuple[Labelled, ...]) -> list[str]:
    return [task.task for task in tasks]


@dataclass(frozen=True, eq=False, kw_only=True)
class MetaTeach(Classify):
    """A teacher of all domains, with examples weighted by prototype scores and domain corruption.

    Files: those of `Classify`, and `corruption.safetensors`, the transform of its features. The
    loss is the weighted mean of the examples' losses; with `raw` scores, which may sum to 0 or
    less, it is the mean of the weighted losses, as in the released code.
    """

    version = 4
    scores: Prototypes | None = None
    raw: bool = False
    corruption: float = 0.0

    def run(self, context: Context) -> Scores:
        from safetensors.torch import save_file

        from l2kd_ray.core.loop import fit
        from l2kd_ray.families.classifiers.stages.lessons import ClassifierLessons
        from l2kd_ray.families.classifiers.stages.meta_objectives import MetaTeacher, TeachLoss

        classifier, labels = load_classifier(context.files_of(self.start))
        model = MetaTeacher(classifier, len(self.tasks), self.seed)
        pool = [one for own in self.items(labels, classifier, {}, context).values() for one in own]
        if self.scores is not None:
            pool = self._weighed(pool, context)
        lessons = ClassifierLessons(
            pools={SHARED: pool},
            objective=TeachLoss(self.corruption),
            optimisation=self.optimisation,
            precision=self.precision,
            seed=self.seed,
            stream=self.stream,
            by_weight=not self.raw,
        )
        curve = fit(self, model, lessons, context)
        if context.rank == 0:
            save_file(model.corruption.state_dict(), context.out / _CORRUPTION)
        return leave(model.classifier, labels, lessons, curve, context)

    def _weighed(self, pool: list[Item], context: Context) -> list[Item]:
        import torch

        from l2kd_ray.distill.prototypes import typicality

        assert self.scores is not None
        scores = torch.cat([self.scores.of(task, context) for task in self.tasks])
        weights = typicality(scores, raw=self.raw)[0].tolist()
        return [replace(one, weight=weight) for one, weight in zip(pool, weights, strict=True)]


def load_corruption(folder: Path, domains: int, width: int) -> DomainCorruption:
    from safetensors.torch import load_file

    from l2kd_ray.distill.corruption import DomainCorruption

    found = DomainCorruption(domains, width)
    found.load_state_dict(load_file(folder / _CORRUPTION))
    return found


@dataclass(frozen=True)
class Losses:
    """Weights of meta-distillation's losses, and the temperature of the prediction loss."""

    hidden: float
    attention: float
    transfer: float
    prediction: float
    temperature: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class MetaDistil(TrainingStage):
    """Distil a teacher's layers, transferable features and predictions on a domain into `start`.

    `weight` is w in w * distillation losses + (1 - w) * label loss. `expertise` are the teacher's
    logits for the domain's examples; with the prototype scores they give the examples' weights in
    the distillation losses. Files: those of `Classify`.
    """

    kind = "learn"
    version = 3
    start: Untrained | MetaDistil
    task: Labelled
    precision: Precision = "float32"
    teacher: Classify
    weight: float
    losses: Losses
    scores: Prototypes | None = None
    expertise: Logits | None = None

    @property
    def stream(self) -> str:
        """The name of this training's random streams."""
        return self.task.task

    @property
    def tasks(self) -> tuple[Labelled, ...]:
        return (self.task,)

    @property
    def rows(self) -> int:
        return self.task.source.rows

    def run(self, context: Context) -> Scores:
        from l2kd_ray.core.loop import fit
        from l2kd_ray.distill.intermediate import MetaDistillation
        from l2kd_ray.families.classifiers.stages.lessons import ClassifierLessons
        from l2kd_ray.families.classifiers.stages.meta_objectives import DistilLoss, MetaStudent

        classifier, labels = load_classifier(context.files_of(self.start))
        folder = context.files_of(self.teacher)
        teacher, _ = load_classifier(folder)
        corruption = None
        if self.losses.transfer > 0:
            domains = len(self.teacher.tasks)
            corruption = load_corruption(folder, domains, teacher.body.state_width)
        temperature = self.losses.temperature or 1.0
        objective = MetaDistillation(**{**vars(self.losses), "temperature": temperature})
        model = MetaStudent(classifier, teacher, corruption, objective.wanted, self.seed)
        lessons = ClassifierLessons(
            pools={self.stream: self._items(labels, classifier, context)},
            objective=DistilLoss(
                self.weight, objective, teacher, head_of(teacher, self.stream), corruption
            ),
            optimisation=self.optimisation,
            precision=self.precision,
            seed=self.seed,
            stream=self.stream,
        )
        curve = fit(self, model, lessons, context)
        return leave(model.classifier, labels, lessons, curve, context)

    def _items(self, labels: Labels, model: Classifier, context: Context) -> list[Item]:
        """The domain's training items with their weights.

        A domain that the teacher was trained without gets the index of the first domain.
        """
        from l2kd_ray.families.classifiers.stages.lessons import Item

        names = _names(self.teacher.tasks)
        domain = names.index(self.stream) if self.stream in names else 0
        head = head_of(model, self.stream)
        examples = self.task.load(context)
        items = [
            Item(self.task.texts(e), head, labels.target(head, e.answers[0]), domain)
            for e in examples
        ]
        if self.expertise is None:
            return items
        weights = self._weights(items, context)
        return [replace(one, expertise=own) for one, own in zip(items, weights, strict=True)]

    def _weights(self, items: list[Item], context: Context) -> list[float]:
        import torch

        from l2kd_ray.distill.prototypes import expertise

        assert self.expertise is not None
        logits = self.expertise.load(context)[self.stream]
        target = torch.tensor([item.target for item in items]).long()
        probability = logits.softmax(-1).gather(1, target[:, None]).squeeze(1)
        scores = self.scores.of(self.task, context) if self.scores else torch.zeros(len(items))
        weights: list[float] = expertise(scores, probability).tolist()
        return weights
