"""Structural KD (Wang et al., ACL 2021): taggers and parsers, their scores, their training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from l2kd_ray.config import Metric, Training
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.stages.base import Context, Scores, Stage, TrainingStage
from l2kd_ray.stages.classifier import Labelled
from l2kd_ray.tasks import TaskData, score
from l2kd_ray.tasks.tagging import words

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.distill.structured.cases import Kind
    from l2kd_ray.distill.structured.objective import StructuralKD
    from l2kd_ray.distill.structured.structure import Structure
    from l2kd_ray.models.structured import StructuredModel
    from l2kd_ray.stages.sentences import Distilled, Sentence

SCORES = "scores.safetensors"
BATCH = 16


@dataclass(frozen=True, eq=False)
class UntrainedStructure(Stage):
    """A tagger or parser before any training: its labels and words are those of the tasks."""

    kind = "initial"
    head: Kind
    source: Pretrained | None
    """The encoder whose states are its features; None: words and characters."""
    architecture: Mapping[str, Any]
    tasks: tuple[Labelled, ...]
    seed: int
    vectors: Pretrained | None = None

    def run(self, context: Context) -> Scores:
        from l2kd_ray.models.structured import Architecture, build, label_set

        examples = {task.data.task: task.data.examples() for task in self.tasks}
        labels = {
            task.data.task: label_set(
                task.kind, (example.answers[0] for example in examples[task.data.task])
            )
            for task in self.tasks
        }
        known = {
            word for own in examples.values() for example in own for word in words(example.context)
        }
        model = build(
            Architecture(head=self.head, **self.architecture),
            labels,
            words=() if self.source else sorted(known),
            encoder=Path(self.source.location) if self.source else None,
            glove=Path(self.vectors.location) if self.vectors else None,
            seed=self.seed,
        )
        model.save(context.out)
        return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


@dataclass(frozen=True, eq=False)
class TeacherScores(Stage):
    """A teacher's scores of sentences: before any temperature, so that one stage serves all.

    File: `scores.safetensors`, flat and without padding (`structured.packing`).
    """

    kind = "annotate"
    teacher: Stage
    data: TaskData

    def run(self, context: Context) -> Scores:
        import torch
        from safetensors.torch import save_file

        from l2kd_ray.distill.structured.packing import pack

        model = load(self.teacher, context)
        sentences = [words(example.context) for example in self.data.examples()]

        def batches() -> Iterator[Structure]:  # one at a time: padded, they are large
            for start in range(0, len(sentences), BATCH):
                inputs = model.prepare(sentences[start : start + BATCH]).to(context.device)
                yield model(inputs, self.data.task)

        with torch.inference_mode():
            packed = {name: value.clone() for name, value in pack(batches()).items()}
        save_file(packed, context.out / SCORES)
        return {"sentences": len(sentences)}

    def load(self, context: Context) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(context.files_of(self) / SCORES)


def load(stage: Stage, context: Context) -> StructuredModel:
    """A model to be asked."""
    from l2kd_ray.models.structured import StructuredModel

    return StructuredModel.load(context.files_of(stage)).to(context.device).eval()


@dataclass(frozen=True)
class Distilling:
    """How a student learns from a teacher's scores."""

    case: str
    objective: Literal["structural", "token", "posterior", "top-k", "top-wk"]
    temperature: float
    weight: float
    anneal: float
    scope: Literal["global", "local"]
    k: int | None = None


@dataclass(frozen=True)
class Dev:
    """What early stopping looks at."""

    task: Labelled
    metric: Metric


@dataclass(frozen=True, eq=False)
class LearnStructure(TrainingStage):
    """`start` learns `tasks`, a task a mini-batch, from gold structures and a teacher's scores.

    Without effect is None or empty. `unlabelled` sentences have the teacher's scores alone.
    """

    kind = "learn"
    start: UntrainedStructure | LearnStructure
    tasks: tuple[Labelled, ...]
    training: Training
    seed: int
    scores: tuple[TeacherScores, ...] = ()
    """Of each task, then of the unlabelled sentences of each."""
    unlabelled: tuple[TaskData, ...] = ()
    distilling: Distilling | None = None
    dev: tuple[Dev, ...] = ()

    @property
    def place(self) -> str:
        """The name of its random streams."""
        return "+".join(task.data.task for task in self.tasks)

    def run(self, context: Context) -> Scores:
        from l2kd_ray.models.structured import StructuredModel
        from l2kd_ray.stages.loop import fit, write_curve
        from l2kd_ray.stages.sentences import Best, StructuredLessons

        model = StructuredModel.load(context.files_of(self.start))
        lessons = StructuredLessons(
            pools=self._pools(),
            distilled=self._distilled(model, context),
            anneal=self.distilling.anneal if self.distilling else 0.0,
            training=self.training,
            seed=self.seed,
            place=self.place,
        )
        watch = None
        if self.dev:
            watch = Best(self.training.patience or 1, lambda model: self._look(model, context))
        curve = fit(self, model, lessons, context, watch=watch)
        if context.rank == 0:
            model.save(context.out)
        return write_curve(curve, context)

    def _pools(self) -> dict[str, list[Sentence]]:
        """The sentences of each task: those with labels, then those without."""
        from l2kd_ray.stages.sentences import Sentence

        pools = {
            task.data.task: [
                Sentence(task.data.task, n, words(e.context), words(e.answers[0]))
                for n, e in enumerate(task.data.examples())
            ]
            for task in self.tasks
        }
        for data in self.unlabelled:
            pool = pools[data.task]
            pool += [
                Sentence(data.task, n, words(e.context), [])
                for n, e in enumerate(data.examples(), start=len(pool))
            ]
        return pools

    def _distilled(self, model: StructuredModel, context: Context) -> dict[str, Distilled]:
        """The teacher's scores of each task's sentences, and the loss against them."""
        from l2kd_ray.distill.structured.packing import join
        from l2kd_ray.stages.sentences import Distilled

        if self.distilling is None:
            return {}
        packs: dict[str, list[Mapping[str, Tensor]]] = {}
        for stage in self.scores:
            packs.setdefault(stage.data.task, []).append(stage.load(context))
        weight = self.distilling.weight
        return {
            task: Distilled(self._objective(model, task), weight, join(own))
            for task, own in packs.items()
        }

    def _objective(self, model: StructuredModel, task: str) -> StructuralKD[Any]:
        from l2kd_ray.distill.structured.cases import distillation
        from l2kd_ray.distill.structured.labelled import RelativeLabels

        kd = self.distilling
        assert kd is not None
        relative = RelativeLabels(model.labels[task]) if kd.case in ("1b", "2b") else None
        return distillation(
            kd.case, kd.objective, kd.temperature, labels=relative, k=kd.k or 1, scope=kd.scope
        )

    def _look(self, model: StructuredModel, context: Context) -> float:
        """The mean dev score."""
        found = []
        for dev in self.dev:
            examples = dev.task.data.examples()
            sentences = [words(example.context) for example in examples]
            said = tag(model, sentences, dev.task.data.task, context.device)
            found.append(score(dev.metric, said, examples)[0])
        return sum(found) / len(found)


@dataclass(frozen=True, eq=False)
class LearnStructures(LearnStructure):
    """All tasks at once: what students are measured against."""

    kind = "multitask"


def tag(model: StructuredModel, sentences: list[list[str]], task: str, device: str) -> list[str]:
    """The best labels of sentences, as answers have them."""
    import torch

    training, said = model.training, []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(sentences), BATCH):
            inputs = model.prepare(sentences[start : start + BATCH]).to(device)
            said += [" ".join(row) for row in model.decode(model(inputs, task), task)]
    model.train(training)
    return said
