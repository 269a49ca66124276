"""Training a classifier: on labels, on a teacher's logits, or on both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from l2kd_ray.config import Training
from l2kd_ray.stages.base import Context, Scores, Stage, TrainingStage
from l2kd_ray.stages.classifier import Labelled, Labels, Untrained, load_classifier

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.models.classifier import Classifier
    from l2kd_ray.stages.examples import Item
    from l2kd_ray.stages.loop import Curve

SHARED = "*"
"""The head, and the pool, of all domains."""
LOGITS = "logits.safetensors"
BATCH = 64


@dataclass(frozen=True, eq=False)
class Logits(Stage):
    """A classifier's logits for training examples: computed once, read by every student.

    File: `logits.safetensors`, a tensor [N, C] a task.
    """

    kind = "annotate"
    teacher: Stage
    tasks: tuple[Labelled, ...]

    def run(self, context: Context) -> Scores:
        from safetensors.torch import save_file

        model, _ = load_classifier(context.files_of(self.teacher))
        model.to(context.device).freeze()
        found = {task.data.task: logits(model, task, context.device) for task in self.tasks}
        save_file(found, context.out / LOGITS)
        return {"examples": sum(map(len, found.values()))}

    def load(self, context: Context) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(context.files_of(self) / LOGITS)


def logits(model: Classifier, task: Labelled, device: str) -> Tensor:
    """[N, C]: of a task's examples, in their order, in float32."""
    import torch

    examples = task.data.examples()
    head = head_of(model, task.data.task)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(examples), BATCH):
            texts = [task.texts(example) for example in examples[start : start + BATCH]]
            parts.append(model(model.prepare(texts).to(device), head).logits.float().cpu())
    return torch.cat(parts).clone()


def head_of(model: Classifier, task: str) -> str:
    """The task's own head, or the one that all domains share."""
    return task if task in model.heads else SHARED


@dataclass(frozen=True, eq=False)
class Classify(TrainingStage):
    """`start` learns `tasks`: together as one pool of examples, or one task a mini-batch.

    The file folder is that of a classifier, its labels, and `curve.json`, a row a step. Without
    effect is None: `taught`, the teachers' logits, and what goes with it.
    """

    kind = "learn"
    start: Untrained | Classify
    tasks: tuple[Labelled, ...]
    training: Training
    seed: int
    pooled: bool = False
    taught: tuple[Logits, ...] = ()
    weight: float | None = None
    """Of logit regression; the rest is the labels'."""
    over: Literal["mean", "sum"] | None = None

    @property
    def place(self) -> str:
        """The name of its random streams."""
        return "+".join(task.data.task for task in self.tasks)

    def run(self, context: Context) -> Scores:
        from l2kd_ray.stages.examples import ClassifierLessons, LabelLoss
        from l2kd_ray.stages.loop import fit

        model, labels = load_classifier(context.files_of(self.start))
        said = {k: v for stage in self.taught for k, v in stage.load(context).items()}
        items = self.items(labels, model, said)
        lessons = ClassifierLessons(
            pools={SHARED: [one for own in items.values() for one in own]}
            if self.pooled
            else items,
            objective=LabelLoss(self.weight or 0.0, self.over or "mean"),
            training=self.training,
            seed=self.seed,
            place=self.place,
        )
        curve = fit(self, model, lessons, context)
        return leave(model, labels, curve, context)

    def items(
        self, labels: Labels, model: Classifier, said: Mapping[str, Tensor]
    ) -> dict[str, list[Item]]:
        """The examples of each task as they are trained on."""
        from l2kd_ray.stages.examples import Item

        return {
            task.data.task: [
                Item(
                    texts=task.texts(example),
                    head=(head := head_of(model, task.data.task)),
                    target=labels.target(head, example.answers[0]),
                    domain=number,
                    taught=said[task.data.task][place] if task.data.task in said else None,
                )
                for place, example in enumerate(task.data.examples())
            ]
            for number, task in enumerate(self.tasks)
        }


@dataclass(frozen=True, eq=False)
class ClassifyAll(Classify):
    """All tasks at once, by labels: what students are measured against."""

    kind = "multitask"


def leave(model: Classifier, labels: Labels, curve: Curve, context: Context) -> Scores:
    """Leave the files of a trained classifier; its scores."""
    from l2kd_ray.stages.loop import write_curve

    if context.rank == 0:
        model.save(context.out)
        labels.save(context.out)
    return write_curve(curve, context)
