"""Tokenized examples as two flat arrays: written once, memory-mapped by every reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from l2kd_ray.families.language.model.sequences import Sample, SequenceFormat, TokenIds, cut
from l2kd_ray.tasks import Example

_FLAT, _OFFSETS = "tokens.npy", "offsets.npy"


@dataclass(frozen=True)
class Encoded:
    """N tokenized examples, not truncated.

    flat [all tokens]; offsets [3 N + 1]: where the context, the question and the answer of each
    example begin.
    """

    flat: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, examples: Sequence[Example], text: SequenceFormat) -> Encoded:
        columns = [
            text.encode([example.context for example in examples]),
            text.encode([example.question for example in examples]),
            text.encode([example.answers[0].strip() for example in examples]),
        ]
        parts = [part for row in zip(*columns, strict=True) for part in row]
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        flat = np.fromiter((token for part in parts for token in part), np.int32, int(offsets[-1]))
        return cls(flat, offsets)

    @classmethod
    def load(cls, folder: Path) -> Encoded:
        """Memory-map the arrays instead of reading them."""
        return cls(*(np.load(folder / name, mmap_mode="r") for name in (_FLAT, _OFFSETS)))

    def save(self, folder: Path) -> None:
        np.save(folder / _FLAT, self.flat)
        np.save(folder / _OFFSETS, self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) // 3

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N, 3]: the numbers of tokens of context, question and answer."""
        return np.diff(self.offsets).reshape(-1, 3)

    def parts(self, index: int) -> tuple[TokenIds, TokenIds, TokenIds]:
        """Token ids of the context, the question and the answer of an example."""
        a, b, c, d = self.offsets[3 * index : 3 * index + 4].tolist()
        row = self.flat[a:d].tolist()
        return row[: b - a], row[b - a : c - a], row[c - a :]


@dataclass(frozen=True)
class Corpus(Sequence[Sample]):
    """A task's tokenized examples as samples, truncated to fit a training sequence."""

    encoded: Encoded
    task: str
    room: int
    """Maximum number of tokens of context, question and answer together."""

    @classmethod
    def of(
        cls, examples: Sequence[Example], text: SequenceFormat, task: str, max_length: int
    ) -> Corpus:
        """Tokenize examples; room is kept for the answer: the context is cut first, at its end."""
        return cls(Encoded.of(examples, text), task, text.room(task, max_length))

    def __len__(self) -> int:
        return len(self.encoded)

    def excess(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tokens by which each input and each answer is cut, [N] and [N]."""
        lengths = self.encoded.lengths
        answers = np.maximum(lengths[:, 2] - self._answer_room(lengths[:, 1]), 0)
        return np.maximum(lengths.sum(axis=1) - self.room, 0) - answers, answers

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        context, question, answer = self.encoded.parts(index % len(self))
        answer = answer[: int(self._answer_room(np.array(len(question))))]
        return Sample(self.task, cut(context, question, self.room - len(answer)), answer)

    def _answer_room(self, questions: NDArray[np.int64]) -> NDArray[np.int64]:
        """An answer keeps at least half of the room, even beside a long question."""
        return np.maximum(self.room - questions, self.room // 2)
