"""Labelled sentences made up: tags by a hidden Markov model, trees by a random grammar.

Each has two domains, `a` and `b`. Those of the tags share transitions and spell words differently;
those of the trees say the same in another word order, with words of their own. Words mean several
things within a domain, and some mean another thing in the other one: so context decides, and who
learns one domain forgets some of the other.

The models belong to the tasks; `data_seed` draws the sentences. No sentence occurs twice.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, count
from random import Random

from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.spec import Split, TaskKind

VERSION = 1
SIZES: Mapping[Split, int] = {"train": 2000, "dev": 200, "test": 400}
Sentence = tuple[list[str], list[str]]
"""Words and labels."""


@dataclass(frozen=True)
class Sentences:
    kind: TaskKind
    metric: str
    description: str
    sentence: Callable[[str, Random], Sentence]
    """Draws one of a domain."""
    extras: tuple[str, ...] = ()


def digest(task: str) -> str:
    """What identifies the generator of a task."""
    return hashlib.sha256(f"{task}/{VERSION}".encode()).hexdigest()


def read(location: str, options: Mapping[str, str]) -> list[Example]:
    """The split `options["split"]` of the task `options["task"]` for `options["data_seed"]`."""
    task = options["task"]
    sentences = _distinct(SENTENCES[task], task[-1], Random(f"{task}/{options['data_seed']}"))
    for split, size in SIZES.items():
        examples = [
            Example(str(number), context, "", (answer,))
            for number, (context, answer) in zip(range(size), sentences, strict=False)
        ]
        if split == options["split"]:
            return examples
    raise ValueError(f"no split {options['split']}")


def _distinct(made: Sentences, domain: str, random: Random) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    while True:
        words, labels = made.sentence(domain, random)
        if (context := " ".join(words)) not in seen:
            seen.add(context)
            yield context, " ".join(labels)


def _draw(weights: Mapping[str, float], random: Random) -> str:
    # `Random.random` alone gives the same draws in every version of Python.
    sums = list(accumulate(weights.values()))
    return list(weights)[bisect(sums, random.random() * sums[-1], hi=len(sums) - 1)]


def _spelled(number: int) -> str:
    """A word of two syllables; different for numbers below 4,900."""
    first, second = divmod(number * 2741 % 4900, 70)
    return "".join("bdfgklmnprstvz"[s % 14] + "aeiou"[s // 14] for s in (first, second))


# Tags -------------------------------------------------------------------------------------------

# Next tag by tag: persons are short, places longer, and a place often comes after a person.
_OPEN = {"O": 0.6, "B-person": 0.15, "S-person": 0.1, "B-place": 0.1, "S-place": 0.05}
_AFTER_PERSON = {"O": 0.6, "B-place": 0.3, "S-place": 0.1}
_AFTER_PLACE = {"O": 0.9, "S-person": 0.1}
TRANSITIONS: Mapping[str, Mapping[str, float]] = {
    "O": _OPEN,
    "B-person": {"E-person": 0.8, "I-person": 0.2},
    "I-person": {"E-person": 0.9, "I-person": 0.1},
    "E-person": _AFTER_PERSON,
    "S-person": _AFTER_PERSON,
    "B-place": {"I-place": 0.7, "E-place": 0.3},
    "I-place": {"E-place": 0.5, "I-place": 0.5},
    "E-place": _AFTER_PLACE,
    "S-place": _AFTER_PLACE,
}
_WORDS = 100  # of a domain; the two share half of them


@lru_cache(maxsize=2)
def emissions(domain: str) -> Mapping[str, Mapping[str, float]]:
    """P(word | tag) of a domain, up to a constant."""
    random, start = Random(f"emissions/{domain}"), 0 if domain == "a" else _WORDS // 2
    # A power of a uniform number: of each tag a few words are frequent, and most are possible.
    return {
        tag: {_spelled(start + n): random.random() ** 10 for n in range(_WORDS)}
        for tag in TRANSITIONS
    }


def tagged(domain: str, random: Random) -> Sentence:
    """From 4 words to some more than 12, which end when a span is over."""
    length, tags = 4 + int(random.random() * 9), [_draw(_OPEN, random)]
    while len(tags) < length or tags[-1][0] in "BI":
        tags.append(_draw(TRANSITIONS[tags[-1]], random))
    return [_draw(emissions(domain)[tag], random) for tag in tags], tags


# Trees ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dependent:
    """What a word may govern: with a probability, on one side in each domain (a: left?)."""

    relation: str
    kind: str
    probability: float
    left: Mapping[str, bool]


_LEFT, _RIGHT = {"a": True, "b": True}, {"a": False, "b": False}
_SWAPPED = {"a": False, "b": True}  # b puts before its head what a puts after it
GRAMMAR: Mapping[str, Sequence[Dependent]] = {
    "verb": (
        Dependent("nsubj", "noun", 0.9, _LEFT),
        Dependent("advmod", "adverb", 0.3, _LEFT),
        Dependent("obj", "noun", 0.6, _SWAPPED),
        Dependent("obl", "oblique", 0.35, _RIGHT),
        Dependent("ccomp", "clause", 0.15, _SWAPPED),
    ),
    "noun": (
        Dependent("det", "determiner", 0.5, _LEFT),
        Dependent("amod", "adjective", 0.35, {"a": True, "b": False}),
        Dependent("nmod", "oblique", 0.15, _RIGHT),
    ),
    "adjective": (Dependent("advmod", "adverb", 0.2, _LEFT),),
}
# An oblique is a noun, and a clause a verb, with a word of its own that says so.
_MARKED: Mapping[str, tuple[str, Dependent]] = {
    "oblique": ("noun", Dependent("case", "adposition", 1.0, {"a": True, "b": False})),
    "clause": ("verb", Dependent("mark", "conjunction", 1.0, _LEFT)),
}
_DEEPEST = 4
# First number and size of each kind's words; verbs and nouns share some, as do closed kinds.
_LEXICON: Mapping[str, tuple[int, int]] = {
    "verb": (0, 20),
    "noun": (14, 30),
    "adjective": (40, 14),
    "adverb": (52, 8),
    "determiner": (60, 4),
    "adposition": (63, 5),
    "conjunction": (67, 3),
}


@dataclass(eq=False)
class Node:
    word: str
    relation: str
    head: Node | None


def parsed(domain: str, random: Random) -> Sentence:
    """A projective tree of one root, from 2 to 20 words."""
    while not 2 <= len(nodes := _grown("verb", "root", None, 1, domain, random)) <= 20:
        pass
    places = dict(zip(nodes, count(1), strict=False))
    heads = [0 if node.head is None else places[node.head] for node in nodes]
    labels = [f"{head}:{node.relation}" for head, node in zip(heads, nodes, strict=True)]
    return [node.word for node in nodes], labels


def _grown(
    kind: str, relation: str, head: Node | None, depth: int, domain: str, random: Random
) -> list[Node]:
    """A subtree's nodes from left to right."""
    own, mark = _MARKED.get(kind, (kind, None))
    first, size = _LEXICON[own]
    # The domains' lexicons overlap, so that some words change their kind.
    start = first if domain == "a" else first + 35
    node = Node(_spelled(200 + start + int(random.random() ** 2 * size)), relation, head)
    left, right = list[Node](), list[Node]()
    for dependent in (*GRAMMAR.get(own, ()), *((mark,) if mark else ())):
        closed = dependent.kind not in _MARKED and dependent.kind not in GRAMMAR
        if random.random() < dependent.probability and (closed or depth < _DEEPEST):
            below = _grown(dependent.kind, dependent.relation, node, depth + 1, domain, random)
            # On the left the first named is the outermost, on the right the last.
            (left if dependent.left[domain] else right).extend(below)
    return [*left, node, *right]


_TAGS = Sentences("tag", "span_f1", "spans of a hidden Markov model", tagged)
_TREES = Sentences("parse", "las", "dependency trees of a random grammar", parsed, ("uas",))
SENTENCES: Mapping[str, Sentences] = {
    "made.tags.a": _TAGS,
    "made.tags.b": _TAGS,
    "made.trees.a": _TREES,
    "made.trees.b": _TREES,
}
