"""Lessons of a causal LM: its samples, their batches, and their rows of tokens.

Shapes: R rows of tokens in a global batch, P supervised positions. A sample gives a QA row and,
with the LM loss, an LM row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from l2kd_ray.core.checkpoint import Stateful
from l2kd_ray.core.randomness import generator
from l2kd_ray.core.shard import is_sharded
from l2kd_ray.core.stage import Optimisation, Sharding
from l2kd_ray.distill.groups import Groups
from l2kd_ray.distill.linear_loss import Knowledge, Loss, OutputLayer
from l2kd_ray.distill.objectives import NO_TEACHER, Positions, SoftTargets
from l2kd_ray.distill.top_k import MostLikely
from l2kd_ray.distill.transfer import to_device
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import (
    Sample,
    SequenceFormat,
    TokenIds,
    TrainingSequence,
)
from l2kd_ray.families.language.model.translation import Meetings, Translation
from l2kd_ray.families.language.stages.on_policy import Demonstration
from l2kd_ray.families.language.stages.tokens import LossPart
from l2kd_ray.families.language.stages.writing import Question, Writer
from l2kd_ray.families.settings import Precision

_CROSS_ENTROPY = SoftTargets()


class Teacher(Protocol):
    """A frozen teacher whose outputs are computed live or read from a stage's files."""

    @property
    def is_sharded(self) -> bool:
        """True if the workers share it out, so that all must run it together."""

    def to(self, device: str, shard: Sharding | None = None) -> object:
        """Move the teacher to the training's device, or a chunk of it (`core.shard`)."""

    def annotate(self, rows: Sequence[SequenceRow], device: str) -> Knowledge | MostLikely:
        """The teacher's outputs at the supervised positions of `rows`, in their order."""


@runtime_checkable
class StudentFollower(Stateful, Protocol):
    """A teacher that changes with its student."""

    def follow(self) -> None:
        """Take over a part of what the student learned in the last step."""


@dataclass(frozen=True)
class SampleSource:
    """Samples to learn from, their weight, and the teacher used beside their labels."""

    samples: Sequence[Sample]
    weight: float = 1.0
    teacher: Teacher | None = None
    share: float = 0.0
    """Weight w of the teacher's term in the loss; the label's cross-entropy has weight 1 - w."""
    parts: tuple[LossPart, ...] = ("qa", "lm")
    """The rows that are made of a sample, as far as the curriculum has them."""
    own: bool = False
    """True if answers that the student writes take the place of the samples'."""
    demonstration: Demonstration | None = None
    """How the samples' answers are shown to the teacher of QA rows."""
    translation: Translation | None = None
    """The samples in the tokens of a teacher that has another tokenizer."""
    skip: int = 0
    """Number of the first supervised tokens of a row that are not learned."""


@dataclass(frozen=True)
class SequenceRow:
    """One sequence of a batch, with its loss part, its weight and its teacher."""

    sequence: TrainingSequence
    part: LossPart
    index: int = 0
    """Index of its sample in the source."""
    is_replay: bool = False
    weight: float = 1.0
    teacher: int = NO_TEACHER
    share: float = 0.0
    shown: TrainingSequence | None = None
    """The sequence as the teacher reads it; None if it is the same."""
    meetings: Meetings | None = None
    """The groups of predicted tokens of `sequence` and of `shown`; None if they are the same."""

    @property
    def read(self) -> TrainingSequence:
        """The sequence as the teacher reads it."""
        return self.shown or self.sequence

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """[n]: the tokens of its sequence."""
        return np.array(self.sequence.tokens, dtype=np.int64)


_NOTHING = SequenceRow(TrainingSequence([0, 0], 1), "qa")
"""A row that a shared-out teacher reads to stay in step: every tokenizer has its token."""


@dataclass(frozen=True)
class Batch:
    """A global batch: its step, counted from 0, and the indices of its samples."""

    step: int
    indices: Sequence[int]


@dataclass(frozen=True)
class Curriculum:
    """The lessons of one training: new samples, replayed samples, and their weights in the loss.

    `new` are versions of the same examples (with given answers, with a teacher's answers), trained
    on together; `replayed` are samples of former tasks.
    """

    new: tuple[SampleSource, ...]
    replayed: SampleSource
    separate: bool
    """True if replay has a mean of its own (L2KD); False if the batch has one mean (LAMOL)."""
    format: SequenceFormat
    optimisation: Optimisation
    seed: int
    stream: str
    """Name of the random streams: the task, so that all methods see its examples in one order."""
    objective: SoftTargets = _CROSS_ENTROPY
    parts: tuple[LossPart, ...] = ("qa", "lm")
    lm_weight: float = 0.25
    precision: Precision = "float32"
    bucket_batches: int = 1
    writer: Writer | None = None
    """Writes the answers of sources that are the student's own."""
    drawn: int = 0
    """Number of replayed samples drawn at each step, beside a batch of new ones; 0: all are learned
    once an epoch, among the new ones."""

    def __len__(self) -> int:
        return len(self.new[0].samples) + (0 if self.drawn else len(self.replayed.samples))

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self) / self.optimisation.batch_size)

    @property
    def teachers(self) -> list[Teacher]:
        """The distinct teachers, in order of first use."""
        sources = (*self.new, self.replayed)
        return list(dict.fromkeys(source.teacher for source in sources if source.teacher))

    @property
    def rows_per_example(self) -> int:
        return len(self.parts)

    @property
    def terms(self) -> tuple[str, ...]:
        """Cross-entropy on QA and on LM rows of new samples, their teachers' divergence, and all of
        the loss on replayed samples: their sum is the loss."""
        kd = any(source.teacher for source in self.new)
        return (
            *self.parts,
            *(("kd",) if kd else ()),
            *(("replay",) if self.replayed.samples else ()),
        )

    @property
    def uses_all(self) -> bool:
        return True

    def to(self, device: str) -> None:
        for teacher in self.teachers:
            teacher.to(device, self.optimisation.shard)

    def size(self, rows: Sequence[SequenceRow]) -> int:
        return sum(len(row.sequence.tokens) for row in rows)

    @property
    def stateful(self) -> list[Stateful]:
        """The parts that change during the training: the student's answers, a following teacher."""
        followers = [one for one in self.teachers if isinstance(one, StudentFollower)]
        return [*([self.writer] if self.writer else []), *followers]

    def batches(self, first_step: int) -> Iterator[Batch]:
        """The global batches from a step on, without end."""
        first, skipped = divmod(first_step, self.steps_per_epoch)
        epochs = (self._epoch(epoch) for epoch in itertools.count(first))
        found = itertools.islice(itertools.chain.from_iterable(epochs), skipped, None)
        for step, indices in enumerate(found, first_step):
            yield Batch(step, [*indices, *self._recalled(step)])

    def _recalled(self, step: int) -> list[int]:
        """The replayed samples drawn at a step."""
        if not self.drawn:
            return []
        draws = generator(self.seed, "recall", self.stream, step)
        chosen = draws.permutation(len(self.replayed.samples))[: self.drawn]
        return [len(self.new[0].samples) + int(index) for index in chosen]

    def _epoch(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, cut from a random permutation.

        With buckets, the samples of `bucket_batches` successive batches are sorted by length, which
        reduces padding; the batches are then shuffled.
        """
        draws = generator(self.seed, "shuffle", self.stream, epoch)
        order, size = draws.permutation(len(self)).tolist(), self.optimisation.batch_size
        bucket = self.bucket_batches * size
        if bucket > size:
            order = [
                index
                for start in range(0, len(order), bucket)
                for index in sorted(order[start : start + bucket], key=self._length)
            ]
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if bucket > size:
            batches = [batches[index] for index in draws.permutation(len(batches)).tolist()]
        return batches

    def _length(self, index: int) -> int:
        count = len(self.new[0].samples)
        new = index < count
        sample = self.new[0].samples[index] if new else self.replayed.samples[index - count]
        return len(sample.question) + len(sample.answer)

    def rows(self, batch: Batch) -> list[SequenceRow]:
        """The QA rows of the samples, then their LM rows, of the student as it is now.

        Teachers follow it, and it writes the answers that are its own; so each step asks once.
        """
        for teacher in self.teachers:
            if batch.step > 0 and isinstance(teacher, StudentFollower):
                teacher.follow()
        if self.writer is not None and batch.step % self.steps_per_epoch == 0:
            self.writer.observe()
        if self.writer is not None and batch.step % self.writer.how.renew_every == 0:
            self.writer.write(self._questions(batch, self.writer.how.renew_every))
        return self.rows_of(batch.indices, batch.step)

    def _questions(self, batch: Batch, steps: int) -> Iterator[Question]:
        """The new samples of the steps from a batch's on."""
        ahead = itertools.islice(self.batches(batch.step), steps) if steps > 1 else [batch]
        samples = self.new[0].samples
        for one in ahead:
            new = (index for index in one.indices if index < len(samples))
            yield from ((one.step, index, samples[index]) for index in new)

    def rows_of(self, indices: Sequence[int], step: int = 0) -> list[SequenceRow]:
        """The rows of some samples, with the answers that the student has written for a step."""
        count, numbers = len(self.new[0].samples), {id(t): n for n, t in enumerate(self.teachers)}
        chosen = [(source, index) for index in indices if index < count for source in self.new]
        chosen += [(self.replayed, index - count) for index in indices if index >= count]
        samples = [(source, index, source.samples[index]) for source, index in chosen]
        return [
            self._row(source, sample, part, index, step, numbers)
            for part in self.parts
            for source, index, sample in samples
            if part in source.parts
        ]

    def _row(
        self,
        source: SampleSource,
        sample: Sample,
        part: LossPart,
        index: int,
        step: int,
        numbers: Mapping[int, int],
    ) -> SequenceRow:
        written = self.writer.answer(step, index) if source.own and self.writer else None
        learned, shown = written_sequence(self.format, sample, part, written), None
        meetings = None
        if source.translation is not None:
            shown, meetings = source.translation.of(learned)
            # A text that the teacher's tokenizer leaves out has nothing to compare.
            learned = learned if meetings else replace(learned, skipped=len(learned.tokens))
        if source.demonstration is not None and part == "qa":
            shown = source.demonstration.shown(learned, sample.answer)
        if source.skip:
            learned = replace(learned, skipped=max(learned.skipped, source.skip))
            shown = shown and replace(shown, skipped=source.skip)
        return SequenceRow(
            learned,
            part,
            index,
            source is self.replayed,
            source.weight,
            numbers.get(id(source.teacher), NO_TEACHER),
            source.share,
            shown,
            meetings,
        )

    def scale(self, rows: Sequence[SequenceRow]) -> Tensor:
        """The factors [R] of the rows' loss sums: one weighted mean per part (QA, LM).

        If `separate`, replayed rows have means of their own, times their weight.
        """
        # The counts are those of the global batch (law 5): a worker that divided by the count of
        # its own rows would change the loss with the number of workers.
        count = self.objective.count(positions(rows, self.format.answer), len(rows))
        weight = torch.tensor([row.weight for row in rows])
        part_weight = {"qa": 1.0, "lm": self.lm_weight}
        groups = [(row.part, self.separate and row.is_replay) for row in rows]
        scale = torch.zeros(len(rows))
        for group in set(groups):
            inside = torch.tensor([one == group for one in groups])
            total = (weight * count)[inside].sum()
            if total > 0:
                part, apart = group
                mean_weight = part_weight[part] * (self.replayed.weight if apart else 1.0)
                scale[inside] = mean_weight * weight[inside] / total
        return scale

    def loss(
        self,
        model: CausalLM,
        network: nn.Module,
        rows: Sequence[SequenceRow],
        scale: Tensor,
        device: str,
    ) -> tuple[Tensor, Tensor]:
        """The part of the global batch's loss that belongs to `rows`, and its `terms`."""
        half = self.precision == "bfloat16"
        supervised = positions(rows, self.format.answer)
        # Autocast keeps what it casts to the end of the pass: of a shared model, all layers whole.
        kind, keeps = torch.device(device).type, not is_sharded(network)
        with torch.autocast(kind, torch.bfloat16, enabled=half, cache_enabled=keeps):
            knowledge = []
            for number, teacher in enumerate(self.teachers):
                taught = [row for row in rows if row.teacher == number]
                asked = taught or ([_NOTHING] if teacher.is_sharded else [])
                known = teacher.annotate(asked, device) if asked else None
                if isinstance(known, Knowledge) and asked[0].meetings is not None:
                    known = replace(known, groups=groups(asked, device))
                knowledge.append(known if taught else None)
            hidden = network(*inputs(rows, device))
        head = OutputLayer.of(model.head, half)
        found = self.objective.loss(hidden, head, knowledge, supervised, scale)
        return found.total, self._terms_of(found, rows, supervised.row, knowledge)

    def _terms_of(
        self, found: Loss, rows: Sequence[SequenceRow], row: Tensor, knowledge: Sequence[object]
    ) -> Tensor:
        """The values [K] of the terms; `row` [P] of each position."""
        names = {name: number for number, name in enumerate(self.terms)}
        labels = torch.tensor([names["replay" if r.is_replay else r.part] for r in rows])[row]
        known = [self.teachers[n] for n, one in enumerate(knowledge) if one is not None]
        of_replay = [teacher is self.replayed.teacher for teacher in known]
        teachers = torch.tensor([0, *(names["replay" if one else "kd"] for one in of_replay)])
        of_term, *_ = to_device((torch.cat((labels, teachers)),), found.total.device)
        values = torch.cat((found.labels, found.teachers))
        # Not `index_add`, whose sums on a GPU differ from run to run.
        each = torch.arange(len(names), device=of_term.device).unsqueeze(-1) == of_term
        return torch.where(each, values, 0).sum(-1)


def sequence(text: SequenceFormat, sample: Sample, part: LossPart) -> TrainingSequence:
    return text.qa(sample) if part == "qa" else text.lm(sample)


def written_sequence(
    text: SequenceFormat, sample: Sample, part: LossPart, written: TokenIds | None
) -> TrainingSequence:
    """The sequence of a sample, with a written answer in place of its own if there is one.

    An answer that did not end has no eos to learn.
    """
    if written is None:
        return sequence(text, sample, part)
    ended = written[-1:] == [text.eos]
    whole = sequence(text, replace(sample, answer=written[:-1] if ended else written), part)
    return whole if ended else TrainingSequence(whole.tokens[:-1], whole.source)


def inputs(rows: Sequence[SequenceRow], device: str) -> tuple[Tensor, Tensor, list[int]]:
    """Tokens [R, n], padded on the right; flat indices [P] of the supervised positions; the number
    of tokens of each row that are given.

    The position before a token is the one that predicts it. Padding is on the right, so no
    real token attends to it.
    """
    lengths, supervised = _lengths(rows)
    width = int(lengths.max())
    input_ids = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        input_ids[number, : len(row.tokens)] = row.tokens
    # Row by row the positions are consecutive: each index is the first of its row, plus how many
    # came before it in that row.
    counts = lengths - supervised
    first = np.arange(len(rows)) * width + supervised - 1 - (np.cumsum(counts) - counts)
    flat = np.repeat(first, counts) + np.arange(counts.sum())
    ids, where = to_device((torch.from_numpy(input_ids), torch.from_numpy(flat)), device)
    return ids, where, [row.sequence.source for row in rows]


def positions(rows: Sequence[SequenceRow], answer: int) -> Positions:
    """The supervised positions of the rows, one after another; on the CPU."""
    lengths, supervised = _lengths(rows)
    row = torch.from_numpy(np.repeat(np.arange(len(rows)), lengths - supervised))
    target = [row.tokens[row.sequence.supervised :] for row in rows]
    tokens = torch.from_numpy(np.concatenate(target))
    teacher = torch.tensor([one.teacher for one in rows])[row]
    share = torch.tensor([one.share for one in rows])[row]
    first = None
    if any(one.meetings is not None for one in rows):
        counts = (lengths - supervised).tolist()
        first = torch.cat([_first(one, n) for one, n in zip(rows, counts, strict=True)])
    return Positions(tokens, row, tokens == answer, teacher, share, first)


def _first(row: SequenceRow, count: int) -> Tensor:
    """[count]: 1 at the first position of each group, else 0; 1 everywhere without groups."""
    if row.meetings is None:
        return torch.ones(count)
    begun = {own for own, _ in row.meetings}
    return torch.tensor([float(place in begun) for place in range(count)])


def groups(rows: Sequence[SequenceRow], device: str) -> Groups:
    """The groups of rows that a teacher of another tokenizer reads."""
    own, theirs, here, there = list[int](), list[int](), 0, 0
    for row in rows:
        own += [here + a for a, _ in row.meetings or ()]
        theirs += [there + b for _, b in row.meetings or ()]
        here += len(row.sequence.tokens) - row.sequence.supervised
        there += len(row.read.tokens) - row.read.supervised
    tokens = [token for row in rows for token in row.read.tokens[row.read.supervised :]]
    (target,) = to_device((torch.tensor(tokens, dtype=torch.long),), device)
    return Groups([*own, here], [*theirs, there], target)


def _lengths(rows: Sequence[SequenceRow]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows' lengths [R], and the index [R] of the first token that is predicted."""
    lengths = [(len(row.tokens), row.sequence.supervised) for row in rows]
    both = np.array(lengths, dtype=np.int64)
    return both[:, 0], both[:, 1]
