"""Generated sentences with labels: tags by a hidden Markov model, trees by a random grammar.

Both have two domains, `a` and `b`. The domains of the tags share transitions but spell words
differently; those of the trees express the same in another word order, with words of their own.
Words are ambiguous within a domain, and some mean something else in the other one. So context
decides, and a model that learns one domain forgets some of the other.

The models are fixed by the tasks; `data_seed` draws the sentences. No sentence occurs twice.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, count
from random import Random

from l2kd_ray.tasks.generated import Dialogue, Drawn
from l2kd_ray.tasks.spec import Split
from l2kd_ray.tasks.tagging import LabelledSentence

SENTENCE_SIZES: Mapping[Split, int] = {"train": 2000, "dev": 200, "test": 400}


def draw(task: str, data_seed: str) -> Drawn:
    """The sizes of a task's splits, and its sentences, which may repeat."""
    sentence = tagged if task.startswith("made.tags.") else parsed
    return SENTENCE_SIZES, _items(sentence, task[-1], Random(f"{task}/{data_seed}"))


def _items(
    sentence: Callable[[str, Random], LabelledSentence], domain: str, random: Random
) -> Iterator[Dialogue]:
    while True:
        words, labels = sentence(domain, random)
        yield ((" ".join(words), "", " ".join(labels)),)


def _draw(weights: Mapping[str, float], random: Random) -> str:
    # Only `Random.random` gives the same draws in every version of Python.
    sums = list(accumulate(weights.values()))
    return list(weights)[bisect(sums, random.random() * sums[-1], hi=len(sums) - 1)]


def _spelled(number: int) -> str:
    """A word of two syllables, different for each number below 4,900."""
    # 2741 is coprime to 4900 = 70 * 70, so that no two numbers give one word.
    first, second = divmod(number * 2741 % 4900, 70)
    return "".join("bdfgklmnprstvz"[s % 14] + "aeiou"[s // 14] for s in (first, second))


# Tags -------------------------------------------------------------------------------------------

# Distribution of the next tag: persons are short, places longer and often after a person.
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
_WORDS = 100  # words of a domain; the two share half of them


@lru_cache(maxsize=2)
def emissions(domain: str) -> Mapping[str, Mapping[str, float]]:
    """P(word | tag) of a domain, up to a constant."""
    random, start = Random(f"emissions/{domain}"), 0 if domain == "a" else _WORDS // 2
    # The power makes a few words of each tag frequent and leaves most others possible.
    return {
        tag: {_spelled(start + n): random.random() ** 10 for n in range(_WORDS)}
        for tag in TRANSITIONS
    }


def tagged(domain: str, random: Random) -> LabelledSentence:
    """A sentence of at least 4 words, about 12 at most, that ends when a span is over."""
    length, tags = 4 + int(random.random() * 9), [_draw(_OPEN, random)]
    while len(tags) < length or tags[-1][0] in "BI":
        tags.append(_draw(TRANSITIONS[tags[-1]], random))
    return [_draw(emissions(domain)[tag], random) for tag in tags], tags


# Trees ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dependent:
    """A possible dependent of a word: its probability, and each domain's side (a: left?)."""

    relation: str
    kind: str
    probability: float
    left: Mapping[str, bool]


_LEFT, _RIGHT = {"a": True, "b": True}, {"a": False, "b": False}
_SWAPPED = {"a": False, "b": True}  # before the head in b, after it in a
_GRAMMAR: Mapping[str, Sequence[Dependent]] = {
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
# An oblique is a noun, and a clause a verb, marked by a word of its own.
_MARKED: Mapping[str, tuple[str, Dependent]] = {
    "oblique": ("noun", Dependent("case", "adposition", 1.0, {"a": True, "b": False})),
    "clause": ("verb", Dependent("mark", "conjunction", 1.0, _LEFT)),
}
_DEEPEST = 4
"""Depth of a tree below which only words without dependents grow, so that it ends."""
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
class TreeNode:
    word: str
    relation: str
    head: TreeNode | None


def parsed(domain: str, random: Random) -> LabelledSentence:
    """A projective tree with one root and 2 to 20 words."""
    while not 2 <= len(nodes := _grown("verb", "root", None, 1, domain, random)) <= 20:
        pass
    positions = dict(zip(nodes, count(1), strict=False))
    heads = [0 if node.head is None else positions[node.head] for node in nodes]
    labels = [f"{head}:{node.relation}" for head, node in zip(heads, nodes, strict=True)]
    return [node.word for node in nodes], labels


def _grown(
    kind: str, relation: str, head: TreeNode | None, depth: int, domain: str, random: Random
) -> list[TreeNode]:
    """The nodes of a random subtree from left to right."""
    base_kind, mark = _MARKED.get(kind, (kind, None))
    first, size = _LEXICON[base_kind]
    # The domains' lexicons overlap, so that some words change their kind.
    start = first if domain == "a" else first + 35
    node = TreeNode(_spelled(200 + start + int(random.random() ** 2 * size)), relation, head)
    left, right = list[TreeNode](), list[TreeNode]()
    for dependent in (*_GRAMMAR.get(base_kind, ()), *((mark,) if mark else ())):
        closed = dependent.kind not in _MARKED and dependent.kind not in _GRAMMAR
        if random.random() < dependent.probability and (closed or depth < _DEEPEST):
            below = _grown(dependent.kind, dependent.relation, node, depth + 1, domain, random)
            # The first dependent listed is the leftmost on either side.
            (left if dependent.left[domain] else right).extend(below)
    return [*left, node, *right]
