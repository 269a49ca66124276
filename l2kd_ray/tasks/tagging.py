"""Labels of words: tags and the spans that they spell, heads and relations, counts of errors.

An answer of a task of kind `tag` is one tag per word, "B-person E-person O"; of kind `parse` one
"head:relation" per word, with heads counted from 1 and the root 0. A context is words joined by
single spaces, so it is split by `words` and not by `str.split`: a word may hold other white space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Scheme = Literal["bioes", "iob2"]
Span = tuple[int, int, str]
"""(first word, last word, type)"""
LabelledSentence = tuple[Sequence[str], Sequence[str]]
"""The words of a sentence and their labels."""


def words(text: str) -> list[str]:
    """The words of a context, or the labels of an answer."""
    return text.split(" ") if text else []


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of IOB1, IOB2 or BIOES tags, read as conlleval does, even if they are illegal.

    A span continues where I or E of its type follows its B or I, and nowhere else; any other I or E
    begins one. Text that is not a tag is outside all spans.
    """
    result: list[Span] = []
    open_span = False  # True while the last span may continue
    for index, tag in enumerate(tags):
        part, _, kind = tag.partition("-")
        if part not in ("B", "I", "E", "S") or not kind:
            open_span = False
            continue
        if open_span and part in "IE" and result[-1][2] == kind:
            result[-1] = (result[-1][0], index, kind)
        else:
            result.append((index, index, kind))
        open_span = part in "BI"
    return result


def is_tag(text: str) -> bool:
    """True for O, and for a part of a span with a type."""
    return text == "O" or spans([text]) != []


def tags(spans: Sequence[Span], length: int, scheme: Scheme) -> list[str]:
    """The tags of `length` words that spell non-overlapping spans."""
    # In IOB2 a span of one word begins with B, and its last word is inside.
    begin, inside, end, single = "BIES" if scheme == "bioes" else "BIIB"
    result = ["O"] * length
    for first, last, kind in spans:
        parts = single if first == last else begin + inside * (last - first - 1) + end
        result[first : last + 1] = [f"{part}-{kind}" for part in parts]
    return result


def span_counts(prediction: str, gold: str) -> tuple[int, int, int]:
    """(spans with the right position and type, spans predicted, spans of the gold tags)."""
    predicted, wanted = spans(words(prediction)), spans(words(gold))
    return len(set(predicted) & set(wanted)), len(predicted), len(wanted)


def attachment_counts(prediction: str, gold: str, parts: int | None) -> tuple[int, int]:
    """(words whose first `parts` of head, relation and subtype are right; words of the gold parse).

    None: all parts.
    """
    wanted = words(gold)
    pairs = zip(words(prediction), wanted, strict=False)  # words without a prediction are wrong
    right = sum(one.split(":")[:parts] == other.split(":")[:parts] for one, other in pairs)
    return right, len(wanted)
