"""ROUGE (Lin, 2004) as the `rouge-score` package computes it, with stemming.

ROUGE-n is the F of the n-grams that two texts share, ROUGE-L that of their longest common
subsequence. The test suite compares these functions with the package, which is not a dependency and
knows ASCII text only; the words of other text are those of `l2kd_ray.tasks.words`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


def rouge_average(prediction: str, reference: str) -> float:
    """Mean of the F of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1."""
    predicted, target = words(prediction), words(reference)
    return (
        rouge_n(predicted, target, 1) + rouge_n(predicted, target, 2) + rouge_l(predicted, target)
    ) / 3


def rouge_n(predicted: Sequence[str], target: Sequence[str], n: int) -> float:
    grams = [
        Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
        for text in (predicted, target)
    ]
    return f_score((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())


def rouge_l(predicted: Sequence[str], target: Sequence[str]) -> float:
    row = [0] * (len(target) + 1)  # longest common subsequence of predicted[:i] and target[:j]
    for word in predicted:
        diagonal = 0
        for j, other in enumerate(target, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return f_score(row[-1], len(predicted), len(target))


def f_score(common: int, predicted: int, target: int) -> float:
    """Harmonic mean of common / predicted and common / target; 0 if nothing is common."""
    return 2 * common / (predicted + target) if common else 0.0
