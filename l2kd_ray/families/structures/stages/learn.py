"""Structural KD (Wang et al., ACL 2021): taggers and parsers, their scores, their training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from l2kd_ray.core.stage import Context, Scores, Stage, TrainingStage
from l2kd_ray.distill.structured.case_table import CASES, Objective
from l2kd_ray.families.cut import PREFIX, cut_scores
from l2kd_ray.families.examples import Examples, Labelled
from l2kd_ray.families.settings import Precision
from l2kd_ray.families.structures.stages.start import UntrainedStructure
from l2kd_ray.tasks import score
from l2kd_ray.tasks.spec import Metric
from l2kd_ray.tasks.tagging import words

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.distill.structured.objective import StructuralKD
    from l2kd_ray.distill.structured.structure import Structure
    from l2kd_ray.families.structures.model.structured import StructuredModel
    from l2kd_ray.families.structures.stages.lessons import Distilled, Sentence

_SCORES = "scores.safetensors"
_BATCH = 16


@dataclass(frozen=True, eq=False)
class TeacherScores(Stage):
    """A teacher's scores of sentences, untempered, so that one stage serves all temperatures.

    File: `scores.safetensors`, flat and without padding (`structured.packing`).
    """

    kind = "annotate"
    default_bytes = 2e8
    teacher: Stage
    examples: Examples

    def run(self, context: Context) -> Scores:
        import torch
        from safetensors.torch import save_file

        from l2kd_ray.distill.structured.packing import pack

        model = load(self.teacher, context)
        sentences = [words(example.context) for example in self.examples.load(context)]

        def batches() -> Iterator[Structure]:  # one at a time: padded, they are large
            for start in range(0, len(sentences), _BATCH):
                inputs = model.prepare(sentences[start : start + _BATCH]).to(context.device)
                yield model(inputs, self.examples.task)

        with torch.inference_mode():
            packed = {name: value.clone() for name, value in pack(batches()).items()}
        save_file(packed, context.out / _SCORES)
        return {"sentences": len(sentences)}

    def load(self, context: Context) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(context.files_of(self) / _SCORES)


def load(stage: Stage, context: Context) -> StructuredModel:
    """Load a stage's model for inference, on the context's device."""
    from l2kd_ray.families.structures.model.structured import StructuredModel

    return StructuredModel.load(context.files_of(stage)).to(context.device).eval()


@dataclass(frozen=True)
class Distilling:
    """Settings of distillation from a teacher's scores."""

    case: str
    objective: Objective
    temperature: float
    weight: float
    anneal: float
    scope: Literal["global", "local"]
    k: int | None = None


@dataclass(frozen=True)
class Dev:
    """A dev set that early stopping scores, and its metric."""

    task: Labelled
    metric: Metric


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnStructure(TrainingStage):
    """Train `start` on `tasks`, one per mini-batch, from gold structures and a teacher's scores.

    Fields without effect are None or empty. `unlabelled` sentences have only the teacher's scores.
    """

    kind = "learn"
    version = 5
    start: UntrainedStructure | LearnStructure
    tasks: tuple[Labelled, ...]
    precision: Precision = "float32"
    max_length: int | None = None
    """Training sentences of more words are left out."""
    patience: int | None = None
    scores: tuple[TeacherScores, ...] = ()
    """The teacher's scores of each task's sentences, then of each task's unlabelled sentences."""
    unlabelled: tuple[Examples, ...] = ()
    distilling: Distilling | None = None
    dev: tuple[Dev, ...] = ()

    @property
    def rows(self) -> int:
        return sum(task.source.rows for task in self.tasks)

    @property
    def stream(self) -> str:
        """The name of this training's random streams."""
        return "+".join(task.task for task in self.tasks)

    def run(self, context: Context) -> Scores:
        from l2kd_ray.core.loop import fit, write_curve
        from l2kd_ray.families.structures.model.structured import StructuredModel
        from l2kd_ray.families.structures.stages.lessons import Best, StructuredLessons

        model = StructuredModel.load(context.files_of(self.start))
        lessons = StructuredLessons(
            pools=self._pools(context),
            distilled=self._distilled(model, context),
            anneal=self.distilling.anneal if self.distilling else 0.0,
            optimisation=self.optimisation,
            precision=self.precision,
            seed=self.seed,
            stream=self.stream,
        )
        watch = None
        if self.dev:
            watch = Best(self.patience or 1, lambda model: self._look(model, context))
        curve = fit(self, model, lessons, context, watch=watch)
        if context.rank == 0:
            model.save(context.out)
        rows = self.rows + sum(source.rows for source in self.unlabelled)
        kept = [sentence.words for pool in lessons.pools.values() for sentence in pool]
        cut = cut_scores(model.features.excess(kept))
        return {**write_curve(curve, context), **cut, f"{PREFIX}left_out": rows - len(kept)}

    def _pools(self, context: Context) -> dict[str, list[Sentence]]:
        """The sentences of each task: those with labels, then those without.

        A sentence keeps its index among all sentences of its task, which also indexes the teacher's
        scores. Raises: ValueError if every sentence is longer than `max_length`.
        """
        from l2kd_ray.families.structures.stages.lessons import Sentence

        every = {
            task.task: [
                Sentence(task.task, n, words(e.context), words(e.answers[0]))
                for n, e in enumerate(task.load(context))
            ]
            for task in self.tasks
        }
        for source in self.unlabelled:
            own = every[source.task]
            own += [
                Sentence(source.task, n, words(e.context), [])
                for n, e in enumerate(source.load(context), start=len(own))
            ]
        longest = self.max_length or math.inf
        pools = {name: [s for s in own if len(s.words) <= longest] for name, own in every.items()}
        for name, pool in pools.items():
            if not pool:
                raise ValueError(f"{name}: no training sentence has {longest} words or fewer")
        return pools

    def _distilled(self, model: StructuredModel, context: Context) -> dict[str, Distilled]:
        """The teacher's scores of each task's sentences, and the loss against them."""
        from l2kd_ray.distill.structured.packing import join
        from l2kd_ray.families.structures.stages.lessons import Distilled

        if self.distilling is None:
            return {}
        packs: dict[str, list[Mapping[str, Tensor]]] = {}
        for stage in self.scores:
            packs.setdefault(stage.examples.task, []).append(stage.load(context))
        weight = self.distilling.weight
        return {
            task: Distilled(self._objective(model, task), weight, join(own))
            for task, own in packs.items()
        }

    def _objective(self, model: StructuredModel, task: str) -> StructuralKD:
        from l2kd_ray.distill.structured.cases import distillation
        from l2kd_ray.distill.structured.labelled import RelativeLabels

        kd = self.distilling
        assert kd is not None
        relative = RelativeLabels(model.labels[task]) if CASES[kd.case].relative else None
        return distillation(
            kd.case, kd.objective, kd.temperature, labels=relative, k=kd.k or 1, scope=kd.scope
        )

    def _look(self, model: StructuredModel, context: Context) -> float:
        """The mean dev score."""
        found = []
        for dev in self.dev:
            examples = dev.task.load(context)
            sentences = [words(example.context) for example in examples]
            predicted = tag(model, sentences, dev.task.task, context.device)
            found.append(score(dev.metric, predicted, examples)[0])
        return sum(found) / len(found)


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnStructures(LearnStructure):
    """The multi-task bound: training on all tasks at once."""

    kind = "multitask"
    default_seconds = 3000.0


def tag(model: StructuredModel, sentences: list[list[str]], task: str, device: str) -> list[str]:
    """The best labels of each sentence, joined by spaces as in answers."""
    import torch

    training, tagged = model.training, []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(sentences), _BATCH):
            inputs = model.prepare(sentences[start : start + _BATCH]).to(device)
            tagged += [" ".join(row) for row in model.decode(model(inputs, task), task)]
    model.train(training)
    return tagged
