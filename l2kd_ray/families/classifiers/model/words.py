"""A word vocabulary for models without a pretrained tokenizer, and word vectors from a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

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
        self._ids: Mapping[str, int] = {word: n for n, word in enumerate(self.known, UNKNOWN + 1)}

    @classmethod
    def of(cls, texts: Iterable[str], size: int | None = None) -> Words:
        """The `size` most frequent words of the texts; ties are in alphabetical order."""
        counts = Counter(word for text in texts for word in split(text))
        return cls(sorted(counts, key=lambda word: (-counts[word], word))[:size])

    def __len__(self) -> int:
        return UNKNOWN + 1 + len(self.known)

    def encode(self, text: str, longest: int) -> list[int]:
        """The ids of a text's first `longest` words; a text without words is one unknown word."""
        ids = [self._ids.get(word, UNKNOWN) for word in split(text)[:longest]]
        return ids or [UNKNOWN]


def read_vectors(path: Path, words: Words, width: int) -> dict[int, list[float]]:
    """The vectors of known words in a file of GloVe's text format, by word id.

    A line is a word and `width` numbers, separated by spaces; word2vec's header line is skipped.
    Raises: ValueError, with the line, for a vector of another width.
    """
    ids = {word: n for n, word in enumerate(words.known, UNKNOWN + 1)}
    vectors: dict[int, list[float]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            word, *cells = line.rstrip("\n").split(" ")
            if number == 1 and len(cells) == 1:
                continue
            if word in ids and len(cells) != width:
                raise ValueError(
                    f"{path}:{number}: a vector of {len(cells)} numbers, where the embeddings are "
                    f"{width} wide: set the embeddings' width to that of the file"
                )
            if word in ids:
                vectors[ids[word]] = [float(cell) for cell in cells]
    return vectors


def with_vectors(drawn: Tensor, vectors: Mapping[int, Sequence[float]]) -> Tensor:
    """Embeddings [V, d]: the given vectors, else `drawn`, scaled to match them."""
    if not vectors:
        return drawn
    given = torch.from_numpy(np.asarray(list(vectors.values()), dtype=np.float32))
    # Rows of another scale than the given vectors would dominate or vanish beside them.
    weight = drawn * (given.std() / drawn[UNKNOWN:].std())
    weight[list(vectors)] = given
    return weight
