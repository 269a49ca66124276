"""Training on one task (student or teacher), or on all tasks at once (the multi-task bound)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from l2kd_ray.core.randomness import generator
from l2kd_ray.core.stage import Context, Scores, TrainingStage
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.families.cut import cut_scores
from l2kd_ray.families.language.stages.adapters import Adapter
from l2kd_ray.families.language.stages.annotate import Annotate
from l2kd_ray.families.language.stages.constraints import Constraint
from l2kd_ray.families.language.stages.on_policy import (
    ANSWER,
    Demonstration,
    OwnTeacher,
    Sampling,
)
from l2kd_ray.families.language.stages.replay import FormerSamples, read_samples
from l2kd_ray.families.language.stages.start import Initial, initial_of
from l2kd_ray.families.language.stages.tokens import LossPart, Tokens
from l2kd_ray.families.settings import Precision

if TYPE_CHECKING:
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.corpus import Corpus
    from l2kd_ray.families.language.model.sequences import Sample, SequenceFormat
    from l2kd_ray.families.language.model.translation import Translation
    from l2kd_ray.families.language.stages.curriculum import Curriculum, SampleSource, Teacher


@dataclass(frozen=True, eq=False, kw_only=True)
class Learn(TrainingStage):
    """Train `start` on `tasks` and replayed samples, from labels and optionally from teachers.

    Files: a Hugging Face model with its tokenizer, and `curve.json` with one row per step.
    `teacher` (a model, or its annotated outputs) teaches the new samples with weight `kd_weight`,
    on the given answers or on `targets`, a teacher's answers; with `recall`, `start` teaches the
    replayed samples. With `own_teacher` the student itself teaches the QA rows; with `sampling` it
    is taught on answers that it writes. Fields without effect are None: `kd_weight` without a
    teacher, `replay_weight` without replay.
    """

    kind = "learn"
    version = 3
    start: Initial | Learn
    tasks: tuple[Tokens, ...]
    objective: SoftTargets
    lm_weight: float
    """Weight of the language-model rows beside the question-answering rows; 0 for no such rows."""
    precision: Precision = "float32"
    max_length: int | None = None
    bucket_batches: int = 1
    average: float = 0.0
    """Weight of `start` in the average with the trained weights."""
    adapter: Adapter | None = None
    replay: FormerSamples | None = None
    replay_weight: str | float | None = None
    replay_batch: int | None = None
    """Number of replayed samples drawn at each step, whose mean has the weight `replay_weight`;
    None: all are learned once an epoch, among the new ones."""
    teacher: Learn | Annotate | None = None
    targets: Tokens | None = None
    kd_weight: float | None = None
    recall: bool = False
    constraint: Constraint | None = None
    own_teacher: OwnTeacher | None = None
    sampling: Sampling | None = None
    dev: Tokens | None = None
    """The task's dev split, where `sampling` has an adaptive share."""

    @property
    def parts(self) -> tuple[LossPart, ...]:
        """The rows made of a sample: question answering and, if `lm_weight` > 0, language model."""
        return ("qa", "lm") if self.lm_weight > 0 else ("qa",)

    @property
    def rows(self) -> int:
        new = sum(tokens.rows for tokens in self.tasks)
        if self.replay is None:
            return new
        if self.replay_batch is not None:
            return new + self.replay_batch * math.ceil(new / self.optimisation.batch_size)
        return new + int(self.replay.amount)

    @property
    def step_rows(self) -> int:
        return super().step_rows + (self.replay_batch or 0)

    @property
    def stream(self) -> str:
        """The name of its random streams."""
        return "+".join(tokens.task for tokens in self.tasks)

    @property
    def divergence(self) -> str | None:
        """The built-in divergence that it is distilled by; None if there is none."""
        distils = self.teacher is not None or self.own_teacher is not None or self.recall
        named = self.objective.divergence if distils else None
        return named if isinstance(named, str) else None

    def run(self, context: Context) -> Scores:
        from l2kd_ray.core.loop import fit, write_curve
        from l2kd_ray.families.language.model.causal_lm import CausalLM
        from l2kd_ray.families.language.model.sequences import SequenceFormat

        folder = context.files_of(self.start)
        text, model = SequenceFormat.load(folder), CausalLM.load(folder)
        curriculum = self._curriculum(text, model, context)
        adapted = None
        if self.adapter is not None:
            drawn = int(generator(self.seed, "adapter", self.stream).integers(2**63))
            adapted = self.adapter.attach(model, text, drawn, folder, context)
        if self.optimisation.gradient_checkpointing:
            model.checkpoint_activations()
        constraint = None
        if self.constraint is not None:
            constraint = self.constraint.prepare(model, curriculum, context)
        teaching = dict(self._teaching(model, curriculum, context))
        curve = fit(self, model, curriculum, context, constraint, stateful=curriculum.stateful)
        if self.constraint is not None:
            teaching |= self.constraint.scores(model, context)
        if curriculum.writer is not None:
            teaching |= {"sampled": curriculum.writer.sampled}
        if self.dev is not None and curriculum.writer is not None:
            teaching |= {"student_share": curriculum.writer.share}
        teaching |= self._cut_demonstrations(curriculum.new[0], text, model)
        if adapted is not None:
            teaching |= adapted()
        if self.average > 0:
            model.average_with(CausalLM.load(folder), self.average)
        if context.rank == 0:
            model.save(context.out)
            text.save(context.out)
        return {**write_curve(curve, context), **teaching, **self._cut(text, model, context)}

    def _cut(self, text: SequenceFormat, model: CausalLM, context: Context) -> Scores:
        """Count the new examples, and their tokens, that are cut to fit a training sequence."""
        excess = [self._samples(tokens, text, model, context).excess() for tokens in self.tasks]
        contexts, answers = (chain.from_iterable(part) for part in zip(*excess, strict=True))
        return cut_scores(contexts, answers)

    def _teaching(self, model: CausalLM, curriculum: Curriculum, context: Context) -> Scores:
        """How sharp the teacher of the new task is at the temperature, with top-k outputs the bias
        of the first gradient, both on the first samples; how another tokenizer's tokens meet the
        student's; empty without such a teacher."""
        from l2kd_ray.distill.sharpness import sharpness
        from l2kd_ray.families.language.stages.annotations import PROBED, Cached

        source = curriculum.new[0]
        teacher = source.teacher
        if teacher is None:
            return {}
        # A model that is going to be shared out may not fit on the device whole.
        device = "cpu" if self.optimisation.shard else context.device
        teacher.to(device)
        model.to(device)
        rows = curriculum.rows_of(range(min(PROBED, len(source.samples))))
        number = curriculum.teachers.index(teacher)
        taught = [row for row in rows if row.teacher == number]
        # Before the teacher is asked: it refuses one that has nothing to say.
        aligned = self._aligned(curriculum, number) if source.translation is not None else {}
        found = sharpness(teacher.annotate(taught, device), self.objective.temperature)
        scores = {**{f"teacher/{name}": value for name, value in found.items()}, **aligned}
        if isinstance(teacher, Cached):
            biases = teacher.bias(model, taught, self.objective, device)
            scores |= {f"top_k/{name}": value for name, value in biases.items()}
        return scores

    def _aligned(self, curriculum: Curriculum, teacher: int) -> Scores:
        """Groups per 100 of the student's tokens, for a teacher of another tokenizer, and the
        percentage of rows that are too long for it.

        Raises: ValueError if all are.
        """
        tokens = groups = count = left_out = 0
        for index in range(len(curriculum.new[0].samples)):
            for row in curriculum.rows_of([index]):
                if row.teacher == teacher:
                    count += 1
                    left_out += not row.meetings
                    groups += len(row.meetings or ())
                    tokens += len(row.sequence.tokens) - row.sequence.supervised
        if left_out == count:
            raise ValueError(
                "the teacher's tokenizer needs more tokens than the teacher reads for each of the "
                "samples: set a smaller train.max_length"
            )
        return {
            "teacher/aligned": 100 * groups / tokens,
            "teacher/too_long": 100 * left_out / count,
        }

    def _curriculum(self, text: SequenceFormat, model: CausalLM, context: Context) -> Curriculum:
        from l2kd_ray.families.language.stages.curriculum import Curriculum
        from l2kd_ray.families.language.stages.writing import Writer

        numbered = isinstance(self.replay_weight, float | int)
        writer = None
        if self.sampling is not None:
            (task,) = self.tasks
            stream, room = (self.seed, self.stream), self._room(task, text, model)
            dev = self._samples(self.dev, text, model, context) if self.dev else ()
            writer = Writer(self.sampling, model, text, stream, context, room, dev)
        return Curriculum(
            new=self._new(text, model, context),
            replayed=self._replayed(context, float(self.replay_weight or 0) if numbered else 1.0),
            separate=self.replay_weight == "separate" or self.replay_batch is not None,
            drawn=self.replay_batch or 0,
            format=text,
            optimisation=self.optimisation,
            seed=self.seed,
            stream=self.stream,
            objective=self.objective,
            parts=self.parts,
            lm_weight=self.lm_weight,
            precision=self.precision,
            bucket_batches=self.bucket_batches,
            writer=writer,
        )

    def _new(
        self, text: SequenceFormat, model: CausalLM, context: Context
    ) -> tuple[SampleSource, ...]:
        """The new samples, with the given answers, with a teacher's, or with both."""
        from l2kd_ray.families.language.stages.curriculum import SampleSource

        corpora = [self._samples(tokens, text, model, context) for tokens in self.tasks]
        gold = corpora[0] if len(corpora) == 1 else [s for corpus in corpora for s in corpus]
        teacher, weight = self._teacher(model, context), self.kd_weight or 0.0
        translation = self._translation(text, context)
        share, whole = (1.0 if teacher else 0.0), self.own_teacher is None
        if self.targets is None and self.sampling is None and whole:
            share = weight if teacher else 0.0
            return (SampleSource(gold, teacher=teacher, share=share, translation=translation),)
        taught: Sequence[Sample] = gold
        if self.targets is not None:
            taught = self._samples(self.targets, text, model, context)
        parts: tuple[LossPart, ...] = self.parts if whole else ("qa",)
        sources = [
            SampleSource(
                taught,
                weight,
                teacher,
                share,
                parts=parts,
                own=self.sampling is not None,
                demonstration=self._demonstration(text, model),
                translation=translation,
                skip=self.own_teacher.skip_tokens if self.own_teacher else 0,
            ),
            SampleSource(gold, 1 - weight, parts=parts),
            # The student itself has nothing to teach about a task's questions.
            SampleSource(gold, parts=() if whole else ("lm",)),
        ]
        return tuple(source for source in sources if source.weight > 0 and source.parts)

    def _demonstration(self, text: SequenceFormat, model: CausalLM) -> Demonstration | None:
        """How the given answers are shown to the student as its own teacher."""
        if self.own_teacher is None or self.own_teacher.demonstration is None:
            return None
        words = self.own_teacher.demonstration.split(ANSWER)
        before, after = text.encode([part.strip() for part in words])
        return Demonstration(before, after, model.context)

    def _cut_demonstrations(
        self, source: SampleSource, text: SequenceFormat, model: CausalLM
    ) -> Scores:
        """Percentage of samples whose demonstration is cut beside an answer of the greatest
        length; empty without a demonstration."""
        shown = source.demonstration
        if shown is None:
            return {}
        room = self._room(self.tasks[0], text, model)
        cut = 0
        for sample in source.samples:
            answer = len(sample.answer)
            if self.sampling is not None:
                answer = min(self.sampling.max_new_tokens, room - len(sample.question))
            taken = len(text.bos) + len(sample.question) + answer + 2
            whole = len(shown.before) + len(sample.answer) + len(shown.after)
            cut += len(shown.tokens(sample.answer, taken)) < whole
        return {"demonstration/cut": 100 * cut / len(source.samples)}

    def _samples(
        self, tokens: Tokens, text: SequenceFormat, model: CausalLM, context: Context
    ) -> Corpus:
        from l2kd_ray.families.language.model.corpus import Corpus, Encoded

        encoded = Encoded.load(context.files_of(tokens))
        return Corpus(encoded, tokens.task, self._room(tokens, text, model))

    def _room(self, tokens: Tokens, text: SequenceFormat, model: CausalLM) -> int:
        """Tokens that a training sequence of a task has for context, question and answer."""
        return text.room(tokens.task, min(self.max_length or model.context, model.context))

    @property
    def _is_foreign(self) -> bool:
        """Whether the teacher of the new task has another tokenizer."""
        model = self.teacher.teacher if isinstance(self.teacher, Annotate) else self.teacher
        return model is not None and initial_of(model).tokenizer != self.tasks[0].tokenizer

    def _translation(self, text: SequenceFormat, context: Context) -> Translation | None:
        """The new samples in the tokens of a teacher that has another tokenizer."""
        from l2kd_ray.families.language.model.translation import Translation

        if self.teacher is None or not self._is_foreign:
            return None
        return Translation.load(text, context.files_of(self.teacher))

    def _teacher(self, model: CausalLM, context: Context) -> Teacher | None:
        """The teacher of the new task, live or read from its annotated outputs."""
        from l2kd_ray.families.language.model.causal_lm import CausalLM
        from l2kd_ray.families.language.stages.annotations import Cached
        from l2kd_ray.families.language.stages.teachers import Following, Itself, Live

        if self.own_teacher is not None and self.own_teacher.weights == "live":
            return Itself(model)
        if self.own_teacher is not None and self.own_teacher.weights == "ema":
            return Following(model, self.own_teacher.rate or 0.0)
        if self.own_teacher is not None:
            return Live(CausalLM.load(context.files_of(self.start)))
        if self.teacher is None:
            return None
        folder = context.files_of(self.teacher)
        teacher: Live | Cached
        if isinstance(self.teacher, Annotate):
            teacher = Cached(folder, self.parts)
        else:
            teacher = Live(CausalLM.load(folder))
        if teacher.vocabulary != model.vocabulary and not self._is_foreign:
            raise ValueError(
                f"the teacher's vocabulary has {teacher.vocabulary} tokens, the student's "
                f"{model.vocabulary}: word-KD needs one vocabulary; give both the same tokenizer"
            )
        return teacher

    def _replayed(self, context: Context, weight: float) -> SampleSource:
        from l2kd_ray.families.language.model.causal_lm import CausalLM
        from l2kd_ray.families.language.stages.curriculum import SampleSource
        from l2kd_ray.families.language.stages.teachers import Live

        if self.replay is None:
            return SampleSource([])
        samples = read_samples(context.files_of(self.replay))
        if not self.recall:
            return SampleSource(samples, weight)
        previous = Live(CausalLM.load(context.files_of(self.start)))
        return SampleSource(samples, weight, previous, self.kd_weight or 0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Multitask(Learn):
    """The multi-task bound: training on all tasks at once."""

    kind = "multitask"
    default_seconds = 3000.0

    @property
    def stream(self) -> str:
        return "multitask"
