"""Generated classification tasks from word distributions: no download, for all classifiers.

Topics: a short text is drawn from its topic's words, some words of another topic, and words that
carry no information. Four domains have the same topics. A domain uses 15 of a topic's 24 words, and
the next domain begins 6 words later, with other words the most frequent: knowledge of one domain
helps in another, the more the nearer they are. Words of its own, independent of the topic, identify
a domain.

Pairs: does the second text follow from the first, which states two facts? It does if it is one of
them, with or without its color. It does not if one word is replaced: by the other fact's, so that a
bag of words cannot decide, or by one that does not occur. A small model that compares the texts
word by word learns this; a small Transformer from scratch does not within some epochs.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, count
from random import Random

from l2kd_ray.tasks.generated import Dialogue, Drawn
from l2kd_ray.tasks.spec import Split

_DOMAINS = "abcd"
TOPICS = ("animals", "food", "music", "sports", "travel", "weather")
TOPIC_SIZES: Mapping[Split, int] = {"train": 400, "dev": 100, "test": 200}
PAIR_SIZES: Mapping[Split, int] = {"train": 800, "dev": 100, "test": 200}

_PER_TOPIC, _WINDOW, _SHIFT, _COMMON, _OWN = 24, 15, 6, 30, 12
# Cumulative probabilities of a word's origin; the rest are words common to all domains.
_OF_TOPIC, _OF_OTHER, _OF_DOMAIN = 0.3, 0.42, 0.62
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]

PEOPLE = ("anna", "john", "maria", "tom")
COLORS = ("blue", "green", "red", "white")
THINGS = ("ball", "boat", "hat", "kite")

_TOPIC_QUESTION = "what is the topic ?"


def draw(task: str, data_seed: str) -> Drawn:
    """The sizes of a task's splits, and its items; first texts may repeat."""
    random = Random(hashlib.sha256(f"{task}/{data_seed}".encode()).digest())
    if task == "made.pairs.a":
        return PAIR_SIZES, _pairs(random)
    return TOPIC_SIZES, _topics(random, task[-1])


def _topics(random: Random, domain: str) -> Iterator[Dialogue]:
    """(text, question, topic), with the topics in turn."""
    for number in count():
        label = number % len(TOPICS)
        length = 5 + int(5 * random.random())
        words = [_topic_word(random, _DOMAINS.index(domain), label) for _ in range(length)]
        yield ((" ".join(words), _TOPIC_QUESTION, TOPICS[label]),)


def _topic_word(random: Random, domain: int, label: int) -> str:
    kind = random.random()
    if kind < _OF_OTHER:
        if kind >= _OF_TOPIC:
            label = (label + 1 + int((len(TOPICS) - 1) * random.random())) % len(TOPICS)
        rank = (_SHIFT * domain + bisect(_ZIPF, random.random() * _ZIPF[-1])) % _PER_TOPIC
        return _word(label * _PER_TOPIC + rank)
    start = len(TOPICS) * _PER_TOPIC
    if kind < _OF_DOMAIN:
        return _word(start + _COMMON + domain * _OWN + int(_OWN * random.random()))
    return _word(start + int(_COMMON * random.random()))


_ZIPF = list(accumulate(1 / (rank + 2) for rank in range(_WINDOW)))


def _word(number: int) -> str:
    """A word of two syllables, different for each number."""
    # 1009 is coprime to the number of words, so that no two numbers give one word.
    index = number * 1009 % len(_SYLLABLES) ** 2
    return _SYLLABLES[index // len(_SYLLABLES)] + _SYLLABLES[index % len(_SYLLABLES)]


def _pairs(random: Random) -> Iterator[Dialogue]:
    """(two facts, a claim, whether it follows), with both answers in turn."""
    slots = (PEOPLE, COLORS, THINGS)
    for number in count():
        columns = [_different(random, values, 3) for values in slots]
        first, second, foreign = ([column[n] for column in columns] for n in range(3))
        told = [first, second][int(2 * random.random())]
        other = second if told is first else first
        claim, position = list(told), int(3 * random.random())
        if number % 2:
            claim[position] = (other if random.random() < 0.5 else foreign)[position]
        # A claim without its color, unless the color is the word that was replaced.
        if position != 1 and random.random() < 0.5:
            del claim[1]
        text = f"{_fact(first)} and {_fact(second)}"
        yield ((text, _fact(claim), "no" if number % 2 else "yes"),)


def _fact(words: Sequence[str]) -> str:
    person, *thing = words
    return f"{person} has a {' '.join(thing)}"


def _different(random: Random, values: Sequence[str], number: int) -> list[str]:
    rest = list(values)
    return [rest.pop(int(len(rest) * random.random())) for _ in range(number)]
