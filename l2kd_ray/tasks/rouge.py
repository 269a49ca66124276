"""ROUGE (Lin, 2004) as the `rouge-score` package computes it, with stemming.

ROUGE-n is the F of the n-grams that two texts share, ROUGE-L that of their longest common
subsequence. The test suite compares these functions with the package, which is not a dependency and
knows ASCII text only; the words of other text are those of `l2kd_ray.tasks.words`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from l2kd_ray.tasks import words as unicode_words
from l2kd_ray.tasks.porter import stem

# Words repeat, so that most stems come from the cache.
_stem = lru_cache(maxsize=65536)(stem)


def words(text: str) -> list[str]:
    """The words of a text; those of more than 3 characters, all of them ASCII, are stemmed.

    Porter's stemmer is one for English.
    """
    return [
        _stem(word) if len(word) > 3 and word.isascii() else word
        for word in unicode_words.words(text)
    ]


def rouge_average(prediction: str, reference: str, *, summary: bool = False) -> float:
    """Mean of the F of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1; `summary`: ROUGE-L of the summary
    level."""
    predicted, target = words(prediction), words(reference)
    longest = (
        rouge_lsum(_sentences(prediction), _sentences(reference))
        if summary
        else rouge_l(predicted, target)
    )
    return (rouge_n(predicted, target, 1) + rouge_n(predicted, target, 2) + longest) / 3


def rouge_n(predicted: Sequence[str], target: Sequence[str], n: int) -> float:
    grams = [
        Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
        for text in (predicted, target)
    ]
    return f_score((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())


def rouge_l(predicted: Sequence[str], target: Sequence[str]) -> float:
    return f_score(_subsequences(predicted, target)[-1][-1], len(predicted), len(target))


def rouge_lsum(predicted: Sequence[Sequence[str]], target: Sequence[Sequence[str]]) -> float:
    """ROUGE-L of the summary level (Lin 2004, section 3.2): of each sentence of `target` the words
    that are on its longest common subsequence with any sentence of `predicted`."""
    ours, theirs = (Counter(word for one in text for word in one) for text in (predicted, target))
    union = Counter[str]()
    for sentence in target:
        places = {place for one in predicted for place in _common(one, sentence)}
        union.update(sentence[place] for place in places)
    # A word counts at most as often as either text has it.
    return f_score((union & ours & theirs).total(), ours.total(), theirs.total())


def _sentences(text: str) -> list[list[str]]:
    return [words(sentence) for sentence in text.split(".")]


def _subsequences(predicted: Sequence[str], target: Sequence[str]) -> list[list[int]]:
    """Lengths of the longest common subsequences of `predicted[:i]` and `target[:j]`."""
    table = [[0] * (len(target) + 1)]
    for word in predicted:
        above, row = table[-1], [0]
        for j, other in enumerate(target):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        table.append(row)
    return table


def _common(predicted: Sequence[str], target: Sequence[str]) -> Iterator[int]:
    """The places in `target` of a longest common subsequence."""
    table, i, j = _subsequences(predicted, target), len(predicted), len(target)
    while i and j:
        if predicted[i - 1] == target[j - 1]:
            i, j = i - 1, j - 1
            yield j
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1


def f_score(common: int, predicted: int, target: int) -> float:
    """Harmonic mean of common / predicted and common / target; 0 if nothing is common."""
    return 2 * common / (predicted + target) if common else 0.0
