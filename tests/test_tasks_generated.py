"""The generated tasks: deterministic, disjoint, small, and with one right answer."""

from __future__ import annotations

import re

import pytest

from l2kd_ray.tasks import Example, Task, family, resolve
from l2kd_ray.tasks.grammars import grammars
from l2kd_ray.tasks.metrics import parse_state
from l2kd_ray.tasks.spec import Split, TaskSpec

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
NAMES = list(grammars())


def make(name: str, data_seed: int = 0) -> Task:
    return resolve(TaskSpec(name=name), data_dir=None, data_seed=data_seed, caps={}, where="test")


def every_example(task: Task) -> list[Example]:
    return [example for split in SPLITS for example in task.splits[split].examples()]


def words(example: Example) -> list[str]:
    return re.findall(r"\w+", f"{example.context} {example.question} {example.answers[0]}")


def test_the_family_is_every_generated_task() -> None:
    assert len(NAMES) >= 6
    assert all(name.startswith("gen.") for name in NAMES)
    assert family(NAMES[0]) == tuple(NAMES)
    assert family("sst") == ()


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_sized_disjoint_and_seeded(name: str) -> None:
    task = make(name)
    contexts = {split: {e.context for e in task.splits[split].examples()} for split in SPLITS}
    sizes = {"train": 400, "dev": 50, "test": 100}
    assert {split: len(found) for split, found in contexts.items()} == sizes
    assert {split: task.splits[split].rows for split in SPLITS} == sizes
    assert len(set.union(*contexts.values())) == 550  # hence disjoint, and one answer a context
    assert every_example(task) == every_example(make(name))
    assert every_example(task) != every_example(make(name, data_seed=1))


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_item_is_in_every_split(name: str) -> None:
    kinds = [{turn[0] for item in kind for turn in item} for kind in grammars()[name].items()]
    assert len(set.union(*kinds)) == sum(map(len, kinds)), "a context occurs in two kinds"
    for split in SPLITS:
        found = {e.context for e in make(name).splits[split].examples()}
        assert all(found & kind for kind in kinds), split


def test_the_family_has_few_words_and_short_examples() -> None:
    examples = [example for name in NAMES for example in every_example(make(name))]
    assert 150 <= len({word for example in examples for word in words(example)}) <= 250
    assert max(len(words(example)) for example in examples) <= 40


def test_test_words_are_seen_in_training() -> None:
    for name in NAMES:
        task = make(name)
        seen = {word for example in task.splits["train"].examples() for word in words(example)}
        test = {word for example in task.splits["test"].examples() for word in words(example)}
        assert test <= seen, name


def test_domains_share_inputs_form_and_word_them_differently() -> None:
    domains = [make(name) for name in ("gen.rest", "gen.hotel", "gen.tv")]
    acts, answers = [], []
    for task in domains:
        examples = task.splits["train"].examples()
        assert {e.question for e in examples} == {"what is the natural language form ?"}
        acts.append({e.context.partition("(")[0] for e in examples})
        answers.append([set(re.findall("[a-z]+", e.answers[0])) for e in examples])
    assert acts[0] == acts[1] == acts[2]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not set.intersection(*answers[one]) & set.intersection(*answers[other])


def test_dialogues_are_read_as_states() -> None:
    examples = make("gen.state").splits["test"].examples()
    groups = {e.group for e in examples}
    assert None not in groups
    slots = [list(parse_state(e.answers[0])) for e in examples if e.group == examples[0].group]
    assert slots == [["food"], ["area"], ["price"]]
    assert all(parse_state(e.answers[0]) for e in examples)
