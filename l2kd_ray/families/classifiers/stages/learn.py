"""Training a classifier: on labels, on a teacher's logits, or on both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import pstdev
from typing import TYPE_CHECKING, Literal

from l2kd_ray.core.stage import Context, Scores, Stage, TrainingStage
from l2kd_ray.families.classifiers.stages.start import Labels, Untrained, load_classifier
from l2kd_ray.families.cut import cut_scores
from l2kd_ray.families.examples import Labelled
from l2kd_ray.families.settings import Precision
from l2kd_ray.tasks import Example

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.core.loop import Curve
    from l2kd_ray.families.classifiers.model.classifier import Classifier
    from l2kd_ray.families.classifiers.stages.lessons import ClassifierLessons, Item

SHARED = "*"
"""The name of the head and of the pool that all domains share."""
_LOGITS = "logits.safetensors"
FORWARD_BATCH = 64


@dataclass(frozen=True, eq=False)
class Logits(Stage):
    """A teacher's logits for training examples, computed once and read by every student.

    File: `logits.safetensors`, one tensor [N, C] per task.
    """

    kind = "annotate"
    teacher: Stage
    tasks: tuple[Labelled, ...]

    def run(self, context: Context) -> Scores:
        from safetensors.torch import save_file

        model, _ = load_classifier(context.files_of(self.teacher))
        model.to(context.device).freeze()
        found = {
            task.task: outputs(model, task, task.load(context), context.device)
            for task in self.tasks
        }
        save_file(found, context.out / _LOGITS)
        return {"examples": sum(map(len, found.values()))}

    def load(self, context: Context) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(context.files_of(self) / _LOGITS)


def outputs(
    model: Classifier,
    task: Labelled,
    examples: Sequence[Example],
    device: str,
    name: Literal["logits", "feature"] = "logits",
) -> Tensor:
    """A classifier's logits [N, C], or features [N, d], for a task's examples, in float32."""
    import torch

    head, wanted, parts = head_of(model, task.task), frozenset({name}) - {"logits"}, []
    with torch.inference_mode():
        for start in range(0, len(examples), FORWARD_BATCH):
            texts = [task.texts(example) for example in examples[start : start + FORWARD_BATCH]]
            found = model(model.prepare(texts).to(device), head, wanted=wanted)
            parts.append(getattr(found, name).float().cpu())
    return torch.cat(parts).clone()


def head_of(model: Classifier, task: str) -> str:
    """The name of the task's own head, or of the one that all domains share."""
    return task if task in model.heads else SHARED


def _range(numbers: Sequence[float]) -> float:
    return max(numbers) - min(numbers)


@dataclass(frozen=True, eq=False, kw_only=True)
class Classify(TrainingStage):
    """Train `start` on `tasks`, as one pool of examples or with one task per mini-batch.

    Files: those of a classifier, its labels, and `curve.json` with one row per step. Without
    teachers, `taught` (their logits) is empty and the fields that belong to it are None.
    """

    kind = "learn"
    version = 3
    start: Untrained | Classify
    tasks: tuple[Labelled, ...]
    precision: Precision = "float32"
    pooled: bool = False
    taught: tuple[Logits, ...] = ()
    weight: float | None = None
    """Weight w of logit regression; the label loss has weight 1 - w."""
    over: Literal["mean", "sum"] | None = None
    unit: Literal["std", "range"] | None = None
    """Unit of regressions' squared errors; None for the unit of their labels."""

    @property
    def rows(self) -> int:
        return sum(task.source.rows for task in self.tasks)

    @property
    def stream(self) -> str:
        """The name of this training's random streams."""
        return "+".join(task.task for task in self.tasks)

    def run(self, context: Context) -> Scores:
        from l2kd_ray.core.loop import fit
        from l2kd_ray.families.classifiers.stages.lessons import ClassifierLessons, LabelLoss

        model, labels = load_classifier(context.files_of(self.start))
        taught = {k: v for stage in self.taught for k, v in stage.load(context).items()}
        items = self.items(labels, model, taught, context)
        shared = {SHARED: list(chain.from_iterable(items.values()))}
        lessons = ClassifierLessons(
            pools=shared if self.pooled else items,
            objective=LabelLoss(
                self.weight or 0.0, self.over or "mean", self._scales(labels, items)
            ),
            optimisation=self.optimisation,
            precision=self.precision,
            seed=self.seed,
            stream=self.stream,
        )
        curve = fit(self, model, lessons, context)
        return leave(model, labels, lessons, curve, context)

    def _scales(self, labels: Labels, items: Mapping[str, list[Item]]) -> dict[str, float]:
        """The factor 1 / unit^2 of the loss of each head that is a regression."""
        numbers: dict[str, list[float]] = {}
        for item in chain.from_iterable(items.values() if self.unit else ()):
            if not labels.of_head[item.head]:
                numbers.setdefault(item.head, []).append(item.target)
        size = pstdev if self.unit == "std" else _range
        # All labels alike have no spread, and any unit will do.
        return {head: 1 / (size(own) or 1.0) ** 2 for head, own in numbers.items()}

    def items(
        self, labels: Labels, model: Classifier, taught: Mapping[str, Tensor], context: Context
    ) -> dict[str, list[Item]]:
        """The training items of each task (or pool), with the teachers' logits."""
        from l2kd_ray.families.classifiers.stages.lessons import Item

        return {
            task.task: [
                Item(
                    texts=task.texts(example),
                    head=(head := head_of(model, task.task)),
                    target=labels.target(head, example.answers[0]),
                    domain=number,
                    taught=taught[task.task][index] if task.task in taught else None,
                )
                for index, example in enumerate(task.load(context))
            ]
            for number, task in enumerate(self.tasks)
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassifyAll(Classify):
    """The multi-task bound: training on all tasks at once, from labels."""

    kind = "multitask"
    default_seconds = 3000.0


def leave(
    model: Classifier, labels: Labels, lessons: ClassifierLessons, curve: Curve, context: Context
) -> Scores:
    """Write the files of a trained classifier; returns the training's scores, and what was cut."""
    from l2kd_ray.core.loop import write_curve

    if context.rank == 0:
        model.save(context.out)
        labels.save(context.out)
    pools = lessons.pools.values()
    excess = (model.body.excess([item.texts for item in pool]) for pool in pools)
    return {**write_curve(curve, context), **cut_scores(chain.from_iterable(excess))}
