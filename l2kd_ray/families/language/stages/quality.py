"""Quality of pseudo-samples: do they match their task, and how diverse are they?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence


class TaskModel:
    """Naive Bayes over words: finds the task whose training data are most like a text.

    Multinomial with add-one smoothing and equal priors. LAMOL takes a sample's task from its task
    token; this model infers it from the sample's words.
    """

    def __init__(self, texts: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._counts = {t: Counter(word for text in of for word in text) for t, of in texts.items()}
        self._vocabulary = len({word for counts in self._counts.values() for word in counts}) + 1

    def most_likely(self, words: Sequence[str]) -> str:
        """The most likely task; the first by name among equals."""
        return max(sorted(self._counts), key=lambda task: self._log_likelihood(task, words))

    def _log_likelihood(self, task: str, words: Sequence[str]) -> float:
        counts = self._counts[task]
        total = math.log(counts.total() + self._vocabulary)
        return sum(math.log(counts[word] + 1) - total for word in words)


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams of some texts (Li et al. 2016, distinct-n); 0 for none."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
