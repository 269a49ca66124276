"""Replay: samples of former tasks, written by the student itself (LAMOL) or kept from the data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2kd_ray.core.randomness import generator
from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.door import Plugin, named
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.stages.quality import TaskModel, distinct
from l2kd_ray.tasks import Example, score
from l2kd_ray.tasks.spec import Metric

if TYPE_CHECKING:
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.sequences import Sample, SequenceFormat, TokenIds

SAMPLES = "samples.jsonl"
FILTERS: Mapping[str, str] = {"ended": "not ended", "label": "label", "duplicate": "duplicate"}
"""The filters by name, and the fault that each notes in `samples.jsonl`."""
ROUNDS = 5
"""How often a quota is refilled at most."""


@dataclass(frozen=True)
class Quota:
    """How many samples of a former task are wanted; `examples` are its training split.

    `labelled`: the answers of that split are all that there are (read by the filter `label`).
    """

    examples: Examples
    count: int
    labelled: bool = False

    @property
    def task(self) -> str:
        return self.examples.task


@dataclass(frozen=True)
class Judge:
    """The teacher of a former task: a sample is kept where its answer agrees with this one's."""

    teacher: Stage
    metric: Metric
    least: float
    """Of the metric, 0 to 100."""
    max_new_tokens: int


@dataclass
class Written:
    """A pseudo-sample, and what speaks against it."""

    task: str
    tokens: list[int]
    ended: bool
    sample: Sample | None
    faults: list[str]


@dataclass(frozen=True, eq=False)
class Replay(Stage):
    """Pseudo-samples by top-k sampling from each task's prompt, at the model's temperature.

    Kept if they hold `<ans>` exactly once and pass the `filters` and the `judges` (one a quota, or
    none); dropped ones are replaced only where `refill` says so (LAMOL does not). `temperature`
    and `seed` are None where k is 1, for nothing is drawn then. The training splits of the quotas
    are read for the labels, and to measure the samples' quality.
    """

    kind = "replay"
    distributable = True
    default_seconds = 120.0
    model: Stage
    quotas: tuple[Quota, ...]
    top_k: int
    temperature: float | None
    max_length: int | None
    seed: int | None
    filters: tuple[str | Plugin, ...] = ()
    judges: tuple[Judge, ...] = ()
    refill: bool = False

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.model.causal_lm import CausalLM
        from l2kd_ray.families.language.model.sequences import SequenceFormat

        folder = context.files_of(self.model)
        text, model = SequenceFormat.load(folder), CausalLM.load(folder).to(context.device)
        written: list[Written] = []
        for _ in range(ROUNDS if self.refill else 1):
            fresh = self._write(text, model, self._missing(written), written, context)
            self._check(fresh, written, text, context)
            written += fresh
            if not self._missing(written):
                break
        written.sort(key=lambda one: one.task)  # stable: in a task, as they were written
        _save(context.out / SAMPLES, (_line(one, text) for one in written))
        return self._quality(written, text, context)

    def _missing(self, written: Sequence[Written]) -> list[str]:
        """The task of each sample that is still wanted."""
        kept = [one.task for one in written if not one.faults]
        return [q.task for q in self.quotas for _ in range(q.count - kept.count(q.task))]

    def _write(
        self,
        text: SequenceFormat,
        model: CausalLM,
        tasks: list[str],
        before: Sequence[Written],
        context: Context,
    ) -> list[Written]:
        from l2kd_ray.families.language.model.generation import TopK, generate

        longest = min(self.max_length or model.context, model.context)
        prompts = [text.prompt(task) for task in tasks]
        rooms = [longest - len(prompt) - 1 for prompt in prompts]  # 1: the eos of an unended one
        numbers = {q.task: sum(one.task == q.task for one in before) for q in self.quotas}
        streams = []
        for task in tasks:
            streams.append(generator(self.seed or 0, "replay", task, numbers[task]))
            numbers[task] += 1

        def sample(share: Sequence[int]) -> list[TokenIds]:
            own = [streams[place] for place in share]
            sampler = TopK.seeded(self.top_k, self.temperature or 1.0, own, max(rooms))
            starts = [prompts[place] for place in share]
            return generate(model, starts, sampler, max_new_tokens=max(rooms), eos=text.eos)

        long = context.shared_out(sample, range(len(tasks)))
        generated = [tokens[:room] for tokens, room in zip(long, rooms, strict=True)]
        return [
            Written(task, tokens, tokens[-1:] == [text.eos], text.parse(task, tokens), [])
            for task, tokens in zip(tasks, generated, strict=True)
        ]

    def _check(
        self, fresh: list[Written], before: list[Written], text: SequenceFormat, context: Context
    ) -> None:
        """Note what speaks against each fresh sample; one without faults is kept."""
        labels = {q.task: _answers(q.examples.load(context)) for q in self.quotas if q.labelled}
        others = [(named(one), one.load()) for one in self.filters if isinstance(one, Plugin)]
        known = {(one.task, *one.tokens) for one in before}
        for one in fresh:
            if one.sample is None:
                one.faults.append("answer token")
            elif legal := labels.get(one.task):
                one.faults += [] if text.decode(one.sample.answer) in legal else ["label"]
            if "ended" in self.filters and not one.ended:
                one.faults.append(FILTERS["ended"])
            if "duplicate" in self.filters and (one.task, *one.tokens) in known:
                one.faults.append(FILTERS["duplicate"])
            if one.sample is not None:
                written = _example(one.sample, text)
                one.faults += [name for name, keeps in others if not keeps(one.task, written)]
            known.add((one.task, *one.tokens))
        for quota, judge in zip(self.quotas, self.judges):  # noqa: B905 (no judges, or one each)
            _ask(judge, [o for o in fresh if o.task == quota.task and not o.faults], text, context)

    def _quality(self, written: list[Written], text: SequenceFormat, context: Context) -> Scores:
        """Shares in per cent. Of what was written: valid (exactly one `<ans>`), ended, duplicates;
        of what was kept: its words speak of its token's task, it is a copy of a training example,
        distinct n-grams."""
        kept = [one.sample for one in written if one.sample is not None and not one.faults]
        different = {(one.task, *one.tokens) for one in written}
        words = [f"{text.decode(s.question)} {text.decode(s.answer)}".split() for s in kept]
        real = {q.task: [_words(one) for one in q.examples.load(context)] for q in self.quotas}
        model = TaskModel(real)
        copies = {(task, "".join(words)) for task, texts in real.items() for words in texts}
        pairs = list(zip((sample.task for sample in kept), words, strict=True))
        return {
            "wanted": sum(quota.count for quota in self.quotas),
            "written": len(written),
            "kept": len(kept),
            "valid": _percent(one.sample is not None for one in written),
            "ended": _percent(one.ended for one in written),
            "duplicates": 100 * (1 - len(different) / len(written)),
            "task_match": _percent(model.most_likely(words) == task for task, words in pairs),
            "copies": _percent((task, "".join(words)) in copies for task, words in pairs),
            "distinct_1": 100 * distinct(words, 1),
            "distinct_2": 100 * distinct(words, 2),
        }


@dataclass(frozen=True, eq=False)
class RealSamples(Stage):
    """Real examples of former tasks, drawn at random: LAMOL-real's replay, GEM's memory."""

    kind = "replay"
    initial: Stage
    """Whose tokenizer and context the samples are cut to."""
    quotas: tuple[Quota, ...]
    max_length: int | None
    seed: int

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.model.causal_lm import CausalLM
        from l2kd_ray.families.language.model.corpus import Corpus
        from l2kd_ray.families.language.model.sequences import SequenceFormat

        folder = context.files_of(self.initial)
        text, context_length = SequenceFormat.load(folder), CausalLM.load(folder).context
        longest = min(self.max_length or context_length, context_length)
        kept: list[Written] = []
        for quota in self.quotas:
            examples = quota.examples.load(context)
            order = generator(self.seed, "real", quota.task).permutation(len(examples))
            chosen = [examples[index] for index in sorted(order[: quota.count].tolist())]
            for sample in Corpus.of(chosen, text, quota.task, longest):
                kept.append(Written(quota.task, text.qa(sample).tokens, True, sample, []))
        _save(context.out / SAMPLES, (_line(one, text) for one in kept))
        return {"wanted": sum(quota.count for quota in self.quotas), "kept": len(kept)}


def read_samples(folder: Path) -> list[Sample]:
    """The kept samples of a replay stage's files."""
    return list(_kept(folder))


def _kept(folder: Path) -> Iterator[Sample]:
    from l2kd_ray.families.language.model.sequences import Sample

    with (folder / SAMPLES).open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            if not line["faults"]:
                yield Sample(line["task"], line["question_tokens"], line["answer_tokens"])


def _ask(judge: Judge, asked: list[Written], text: SequenceFormat, context: Context) -> None:
    """Have a task's teacher answer the questions of some samples; note where it disagrees."""
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.generation import generate, greedy

    samples = [one.sample for one in asked if one.sample is not None]
    if not samples:
        return
    teacher = CausalLM.load(context.files_of(judge.teacher)).to(context.device)
    sequences = [text.qa(sample) for sample in samples]
    prompts = [sequence.tokens[: sequence.supervised] for sequence in sequences]

    def decode(share: Sequence[TokenIds]) -> list[TokenIds]:
        return generate(teacher, share, greedy, max_new_tokens=judge.max_new_tokens, eos=text.eos)

    said = context.shared_out(decode, prompts)
    claimed = [_example(sample, text, number) for number, sample in enumerate(samples)]
    _, each = score(judge.metric, [text.decode(tokens) for tokens in said], claimed)
    for one, value in zip(asked, each, strict=True):
        if value < judge.least:
            one.faults.append("disagreement")


def _answers(examples: Iterable[Example]) -> set[str]:
    return {answer.strip() for example in examples for answer in example.answers}


def _example(sample: Sample, text: SequenceFormat, number: int = 0) -> Example:
    """A pseudo-sample in words; its context and question are one text."""
    return Example(str(number), text.decode(sample.question), "", (text.decode(sample.answer),))


def _words(example: Example) -> list[str]:
    return f"{example.context} {example.question} {example.answers[0]}".split()


def _line(one: Written, text: SequenceFormat) -> dict[str, Any]:
    line: dict[str, Any] = {"task": one.task, "ended": one.ended, "faults": one.faults}
    if one.sample is None:
        return line | {"text": text.decode(one.tokens), "tokens": one.tokens}
    return line | {
        "question": text.decode(one.sample.question),
        "answer": text.decode(one.sample.answer),
        "question_tokens": one.sample.question,
        "answer_tokens": one.sample.answer,
    }


def _save(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _percent(truths: Iterable[bool]) -> float:
    values = list(truths)
    return 100 * sum(values) / len(values) if values else 0.0
