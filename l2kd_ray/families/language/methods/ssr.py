"""SSR: samples of former tasks that the untrained model writes and the student answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from l2kd_ray.core.randomness import Seed, generator
from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.families.language.builder import LanguageBuilder, Student, share_of
from l2kd_ray.families.language.stages.answers import Decoding, answers
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.language.stages.replay import (
    FormerSamples,
    Quota,
    Written,
    write_samples,
)
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section
from l2kd_ray.tasks import Example

if TYPE_CHECKING:
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.sequences import SequenceFormat, TokenIds

Points = NDArray[np.float64]


class SsrOptions(Section):
    """Self-synthesized rehearsal: samples written in context, one set from each cluster."""

    ratio: float = Field(0.1, gt=0, le=1)
    """Samples of each former task, as a share of its training examples."""
    candidates: int = Field(5, ge=1)
    """Number of samples written for each one that is kept."""
    shots: int = Field(2, ge=1)
    """Number of real questions of the task that a new one is written after."""
    clusters: int = Field(20, ge=1)
    """Clusters of a task's candidates; of each the same share is kept."""


@method(options=SsrOptions, published={"ssr.ratio": 0.1, "ssr.clusters": 20})
def ssr(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """SSR (Huang et al., ACL 2024): the untrained model writes questions of former tasks in
    context, the student answers them, and those nearest to centres of clusters are replayed."""
    options, settings = build.options, build.settings
    if not former:
        return build.learn(previous, task, seed, lm=False)
    data = [build.train_examples(name, seed) for name in sorted(former)]
    samples = SelfWritten(
        writer=build.initial(seed),
        student=previous,
        quotas=tuple(Quota(one, share_of(options.ratio, one.rows)) for one in data),
        candidates=options.candidates,
        shots=options.shots,
        clusters=options.clusters,
        top_k=settings.replay.top_k,
        temperature=None if settings.replay.top_k == 1 else settings.replay.temperature,
        max_length=settings.train.max_length,
        max_new_tokens=settings.evaluate.max_new_tokens,
        seed=seed.replay,
    )
    return build.learn(previous, task, seed, lm=False, replay=samples)


@dataclass(frozen=True, eq=False)
class SelfWritten(FormerSamples):
    """Pseudo-samples: questions by `writer` after some real ones, with `student`'s answers.

    A line of the prompt is a question, and the writer's next line is a new one. Kept are those
    whose mean hidden state, at length 1, is nearest to the centre of its cluster: of each cluster
    the same share.
    """

    version = 3  # of each cluster the same share is kept, by the largest remainders
    distributable = True
    default_seconds = 120.0
    writer: Stage
    student: Stage
    candidates: int
    shots: int
    clusters: int
    top_k: int
    temperature: float | None  # None: the most likely token alone is drawn
    max_length: int | None
    max_new_tokens: int
    seed: int

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.stages.reading import opened

        text, student = opened(self.student, context)
        _, writer = opened(self.writer, context)
        longest = min(self.max_length or student.context, student.context)
        written: list[Written] = []
        for quota in self.quotas:
            questions = self._questions(writer, text, quota, quota.examples.load(context), longest)
            written += self._answered(student, text, quota, questions, longest, context)
        write_samples(context.out, written, text)
        kept = [one for one in written if not one.faults]
        valid = sum(one.faults in ([], [_FAR]) for one in written)
        return {
            "wanted": self.amount,
            "written": len(written),
            "valid": 100 * valid / len(written),
            "kept": len(kept),
        }

    def _questions(
        self,
        writer: CausalLM,
        text: SequenceFormat,
        quota: Quota,
        examples: Sequence[Example],
        longest: int,
    ) -> list[str]:
        """The lines that the writer adds to lists of real questions; empty where it adds none."""
        from l2kd_ray.families.language.model.generation import TopK, generate

        room = longest // 3
        streams = [
            generator(self.seed, "ssr", quota.task, number)
            for number in range(self.candidates * quota.count)
        ]
        prompts = []
        for draws in streams:
            shown = draws.choice(len(examples), min(self.shots, len(examples)), replace=False)
            lines = [_LINE.format(_question(examples[index])) for index in shown.tolist()]
            (tokens,) = text.encode(["".join(lines) + _LINE.format("").rstrip()])
            prompts.append([*text.bos, *tokens[-(longest - room - len(text.bos)) :]])
        sampler = TopK.seeded(self.top_k, self.temperature or 1.0, streams, room, writer.device)
        found = generate(writer, prompts, sampler, max_new_tokens=room, eos=text.eos)
        return [(text.decode(tokens).splitlines() or [""])[0].strip() for tokens in found]

    def _answered(
        self,
        student: CausalLM,
        text: SequenceFormat,
        quota: Quota,
        questions: Sequence[str],
        longest: int,
        context: Context,
    ) -> list[Written]:
        """Each candidate with the student's answer, and what is wrong with it."""
        from l2kd_ray.families.language.model.corpus import Corpus

        asked = [Example(str(n), question, "", ("",)) for n, question in enumerate(questions)]
        task, stream = quota.task, (self.seed, "ssr", quota.task)
        how = Decoding("greedy"), self.max_new_tokens, stream
        told = answers(student, text, asked, *how, context)
        examples = [
            replace(one, answers=(answer,)) for one, answer in zip(asked, told, strict=True)
        ]
        written = [
            Written(task, text.qa(sample).tokens, True, sample, [])
            for sample in Corpus.of(examples, text, task, longest)
        ]
        seen = set[str]()
        for one, question in zip(written, questions, strict=True):
            if not question:
                one.faults.append("empty")
            elif question in seen:
                one.faults.append("duplicate")
            seen.add(question)
        whole = [one for one in written if not one.faults]
        points = _states(student, [one.tokens for one in whole])
        draws = generator(self.seed, "ssr clusters", task)
        nearest = set(near_centres(points, self.clusters, quota.count, draws))
        for index, one in enumerate(whole):
            one.faults += [] if index in nearest else [_FAR]
        return written


_LINE, _FAR = "Question: {}\n", "far from a centre"


def _question(example: Example) -> str:
    return " ".join(f"{example.context} {example.question}".split())


def _states(model: CausalLM, rows: Sequence[TokenIds]) -> Points:
    """[n, d]: the mean of each row's last hidden states, at length 1."""
    import torch

    found = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row], device=model.device)
            every = torch.arange(len(row), device=model.device)
            found.append(model(ids, every).mean(0).double().cpu().numpy())
    points: Points = np.array(found)
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    return points


def near_centres(
    points: Points, clusters: int, count: int, draws: np.random.Generator
) -> list[int]:
    """The indices of `count` points: of each cluster the nearest to its centre, as many as its
    share of the points, rounded by the largest remainders."""
    if len(points) <= count:
        return list(range(len(points)))
    labels, distances = k_means(points, min(clusters, len(points)), draws)
    nearest_first = np.lexsort((distances, labels))
    _, first, sizes = np.unique(labels[nearest_first], return_index=True, return_counts=True)
    shares = count * sizes / len(points)
    taken = np.floor(shares).astype(int)
    taken[np.argsort(taken - shares, kind="stable")[: count - taken.sum()]] += 1
    rank = np.arange(len(points)) - np.repeat(first, sizes)
    chosen: list[int] = nearest_first[rank < np.repeat(taken, sizes)].tolist()
    return chosen


def k_means(
    points: Points, clusters: int, draws: np.random.Generator, rounds: int = 50
) -> tuple[NDArray[np.int64], Points]:
    """The cluster of each point, and its distance to the centre (Lloyd's algorithm).

    The first centres are drawn as k-means++ does (Arthur, Vassilvitskii 2007).
    """
    centres = points[[draws.integers(len(points))]]
    while len(centres) < clusters:
        squares = _distances(points, centres).min(1) ** 2
        if squares.sum() == 0:  # fewer different points than clusters
            break
        drawn = draws.choice(len(points), p=squares / squares.sum())
        centres = np.vstack([centres, points[drawn]])
    labels = np.full(len(points), -1)
    for _ in range(rounds):
        before, labels = labels, _distances(points, centres).argmin(1)
        if (before == labels).all():
            break
        for cluster in np.unique(labels):
            centres[cluster] = points[labels == cluster].mean(0)
    return labels, _distances(points, centres).min(1)


def _distances(points: Points, centres: Points) -> Points:
    """[n, k]."""
    return np.stack([np.linalg.norm(points - one, axis=-1) for one in centres], axis=1)
