"""Methods that keep real samples of former tasks: replay, DER++ and A-GEM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from l2kd_ray.core.randomness import Seed, generator
from l2kd_ray.core.stage import Context, Scores, Sharding, Stage
from l2kd_ray.families.language.builder import LanguageBuilder, Student
from l2kd_ray.families.language.methods.retention import BesideLabels
from l2kd_ray.families.language.stages.constraints import (
    Constraint,
    flat_gradient,
    gradient,
    recalled,
    set_gradient,
)
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.language.stages.replay import RealSamples, read_samples
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.core.loop import GradientHook
    from l2kd_ray.distill.divergences import Divergence
    from l2kd_ray.distill.linear_loss import Knowledge
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.stages.annotations import Cached
    from l2kd_ray.families.language.stages.curriculum import Curriculum, SampleSource, SequenceRow


class ReplayOptions(Section):
    """Real samples of former tasks beside the new ones."""

    ratio: float = Field(0.1, ge=0, le=1)
    """Share of each former task's training examples that is replayed."""
    batch_size: int | None = Field(None, ge=1)
    """Number of kept samples drawn at each step, with a mean of their own (Chaudhry et al. 2019);
    by default all are learned once an epoch, among the new ones (TRACE)."""


@method("replay", options=ReplayOptions, key="real_replay", published={"real_replay.ratio": 0.1})
def real_replay(
    build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed
) -> Learn:
    """Experience replay with a share of real samples of each former task (Chaudhry et al. 2019;
    10 % is TRACE's, Wang et al. 2023)."""
    kept, size = build.kept(former, seed, build.options.ratio), build.options.batch_size
    drawn = None if kept is None or size is None else _drawn(kept, size)
    return build.learn(previous, task, seed, lm=False, replay=kept, replay_batch=drawn)


def _drawn(kept: RealSamples, size: int) -> int:
    """The number of kept samples that are drawn at a step: `size`, or all."""
    return min(size, sum(quota.count for quota in kept.quotas))


# DER++ -------------------------------------------------------------------------------------------


class DerOptions(Section):
    """Samples of former tasks with the outputs of the student that had just learned them."""

    ratio: float = Field(0.1, ge=0, le=1)
    """Share of each former task's training examples that is kept."""
    alpha: float = Field(0.1, ge=0)
    """Weight of the squared error of logits on kept samples."""
    beta: float = Field(0.5, gt=0)
    """Weight of the cross-entropy on kept samples."""
    batch_size: int | None = Field(None, ge=1)
    """Number of kept samples drawn at each step (default: `train.batch_size`)."""


@method("der++", options=DerOptions, key="der")
def der(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """DER++ (Buzzega et al., NeurIPS 2020): CE on new samples, and on kept ones `beta` CE + `alpha`
    MSE of the logits to those that the student had when it had just learned their task. They are
    drawn at each step, once for both terms (in the authors' code twice)."""
    options = build.options
    kept = build.kept(former, seed, options.ratio)
    if kept is None:
        return build.learn(previous, task, seed, lm=False)
    drawn = _drawn(kept, options.batch_size or build.settings.train.batch_size)
    weight = build.replay_weight(options.beta)
    learn = partial(
        build.learn,
        *(previous, task, seed),
        lm=False,
        replay=kept,
        replay_weight=weight,
        replay_batch=drawn,
    )
    if options.alpha == 0:
        return learn()
    return learn(
        stage=LearnRemembered,
        objective=LogitsBesideLabels(),
        # A kept row is weighed by beta as a whole.
        kd_weight=options.alpha / options.beta,
        remembered=tuple(
            Remembered(student=build.student(former[: n + 1], seed), samples=samples, task=name)
            for n, name in enumerate(former)
            if (samples := build.kept((name,), seed, options.ratio)) is not None
        ),
    )


@dataclass(frozen=True)
class LogitsBesideLabels(BesideLabels):
    """`CE + share * MSE`, the mean over the vocabulary of the squared differences of logits."""

    @property
    def loaded_divergence(self) -> Divergence:
        return squared_error


def squared_error(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """[C]: the mean over the vocabulary of (student - teacher)^2, of logits [C, V]."""
    return (student - teacher).square().mean(-1)


@dataclass(frozen=True, eq=False)
class Remembered(Stage):
    """The last hidden states of a student on kept samples of the task that it has just learned.

    Files: see `stages.annotations`, in half precision.
    """

    kind = "annotate"
    distributable = True
    default_bytes = 2e7
    student: Stage
    samples: RealSamples
    task: str

    @property
    def amount(self) -> float:
        return self.samples.amount

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.stages.annotations import write
        from l2kd_ray.families.language.stages.curriculum import SequenceRow
        from l2kd_ray.families.language.stages.reading import opened
        from l2kd_ray.families.language.stages.teachers import Live

        text, model = opened(self.student, context)
        samples = read_samples(context.files_of(self.samples))
        rows = [SequenceRow(text.qa(sample), "qa", n) for n, sample in enumerate(samples)]
        return {"positions": write(rows, Live(model), context)}


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnRemembered(Learn):
    """Training in which each replayed sample has the logits of its own task's student."""

    remembered: tuple[Remembered, ...]

    def _replayed(self, context: Context, weight: float) -> SampleSource:
        from l2kd_ray.families.language.stages.annotations import Cached

        source = super()._replayed(context, weight)
        known = {one.task: Cached(context.files_of(one), ("qa",)) for one in self.remembered}
        teacher = Students(known, [sample.task for sample in source.samples])
        return replace(source, teacher=teacher, share=self.kd_weight or 0.0)


class Students:
    """The students after several tasks as one teacher: each is asked about its own task's samples.

    `tasks`: the task of each sample, task after task.
    """

    def __init__(self, known: dict[str, Cached], tasks: Sequence[str]) -> None:
        self._known, self._tasks = known, tasks

    @property
    def is_sharded(self) -> bool:
        return False

    def to(self, device: str, shard: Sharding | None = None) -> None:
        for one in self._known.values():
            one.to(device)

    def annotate(self, rows: Sequence[SequenceRow], device: str) -> Knowledge:
        """Their hidden states side by side [K, tasks x d], with 0 in all columns but the own
        task's, before their output layers side by side: a product of the two is each one's."""
        import torch

        from l2kd_ray.distill.linear_loss import Knowledge, OutputLayer

        tasks = [self._tasks[row.index] for row in rows]
        names = sorted(set(tasks))
        found: list[Any] = [
            self._known[task].annotate(
                [replace(row, index=row.index - self._tasks.index(task))], device
            )
            for task, row in zip(tasks, rows, strict=True)
        ]
        heads = [found[tasks.index(name)].head for name in names]

        def columns(rows: list[Tensor]) -> list[Tensor]:
            """The rows of each task, with 0 in those of the others, below one another."""
            pairs = list(zip(tasks, rows, strict=True))
            return [torch.cat([row * (task == name) for task, row in pairs]) for name in names]

        states = columns([one.hidden for one in found])
        weights = [head.weight for head in heads]
        if heads[0].bias is not None:  # students of one architecture: all have one
            states += columns([one.hidden.new_ones(len(one.hidden), 1) for one in found])
            weights += [head.bias[:, None] for head in heads]
        return Knowledge(torch.cat(states, 1), OutputLayer(torch.cat(weights, 1)))


# A-GEM -------------------------------------------------------------------------------------------


class AverageMemoryOptions(Section):
    """A memory of real samples, whose mean loss may not increase (A-GEM)."""

    ratio: float = Field(0.05, gt=0, le=1)
    """Share of a task's training examples kept in the memory."""
    batch_size: int = Field(64, ge=1)
    """Number of kept samples drawn at each step."""


@method(options=AverageMemoryOptions)
def agem(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """A-GEM (Chaudhry et al., ICLR 2019): no step may raise the mean loss on a batch of kept
    samples of all former tasks."""
    options = build.options
    kept = build.kept(former, seed, options.ratio)
    if kept is None:
        return build.learn(previous, task, seed, lm=False)
    constraint = AverageProjection(kept, _drawn(kept, options.batch_size), seed.replay)
    return build.learn(previous, task, seed, lm=False, constraint=constraint)


@dataclass(frozen=True)
class AverageProjection(Constraint):
    """A-GEM's projection: g - (<g, r> / <r, r>) r where <g, r> < 0, for the gradient r of the mean
    loss on a batch drawn from the memory at each step (Chaudhry et al. 2019, equation 11)."""

    memory: RealSamples
    batch_size: int
    seed: int

    def prepare(self, model: CausalLM, curriculum: Curriculum, context: Context) -> GradientHook:
        lesson = recalled(read_samples(context.files_of(self.memory)), curriculum)

        def constrain(model: CausalLM, step: int) -> None:
            draws = generator(self.seed, "agem", curriculum.stream, step)
            chosen = draws.permutation(len(lesson))[: self.batch_size].tolist()
            new = flat_gradient(model)
            former = gradient(model, lesson, chosen, context, step)
            set_gradient(projected(new, former), model, context)

        return constrain


def projected(new: Tensor, former: Tensor) -> Tensor:
    """The gradient [N] nearest to `new` [N] whose product with `former` [N] is not negative."""
    product = new @ former
    return new if product >= 0 else new - product / (former @ former) * former
