"""The labelled tasks that are made up: seeded, disjoint, learnable, and related as they say."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from l2kd_ray.tasks import Example, Task, family, registered, resolve, texts
from l2kd_ray.tasks.made import COLORS, PAIR_SIZES, PEOPLE, THINGS, TOPIC_SIZES, TOPICS
from l2kd_ray.tasks.spec import Split, TaskSpec

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
TOPIC_TASKS = [f"made.topics.{domain}" for domain in "abcd"]
MADE = [*TOPIC_TASKS, "made.pairs.a"]


def make(name: str, data_seed: int = 0) -> Task:
    return resolve(TaskSpec(name=name), data_dir=None, data_seed=data_seed, caps={}, where="test")


def examples(name: str, split: Split) -> list[Example]:
    return make(name).splits[split].examples()


class NaiveBayes:
    """Of words, with add-one smoothing."""

    def __init__(self, rows: list[tuple[str, str]]) -> None:
        self.words = {label: Counter[str]() for _, label in rows}
        for text, label in rows:
            self.words[label].update(text.split())
        self.size = len({word for words in self.words.values() for word in words})

    def label(self, text: str) -> str:
        def likelihood(label: str) -> float:
            words = self.words[label]
            total = words.total() + self.size
            return sum(math.log((words[word] + 1) / total) for word in text.split())

        return max(sorted(self.words), key=likelihood)

    def accuracy(self, rows: list[tuple[str, str]]) -> float:
        return sum(self.label(text) == label for text, label in rows) / len(rows)


def topic_rows(name: str, split: Split) -> list[tuple[str, str]]:
    return [(example.context, example.answers[0]) for example in examples(name, split)]


@pytest.mark.parametrize("name", MADE)
def test_splits_are_sized_disjoint_balanced_and_seeded(name: str) -> None:
    sizes = PAIR_SIZES if name == "made.pairs.a" else TOPIC_SIZES
    task = make(name)
    rows = {split: task.splits[split].examples() for split in SPLITS}
    assert {split: len(rows[split]) for split in SPLITS} == sizes
    everything = [example for split in SPLITS for example in rows[split]]
    assert len({example.context for example in everything}) == len(everything)
    for split in SPLITS:
        counts = Counter(example.answers[0] for example in rows[split])
        assert max(counts.values()) <= 1.2 * min(counts.values())
    assert rows["test"] == examples(name, "test")
    assert rows["test"] != make(name, data_seed=1).splits["test"].examples()


def test_they_are_listed_and_no_part_of_the_family_of_grammars() -> None:
    assert set(MADE) < registered().keys()
    for name in MADE:
        assert family(name) == ()
        assert name not in family("gen.rest")
    assert (make("made.pairs.a").kind, make("made.topics.a").kind) == ("pair", "classify")


def test_topics_can_be_learnt_and_not_perfectly() -> None:
    for name in TOPIC_TASKS:
        model = NaiveBayes(topic_rows(name, "train"))
        assert 0.6 < model.accuracy(topic_rows(name, "test")) < 0.97
        assert {label for _, label in topic_rows(name, "train")} == set(TOPICS)


def test_a_domain_helps_another_the_more_the_nearer_it_is() -> None:
    few = topic_rows("made.topics.a", "train")[:30]
    test = topic_rows("made.topics.a", "test")
    alone = NaiveBayes(few).accuracy(test)
    helped = {
        name: NaiveBayes(few + topic_rows(name, "train")).accuracy(test) for name in TOPIC_TASKS[1:]
    }
    print(alone, helped)
    assert min(helped.values()) > alone + 0.03
    near, far = (helped[f"made.topics.{d}"] for d in "bc")
    assert near > far
    far_alone = NaiveBayes(topic_rows("made.topics.c", "train")).accuracy(test)
    own = NaiveBayes(topic_rows("made.topics.a", "train")).accuracy(test)
    assert 1 / len(TOPICS) < far_alone < own - 0.1


def test_a_domain_is_known_by_its_words() -> None:
    def rows(split: Split) -> list[tuple[str, str]]:
        return [(text, name) for name in TOPIC_TASKS for text, _ in topic_rows(name, split)]

    assert NaiveBayes(rows("train")).accuracy(rows("test")) > 0.7


def facts(text: str) -> list[tuple[str, ...]]:
    return [
        tuple(w for w in fact.split() if w in PEOPLE + COLORS + THINGS)
        for fact in text.split(" and ")
    ]


def test_a_pair_follows_if_and_only_if_its_fact_was_told() -> None:
    swapped = 0
    for example in examples("made.pairs.a", "train"):
        first, second = texts(example, "pair")
        told, (claim,) = facts(first), facts(second)
        follows = any(claim in (fact, (fact[0], fact[2])) for fact in told)
        assert example.answers == ("yes" if follows else "no",)
        swapped += not follows and set(second.split()) <= set(first.split())
    assert swapped > 100  # the words alone do not tell
