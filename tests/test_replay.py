"""Replay: how much is written, by what streams, what is kept of it, and how good it is."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.studies import TINY, planned, resolved
from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.store import Store
from l2kd_ray.families import METHODS
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.builder import LanguageBuilder
from l2kd_ray.families.language.model import generation
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import Sample, SequenceFormat
from l2kd_ray.families.language.stages.quality import TaskModel, distinct
from l2kd_ray.families.language.stages.replay import (
    ROUNDS,
    Judge,
    Quota,
    RealSamples,
    Replay,
    read_samples,
)
from l2kd_ray.study import Study, load
from l2kd_ray.study.reading import parse_study
from l2kd_ray.tasks import Task

TASKS = ["gen.intent", "gen.rest", "gen.tv"]
SEED = Seed.of(531)
Lines = list[dict[str, Any]]

# Trained until its samples are worth looking at: about one in two holds one `<ans>`.
WRITER: Mapping[str, Any] = {
    **TINY,
    "tasks": TASKS,
    "methods": ["lamol"],
    "orders": [">".join(TASKS)],
    "student": {"arch": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 96},
    "train": {"epochs": 25, "batch_size": 8, "lr": 1e-2, "lm_weight": 1.0, "max_length": 90},
    "max_train": 12,
}


class World:
    """A student that has learnt two tasks, and the replay that the third asks of it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        file = folder / "study.yaml"
        file.write_text(yaml.safe_dump({**WRITER, **changes}))
        self.study, self.store = load(file), Store(str(folder / "results"))
        self.students = [step[0].stage.model for step in self.study.trials()[-1].steps]
        found = self.students[3].replay
        assert isinstance(found, Replay)
        self.replay: Replay = found

    def run(self, replay: Replay) -> tuple[Mapping[str, float], Lines]:
        scores = obtain(replay, self.store)
        text = (self.store.fetch("replay", replay.key) / "samples.jsonl").read_text("utf-8")
        return scores, [json.loads(line) for line in text.splitlines()]

    def lines(self, replay: Replay, task: str) -> Lines:
        return [line for line in self.run(replay)[1] if line["task"] == task]

    def quotas(self, **counts: int) -> tuple[Quota, ...]:
        """`intent=3`: so many samples of gen.intent."""
        build = self.study.builder
        return tuple(
            Quota(build.train_examples(f"gen.{name}", SEED), n)
            for name, n in sorted(counts.items())
        )

    def text(self) -> SequenceFormat:
        return SequenceFormat.load(self.store.fetch("initial", self.students[0].key))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    obtain(made.replay, made.store)
    return made


def encode(text: SequenceFormat, said: str) -> list[int]:
    return list(text.tokenizer(said, add_special_tokens=False)["input_ids"])


def tokens_of(line: Mapping[str, Any], text: SequenceFormat) -> list[int]:
    """What was generated, eos included."""
    if "tokens" in line:
        return list(line["tokens"])
    end = [text.eos] if line["ended"] else []
    return [*line["question_tokens"], text.answer, *line["answer_tokens"], *end]


# How many ----------------------------------------------------------------------------------------


def sized(rows: Sequence[int], ratio: float, shares: str) -> LanguageBuilder:
    """The builder of a study whose tasks have so many training examples."""
    config = parse_study({**TINY, "tasks": TASKS, "replay": {"ratio": ratio, "shares": shares}})
    found = resolved(tuple(TASKS))
    tasks = {
        name: replace(
            task,
            splits={**task.splits, "train": replace(task.splits["train"], cap=None, rows=n)},
        )
        for (name, task), n in zip(found.tasks.items(), rows, strict=True)
    }
    return LanguageBuilder(config.settings, replace(found, tasks=tasks), METHODS["lamol"])


def counts(replay: Any) -> dict[str, int]:
    return {} if replay is None else {quota.task: quota.count for quota in replay.quotas}


# Some are multiples of 100, where a float's 0.07 * 100 is more than 7.
SIZES = st.integers(1, 7000) | st.integers(1, 70).map(lambda hundreds: 100 * hundreds)


@given(
    st.lists(SIZES, min_size=3, max_size=3),
    st.sampled_from(["0", "0.01", "0.05", "0.07", "0.2", "0.55", "1", "3"]),
)
@settings(max_examples=80)
def test_quotas_are_those_of_lamol(rows: list[int], ratio: str) -> None:
    """ceil(ratio * |D|), rounded down to a multiple of the number of former tasks, equal shares;
    or in proportion to their sizes."""
    wanted = math.ceil(Fraction(ratio) * rows[2])
    for former in (TASKS[:1], TASKS[:2]):
        start = sized(rows, float(ratio), "equal").initial(SEED)
        equal = sized(rows, float(ratio), "equal").replay(start, tuple(former), TASKS[2], SEED)
        share = (wanted - wanted % len(former)) // len(former)
        assert counts(equal) == (dict.fromkeys(former, share) if share else {})
        real = sized(rows, float(ratio), "equal").real_replay(tuple(former), TASKS[2], SEED)
        assert counts(real) == counts(equal)
        by_size = sized(rows, float(ratio), "size").replay(start, tuple(former), TASKS[2], SEED)
        total = sum(rows[: len(former)])
        shares = {t: math.floor(Fraction(wanted * n, total)) for t, n in zip(former, rows)}  # noqa: B905
        assert counts(by_size) == {task: n for task, n in shares.items() if n}
        assert sum(shares.values()) <= wanted


@given(SIZES, st.sampled_from(["0.05", "0.07", "0.55", "1"]))
@settings(max_examples=30)
def test_a_memory_is_a_share_of_each_former_task(rows: int, ratio: str) -> None:
    build = sized([rows, 3, 5], 1, "equal")
    kept = build.kept(tuple(TASKS[:2]), SEED, float(ratio))
    assert kept is not None
    share = Fraction(ratio)
    assert counts(kept) == dict(
        zip(TASKS, [math.ceil(share * rows), math.ceil(share * 3)], strict=False)
    )


def test_only_classification_has_labels_to_check() -> None:
    study = planned(tasks=TASKS, methods=["lamol"], replay={"ratio": 1, "filters": ["label"]})
    replays = [s for t in study.trials() for s in t.stages() if isinstance(s, Replay)]
    labelled = {quota.task: quota.labelled for replay in replays for quota in replay.quotas}
    assert labelled == {"gen.intent": True, "gen.rest": False, "gen.tv": False}


def test_the_judges_are_the_teachers_of_the_tasks() -> None:
    """Where another model teaches, it judges, too."""
    wider = {"arch": "gpt2", "n_layer": 2, "n_embd": 16, "n_head": 2}
    study = planned(
        tasks=TASKS, methods=["l2kd"], teacher=wider, replay={"ratio": 1, "agreement": 50.0}
    )
    trial = study.trials()[-1]
    replays = [stage for stage in trial.stages() if isinstance(stage, Replay)]
    build, seed = study.builder, study.config.replicates[0]
    for replay in replays:
        assert len(replay.judges) == len(replay.quotas)
        for quota, judge in zip(replay.quotas, replay.judges, strict=True):
            teacher = build.teacher(quota.task, seed)  # type: ignore[attr-defined]
            assert (judge.teacher, judge.least) == (teacher, 50.0)
            assert judge.teacher != build.reference("single", quota.task, seed)  # type: ignore[attr-defined]
    assert replays


# What is kept ------------------------------------------------------------------------------------


class Script:
    """Generation as it is written down: the n-th sample of each task, a teacher's answers."""

    def __init__(self, text: SequenceFormat) -> None:
        self.format = text
        self.samples: dict[str, Callable[[int], str]] = {}
        self.answers: dict[str, str] = {}
        self.written: Counter[str] = Counter()

    def __call__(
        self, model: Any, prompts: Sequence[list[int]], sampler: Any, **how: Any
    ) -> list[list[int]]:
        return [self._continue(prompt) for prompt in prompts]

    def _continue(self, prompt: list[int]) -> list[int]:
        if prompt[-1] == self.format.answer:  # a teacher is asked
            question = self.format.decode(prompt[:-1])
            return [*encode(self.format, self.answers[question]), self.format.eos]
        task = next(task for task in self.samples if self.format.prompt(task) == prompt)
        self.written[task] += 1
        return encode(self.format, self.samples[task](self.written[task] - 1))


@pytest.fixture
def stage_set(world: World, store: Store) -> World:
    """The world with a store of its own, and an untrained model that says what it is told."""
    other = copy(world)
    other.store, other.replay = store, replace(world.replay, model=world.students[0])
    obtain(world.students[0], store)
    return other


@pytest.fixture
def script(stage_set: World, monkeypatch: pytest.MonkeyPatch) -> Script:
    made = Script(stage_set.text())
    monkeypatch.setattr(generation, "generate", made)
    return made


SAID = [
    ("wake tom<ans>set alarm<eos>", None),
    ("wake anna<ans>set alarm", "not ended"),
    ("wake tom set alarm<eos>", "answer token"),
    ("wake<ans>tom<ans>set alarm<eos>", "answer token"),
    ("wake lisa<ans>fly<eos>", "label"),
    ("wake tom<ans>set alarm<eos>", "duplicate"),
    ("wake tom<ans><eos>", "label"),
    ("", "answer token"),
]


@pytest.mark.parametrize("size", range(4))
def test_what_is_kept_passes_the_filters_named(stage_set: World, script: Script, size: int) -> None:
    by_name = {"ended": "not ended", "label": "label", "duplicate": "duplicate"}
    for chosen in itertools.combinations(by_name, size):
        script.written.clear()
        script.samples["gen.intent"] = lambda number: SAID[number][0]
        (quota,) = stage_set.quotas(intent=len(SAID))
        stage = replace(
            stage_set.replay,
            quotas=(replace(quota, labelled="label" in chosen),),
            filters=tuple(sorted(chosen)),
        )
        scores, lines = stage_set.run(stage)
        against = {"answer token", *(by_name[name] for name in chosen)}
        for line, (said, fault) in zip(lines, SAID, strict=True):
            assert tokens_of(line, script.format) == encode(script.format, said)
            if fault in against:
                assert fault in line["faults"]
            elif fault is None:
                assert line["faults"] == []
        kept = [said for said, fault in SAID if fault not in against]
        read = read_samples(stage_set.store.fetch("replay", stage.key))
        written = [script.format.decode([*s.question, *s.answer]) for s in read]
        assert written == [script.format.decode(encode(script.format, said)) for said in kept]
        assert scores["kept"] == len(kept)
        assert (scores["wanted"], scores["written"]) == (len(SAID), len(SAID))
        assert scores["valid"] == pytest.approx(100 * 5 / 8)
        assert scores["ended"] == pytest.approx(100 * 6 / 8)
        assert scores["duplicates"] == pytest.approx(100 * 1 / 8)


def test_a_sample_holds_exactly_one_answer_token(world: World) -> None:
    """By what a real student wrote: kept if and only if, and every line can be read again."""
    _, lines = world.run(world.replay)
    text, kept = world.text(), []
    for line in lines:
        tokens = tokens_of(line, text)
        one = tokens.count(text.answer) == 1
        assert (line["faults"] == []) == one
        assert line["ended"] == (tokens[-1:] == [text.eos])
        assert text.eos not in tokens[:-1]
        assert len(text.prompt(line["task"])) + len(tokens) + (not line["ended"]) <= 90
        if one:
            kept.append((line["task"], line["question_tokens"], line["answer_tokens"]))
            assert line["question"] == text.decode(line["question_tokens"])
    samples = read_samples(world.store.fetch("replay", world.replay.key))
    assert [(s.task, s.question, s.answer) for s in samples] == kept
    assert 0 < len(kept) < len(lines)


def test_a_quota_is_refilled_and_never_overfilled(stage_set: World, script: Script) -> None:
    """One task's every third sample is good, another's every one, a third's none."""
    script.samples = {
        "gen.intent": lambda number: f"{number}<ans>x<eos>" if number % 3 == 2 else "x<eos>",
        "gen.rest": lambda number: f"{number}<ans>x<eos>",
        "gen.tv": lambda number: "x<eos>",
    }
    stage = replace(stage_set.replay, quotas=stage_set.quotas(intent=4, rest=3, tv=2), refill=True)
    scores, lines = stage_set.run(stage)
    kept = Counter(line["task"] for line in lines if not line["faults"])
    assert kept == {"gen.intent": 3, "gen.rest": 3}
    # Of the numbers 0-3, 4-6, 7-8, 9, 10 the good ones are 2, 5, 8: five rounds, one short.
    assert script.written == {"gen.intent": 4 + 3 + 2 + 1 + 1, "gen.rest": 3, "gen.tv": 2 * ROUNDS}
    assert scores["written"] == len(lines) == script.written.total()


@pytest.mark.parametrize("filters", [(), ("duplicate", "ended")])
def test_the_first_round_is_what_is_written_without_refill(world: World, filters: Any) -> None:
    plain = replace(world.replay, quotas=world.quotas(intent=5, rest=7), filters=filters)
    refilled = replace(plain, refill=True)
    scores, lines = world.run(refilled)
    once, first = world.run(plain)
    assert len(lines) > len(first)
    for task, count in (("gen.intent", 5), ("gen.rest", 7)):
        own = [line for line in lines if line["task"] == task]
        assert own[:count] == [line for line in first if line["task"] == task]
        assert sum(not line["faults"] for line in own) <= count
        # What is written again goes on in the task's streams.
        (quota,) = world.quotas(**{task.removeprefix("gen."): len(own)})
        assert own == world.lines(replace(plain, quotas=(quota,)), task)
    assert scores["kept"] >= once["kept"]


def test_a_sample_is_kept_where_its_teacher_agrees(stage_set: World, script: Script) -> None:
    script.samples = {
        "gen.intent": lambda number: f"wake {number}<ans>set alarm{'' if number else '<ans>'}<eos>",
        "gen.rest": lambda number: f"rest {number}<ans>blue moon is cheap<eos>",
    }
    script.answers = {
        "wake 1": "set alarm", "wake 2": "play music", "wake 3": "set  alarm",
        "rest 0": "blue moon is cheap", "rest 1": "blue moon", "rest 2": "red lion",
    }  # fmt: skip
    teacher = stage_set.students[0]
    judges = (Judge(teacher, "em", 100, 8), Judge(teacher, "rouge", 50, 8))
    stage = replace(stage_set.replay, quotas=stage_set.quotas(intent=4, rest=3), judges=judges)
    _, lines = stage_set.run(stage)
    faults = [line["faults"] for line in lines]
    # ROUGE of half an answer: 2/3, 1/2, 2/3
    no = ["disagreement"]
    assert faults == [["answer token"], [], no, [], [], [], no]
    stage = replace(stage, judges=(judges[0], replace(judges[1], least=70)))
    script.written.clear()
    assert [line["faults"] for line in stage_set.run(stage)[1]][4:] == [[], no, no]


def test_agreement_is_with_the_teachers_own_greedy_answer(world: World) -> None:
    """By a real teacher, asked through transformers with the very tokens of the sample."""
    teacher = world.students[1]
    stage = replace(
        world.replay,
        model=teacher,
        top_k=2,
        temperature=0.3,
        quotas=world.quotas(intent=48),
        judges=(Judge(teacher, "em", 100, 8),),
    )
    _, lines = world.run(stage)
    text, model = world.text(), CausalLM.load(world.store.fetch("learn", teacher.key)).eval()
    verdicts: Counter[bool] = Counter()
    for line in lines:
        if line["faults"] == ["answer token"]:
            continue
        prompt = torch.tensor([[*line["question_tokens"], text.answer]])
        said = model.lm.generate(
            prompt, max_new_tokens=8, do_sample=False, eos_token_id=text.eos, pad_token_id=text.eos
        )[0, prompt.shape[1] :]
        same = text.decode(said.tolist()).split() == line["answer"].split()
        assert line["faults"] == ([] if same else ["disagreement"])
        verdicts[same] += 1
    assert verdicts[True]
    assert verdicts[False]


# By what streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["token", "text"])
def test_what_a_sample_is_does_not_depend_on_the_others(
    world: World, tmp_path: Path, prompt: str
) -> None:
    """The n-th sample of a task is its n-th, however many are written, and of what other tasks:
    with prompts of unlike lengths, too, and cut where a sample may not be longer."""
    if prompt == "text":
        train = {**WRITER["train"], "epochs": 8, "max_length": 24}
        tasks = [*TASKS[:2], {"name": "gen.tv", "max_train": 4}]
        world = World(tmp_path, task_prompt="text", train=train, tasks=tasks)
        obtain(world.students[0], world.store)
        lengths = [len(world.text().prompt(task)) for task in TASKS]
        assert len(set(lengths)) > 1
    many = replace(world.replay, quotas=world.quotas(intent=8, rest=6))
    for counts_ in ({"intent": 3, "rest": 3}, {"intent": 8}, {"rest": 6}, {"rest": 1, "intent": 8}):
        few = replace(many, quotas=world.quotas(**counts_))
        for name, count in counts_.items():
            wanted = world.lines(many, f"gen.{name}")
            assert len(wanted) >= count
            assert world.lines(few, f"gen.{name}") == wanted[:count]


def test_another_seed_writes_other_samples(world: World) -> None:
    (quota,) = world.quotas(intent=4)
    one = replace(world.replay, quotas=(quota,))
    other = replace(one, seed=1)
    assert world.run(one)[1] != world.run(other)[1]


# How good it is ----------------------------------------------------------------------------------


def test_quality_is_as_defined(world: World) -> None:
    """Against each measure computed from the file, the naive way."""
    stage = replace(world.replay, quotas=world.quotas(intent=12, rest=12))
    scores, lines = world.run(stage)
    text = world.text()
    kept = [line for line in lines if not line["faults"]]
    texts = [f"{line['question']} {line['answer']}".split() for line in kept]
    for n in (1, 2):
        grams = [" ".join(t[i : i + n]) for t in texts for i in range(len(t) - n + 1)]
        assert scores[f"distinct_{n}"] == pytest.approx(100 * len(set(grams)) / len(grams))
    tokens = [(line["task"], *tokens_of(line, text)) for line in lines]
    repeated = sum(one in tokens[:place] for place, one in enumerate(tokens))
    assert scores["duplicates"] == pytest.approx(100 * repeated / len(lines))
    assert scores["ended"] == pytest.approx(100 * sum(o["ended"] for o in lines) / len(lines))
    valid = sum(t.count(text.answer) == 1 for t in tokens)
    assert scores["valid"] == pytest.approx(100 * valid / len(lines))
    assert (scores["wanted"], scores["written"], scores["kept"]) == (24, len(lines), len(kept))


def test_samples_that_speak_of_their_task_and_copies(stage_set: World, script: Script) -> None:
    """Each of the two tasks writes an example of its own, one of the other's, and a new one."""
    data = {
        name: task.splits["train"].drawn(SEED.data).examples()
        for name, task in tasks_of(stage_set.study).items()
    }

    def example(task: str, number: int) -> str:
        one = data[task][number]
        return f"{one.context} {one.question}<ans>{one.answers[0]}<eos>"

    said = {
        "gen.intent": [example("gen.intent", 3), example("gen.rest", 1), "wake wake<ans>set<eos>"],
        "gen.rest": [example("gen.rest", 2), example("gen.intent", 1), "thai food<ans>serves<eos>"],
    }
    script.samples = {task: of.__getitem__ for task, of in said.items()}
    stage = replace(stage_set.replay, quotas=stage_set.quotas(intent=3, rest=3))
    scores, _ = stage_set.run(stage)
    assert scores["task_match"] == pytest.approx(100 * 4 / 6)
    assert scores["copies"] == pytest.approx(100 * 2 / 6)  # of the other's task it is none


def tasks_of(study: Study) -> Mapping[str, Task]:
    return study.resolved.tasks


WORDS = st.lists(st.lists(st.sampled_from("abcde"), max_size=5), max_size=6)


@given(WORDS, st.integers(1, 3))
def test_distinct_n(texts: list[list[str]], n: int) -> None:
    grams = [tuple(t[i : i + n]) for t in texts for i in range(len(t)) if i + n <= len(t)]
    unique = []
    for gram in grams:
        if gram not in unique:
            unique.append(gram)
    assert distinct(texts, n) == (len(unique) / len(grams) if grams else 0.0)


@given(WORDS, WORDS, st.lists(st.sampled_from("abcdefg"), max_size=6))
@settings(max_examples=60)
def test_the_task_model_is_naive_bayes(
    one: list[list[str]], other: list[list[str]], words: list[str]
) -> None:
    texts = {"b": one, "a": other}
    vocabulary = {word for of in texts.values() for text in of for word in text}
    likelihood = {}
    for task, of in texts.items():
        flat = [word for text in of for word in text]
        likelihood[task] = math.prod(
            Fraction(flat.count(word) + 1, len(flat) + len(vocabulary) + 1) for word in words
        )
    if likelihood["a"] == likelihood["b"]:
        return
    best = "a" if likelihood["a"] > likelihood["b"] else "b"
    assert TaskModel(texts).most_likely(words) == best


# Real samples ------------------------------------------------------------------------------------


def test_real_samples_are_training_examples(world: World) -> None:
    quotas = world.quotas(intent=5, rest=3)
    stage = RealSamples(quotas, world.students[0], 90, 7)
    assert obtain(stage, world.store) == {"wanted": 8, "kept": 8}
    samples = read_samples(world.store.fetch("replay", stage.key))
    assert Counter(sample.task for sample in samples) == {"gen.intent": 5, "gen.rest": 3}
    text = world.text()
    for quota in quotas:
        every = [
            Sample(
                quota.task,
                encode(text, e.context) + encode(text, e.question),
                encode(text, e.answers[0]),
            )
            for e in quota.examples.data.examples()
        ]
        own = [sample for sample in samples if sample.task == quota.task]
        places = [every.index(sample) for sample in own]
        assert places == sorted(set(places))  # each once, in the order of the data


def test_real_samples_are_drawn_by_seed_and_task_alone(world: World, tmp_path: Path) -> None:
    def drawn(initial: Any, seed: int = 7, **counts_: int) -> dict[str, list[Any]]:
        stage = RealSamples(world.quotas(**counts_), initial, 90, seed)
        store = Store(str(tmp_path / "other")) if initial is not world.students[0] else world.store
        obtain(stage, store)
        found = read_samples(store.fetch("replay", stage.key))
        return {f"gen.{name}": [s for s in found if s.task == f"gen.{name}"] for name in counts_}

    first = drawn(world.students[0], intent=5, rest=3)
    alone = drawn(world.students[0], intent=5)
    assert alone["gen.intent"] == first["gen.intent"]
    fewer = drawn(world.students[0], intent=2)["gen.intent"]
    assert all(sample in first["gen.intent"] for sample in fewer)
    assert drawn(replace(world.students[0], seed=9), intent=5, rest=3) == first
    assert drawn(world.students[0], seed=8, intent=5, rest=3) != first
    whole = drawn(world.students[0], intent=500)["gen.intent"]
    assert len(whole) == 12  # there are no more


def test_real_samples_are_cut_to_length(world: World) -> None:
    stage = RealSamples(world.quotas(rest=4), world.students[0], 20, 7)
    obtain(stage, world.store)
    text = world.text()
    samples = read_samples(world.store.fetch("replay", stage.key))
    assert max(len(text.lm(sample).tokens) for sample in samples) == 20
    assert all(sample.answer for sample in samples)


def test_a_training_split_is_read_for_labels_and_quality_alone(world: World) -> None:
    """Which quota is labelled, and what is filtered, is in the key; where the data lie is not."""
    (quota,) = world.quotas(intent=4)
    one = replace(world.replay, quotas=(quota,))

    data = quota.examples.data
    data = replace(data, source=replace(data.source, location="/elsewhere"), rows=99)
    assert replace(one, quotas=(replace(quota, examples=Examples(data)),)).key == one.key
    for other in (
        replace(one, quotas=(replace(quota, labelled=True),)),
        replace(one, refill=True),
        replace(one, filters=("ended",)),
        replace(one, judges=(Judge(world.students[1], "em", 50, 8),)),
    ):
        assert other.key != one.key
