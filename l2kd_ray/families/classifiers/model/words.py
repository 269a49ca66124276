"""A word vocabulary for models without a pretrained tokenizer, and word vectors from a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

PADDING, UNKNOWN = 0, 1
_WORD = re.compile(r"\w+|[^\w\s]")


def split(text: str) -> list[str]:
    """The words and punctuation marks of a text, in lower case."""
    return _WORD.findall(text.lower())


class Words:
    """A word vocabulary: padding, the unknown word, then the `known` words."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = list(known)
        self.ids: Mapping[str, int] = {word: n for n, word in enumerate(self.known, UNKNOWN + 1)}

    @classmethod
    def of(cls, texts: Iterable[str], size: int | None = None) -> Words:
        """The `size` most frequent words of the texts; ties are in alphabetical order."""
        counts = Counter(word for text in texts for word in split(text))
        return cls(sorted(counts, key=lambda word: (-counts[word], word))[:size])

    def __len__(self) -> int:
        return UNKNOWN + 1 + len(self.known)

    def encode(self, text: str, longest: int) -> list[int]:
        """The ids of a text's first `longest` words; a text without words is one unknown word."""
        ids = [self.ids.get(word, UNKNOWN) for word in split(text)[:longest]]
        return ids or [UNKNOWN]


def with_vectors(drawn: Tensor, vectors: Mapping[int, Sequence[float]]) -> Tensor:
    """Embeddings [V, d]: the given vectors, else `drawn`, scaled to match them."""
    if not vectors:
        return drawn
    given = torch.from_numpy(np.asarray(list(vectors.values()), dtype=np.float32))
    # Rows of another scale than the given vectors would dominate or vanish beside them.
    weight = drawn * (given.std() / drawn[UNKNOWN:].std())
    weight[list(vectors)] = given
    return weight
