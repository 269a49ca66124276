"""Learning: one task (student or teacher), or all tasks at once (the multi-task bound)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from l2kd_ray.config import Distillation, Training
from l2kd_ray.stages.annotate import PROBED, Annotate
from l2kd_ray.stages.base import Context, Scores, TrainingStage
from l2kd_ray.stages.constraints import Penalty, Projection
from l2kd_ray.stages.replay import RealSamples, Replay, read_samples
from l2kd_ray.stages.start import Initial
from l2kd_ray.stages.tokens import Tokens

if TYPE_CHECKING:
    from l2kd_ray.distill.objectives import SoftTargets
    from l2kd_ray.models.causal_lm import CausalLM
    from l2kd_ray.models.sequences import Sample, SequenceFormat
    from l2kd_ray.stages.curriculum import Curriculum, Source, Teacher


@dataclass(frozen=True, eq=False)
class Learn(TrainingStage):
    """`start` learns `tasks`, beside replayed samples, from the labels or from teachers too.

    The file folder is a Hugging Face model with its tokenizer, and `curve.json`, a row a step.
    Without effect is None: `distillation` where its weight is 0 or nobody teaches, `replay_weight`
    without replay. `teacher` speaks (live, or as it was annotated) on the new samples, on the
    given answers or on `targets`, a teacher's; with `recall` the start itself speaks on replayed
    samples.
    """

    kind = "learn"
    start: Initial | Learn
    tasks: tuple[Tokens, ...]
    training: Training
    seed: int
    replay: Replay | RealSamples | None = None
    replay_weight: str | float | None = None
    teacher: Learn | Annotate | None = None
    targets: Tokens | None = None
    recall: bool = False
    distillation: Distillation | None = None
    constraint: Penalty | Projection | None = None

    @property
    def place(self) -> str:
        """The name of its random streams."""
        return "+".join(tokens.task for tokens in self.tasks)

    def run(self, context: Context) -> Scores:
        from l2kd_ray.models.causal_lm import CausalLM
        from l2kd_ray.models.lora import attach, merge
        from l2kd_ray.models.sequences import SequenceFormat
        from l2kd_ray.stages.loop import fit, write_curve

        folder = context.files_of(self.start)
        text, model = SequenceFormat.load(folder), CausalLM.load(folder)
        curriculum = self._curriculum(text, model, context)
        lora = self.training.lora and attach(model, self.training.lora, text.added, self.seed)
        constraint = None
        if self.constraint is not None:
            constraint = self.constraint.prepare(model, curriculum, context)
        bias = self._bias(model, curriculum)
        curve = fit(self, model, curriculum, context, constraint)
        if lora is not None:
            merge(model, lora)
        if self.training.average > 0:
            model.average_with(CausalLM.load(folder), self.training.average)
        if context.rank == 0:
            model.save(context.out)
            text.save(context.out)
        return {**write_curve(curve, context), **bias}

    def _bias(self, model: CausalLM, curriculum: Curriculum) -> Scores:
        """How far the first gradient is off where a teacher's most likely tokens alone teach."""
        from l2kd_ray.stages.teachers import Cached

        source = curriculum.new[0]
        if not isinstance(source.teacher, Cached):
            return {}
        rows = curriculum.rows(range(min(PROBED, len(source.samples))))
        number = curriculum.teachers.index(source.teacher)
        taught = [row for row in rows if row.teacher == number]
        found = source.teacher.bias(model, taught, curriculum.objective.temperature)
        return {f"top_k/{name}": value for name, value in found.items()}

    def _objective(self) -> SoftTargets:
        from l2kd_ray.distill.objectives import SoftTargets

        kd = self.distillation
        return SoftTargets(
            temperature=kd.temperature if kd else 1.0,
            answer_weight=self.training.answer_weight,
            weigh_kd=kd is not None and kd.answer_weight == "keep",
        )

    def _curriculum(self, text: SequenceFormat, model: CausalLM, context: Context) -> Curriculum:
        from l2kd_ray.stages.curriculum import Curriculum

        numbered = isinstance(self.replay_weight, float | int)
        return Curriculum(
            new=self._new(text, model, context),
            replayed=self._replayed(context, float(self.replay_weight or 0) if numbered else 1.0),
            separate=self.replay_weight == "separate",
            format=text,
            training=self.training,
            seed=self.seed,
            place=self.place,
            objective=self._objective(),
        )

    def _new(self, text: SequenceFormat, model: CausalLM, context: Context) -> tuple[Source, ...]:
        """The new samples: with the given answers, with a teacher's, or with both."""
        from l2kd_ray.stages.curriculum import Source

        corpora = [self._samples(tokens, text, model, context) for tokens in self.tasks]
        gold = corpora[0] if len(corpora) == 1 else [s for corpus in corpora for s in corpus]
        teacher, kd = self._teacher(model, context), self.distillation
        if kd is None or self.targets is None:
            return (Source(gold, teacher=teacher, share=kd.weight if kd and teacher else 0.0),)
        decoded = self._samples(self.targets, text, model, context)
        sources = [
            Source(decoded, kd.weight, teacher, share=1.0 if teacher else 0.0),
            Source(gold, 1 - kd.weight),
        ]
        return tuple(source for source in sources if source.weight > 0)

    def _samples(
        self, tokens: Tokens, text: SequenceFormat, model: CausalLM, context: Context
    ) -> Sequence[Sample]:
        from l2kd_ray.models.corpus import Corpus, Encoded

        longest = min(self.training.max_length or model.context, model.context)
        encoded = Encoded.load(context.files_of(tokens))
        return Corpus(encoded, tokens.task, text.room(tokens.task, longest))

    def _teacher(self, model: CausalLM, context: Context) -> Teacher | None:
        """The teacher of the new task, live or as it was annotated."""
        from l2kd_ray.models.causal_lm import CausalLM
        from l2kd_ray.stages.teachers import Cached, Live

        if self.teacher is None:
            return None
        folder = context.files_of(self.teacher)
        teacher: Live | Cached
        if isinstance(self.teacher, Annotate):
            teacher = Cached(folder, self.training.parts)
        else:
            teacher = Live(CausalLM.load(folder))
        if teacher.vocabulary != model.vocabulary:
            raise ValueError(
                f"the teacher's vocabulary ({teacher.vocabulary}) is not the student's "
                f"({model.vocabulary}): word-KD compares them token by token"
            )
        return teacher

    def _replayed(self, context: Context, weight: float) -> Source:
        from l2kd_ray.models.causal_lm import CausalLM
        from l2kd_ray.stages.curriculum import Source
        from l2kd_ray.stages.teachers import Live

        if self.replay is None:
            return Source([])
        samples = read_samples(context.files_of(self.replay))
        if not self.recall or self.distillation is None:
            return Source(samples, weight)
        previous = Live(CausalLM.load(context.files_of(self.start)))
        return Source(samples, weight, previous, self.distillation.weight)


@dataclass(frozen=True, eq=False)
class Multitask(Learn):
    """All tasks at once: what the lifelong student is measured against."""

    kind = "multitask"

    @property
    def place(self) -> str:
        return "multitask"
