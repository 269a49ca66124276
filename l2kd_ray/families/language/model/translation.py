"""Sequences of one tokenizer in the tokens of another, and the places where the two meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, groupby, takewhile
from pathlib import Path
from typing import Any, Self

from l2kd_ray.families.language.model.sequences import (
    SequenceFormat,
    TokenIds,
    TrainingSequence,
    is_byte_level,
)
from l2kd_ray.models.architecture import UNLIMITED, position_limit
from l2kd_ray.models.loading import load_tokenizer
from l2kd_ray.models.pretrained import Pretrained

Meetings = tuple[tuple[int, int], ...]
"""The first predicted token of each group, in two tokenisations, counted from the first one."""
PROBE = "A naïve test: 3 words, and more."
"""A text that a tokenizer must spell."""


class Translation:
    """Training sequences of a student's tokenizer as a teacher of another one reads them.

    `longest`: tokens that the teacher reads; a longer sequence has no groups.
    """

    def __init__(self, own: SequenceFormat, other: SequenceFormat, longest: int) -> None:
        self._own, self._other, self.longest = own, other, longest
        self._bytes, self._other_bytes = spelling(own.tokenizer), spelling(other.tokenizer)
        names = own.tokenizer.convert_ids_to_tokens(own.added)
        ids = other.tokenizer.convert_tokens_to_ids(names)
        self._special = {own.eos: other.eos, **dict(zip(own.added, ids, strict=True))}

    @classmethod
    def load(cls, own: SequenceFormat, folder: Path) -> Self:
        """Into the tokens of a model's folder."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return cls(own, SequenceFormat.load(folder), position_limit(config) or UNLIMITED)

    def of(self, sequence: TrainingSequence) -> tuple[TrainingSequence, Meetings]:
        """The sequence in the other tokens, and the groups of its predicted tokens.

        Texts between special tokens are encoded anew, each by itself. A token whose text the other
        tokenizer leaves out belongs to the group before.
        """
        start = len(self._own.bos)
        parts = (
            sequence.tokens[start : sequence.supervised],
            sequence.tokens[max(start, sequence.supervised) :],
        )
        head, body = ([*self._runs(part)] for part in parts)
        texts = [self._text(run) for run in (*head, *body) if run[0] not in self._special]
        encoded = iter(self._other.encode(texts))
        before, after = ([self._new(run, encoded) for run in runs] for runs in (head, body))
        tokens = [*self._other.bos, *(token for run in before for token in run)]
        supervised, here, there = len(tokens), 0, 0
        meetings: list[tuple[int, int]] = []
        for run, new in zip(body, after, strict=True):
            meetings += [(here + a, there + b) for a, b in self._meet(run, new)]
            here, there = here + len(run), there + len(new)
            tokens += new
        if len(tokens) > self.longest:
            return TrainingSequence(tokens[:1], 1), ()
        if meetings:
            meetings[0] = (0, 0)
        return TrainingSequence(tokens, supervised), tuple(meetings)

    def _runs(self, tokens: TokenIds) -> Iterator[TokenIds]:
        """The texts and the special tokens of a sequence, one after another."""
        for special, run in groupby(tokens, self._special.__contains__):
            found = [*run]
            yield from ([token] for token in found) if special else [found]

    def _text(self, run: TokenIds) -> str:
        # `encode` puts the space before a text where the tokenizer wants one.
        spelled = b"".join(self._bytes[token] for token in run)
        return spelled.decode("utf-8", "replace").removeprefix(" ")

    def _new(self, run: TokenIds, encoded: Iterator[TokenIds]) -> TokenIds:
        known = self._special.get(run[0])
        return next(encoded) if known is None else [known]

    def _meet(self, run: TokenIds, new: TokenIds) -> Sequence[tuple[int, int]]:
        if not new:
            return []
        if run[0] in self._special:
            return [(0, 0)]
        theirs = [self._other_bytes[token] for token in new]
        return meetings([self._bytes[token] for token in run], theirs)


def meetings(own: Sequence[bytes], other: Sequence[bytes]) -> list[tuple[int, int]]:
    """The first tokens of each group of two tokenisations of one text.

    A group ends where as many bytes are left in both, and the same ones. What is left, not what
    was read, is counted: tokenizers differ in the space before a text.
    """
    left, theirs = (
        [*accumulate(len(token) for token in reversed(tokens))][::-1] for tokens in (own, other)
    )
    backwards = zip(*(reversed(b"".join(tokens)) for tokens in (own, other)), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], backwards))
    where = {count: index for index, count in enumerate(theirs) if 0 < count <= same}
    return [(0, 0), *((n, where[count]) for n, count in enumerate(left) if n and where.get(count))]


def spelling(tokenizer: Any) -> Mapping[int, bytes]:
    """The bytes that each token stands for, of a byte-level tokenizer or of SentencePiece's kind.

    Special tokens stand for their names.
    """
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    if is_byte_level(tokenizer):
        known = _byte_of_character()
        return {
            token: b"".join(known.get(one) or one.encode() for one in text)
            for text, token in vocabulary.items()
        }
    return {token: _piece(text) for text, token in vocabulary.items()}


def _piece(text: str) -> bytes:
    """The bytes of a piece of SentencePiece: `▁` is a space, `<0x0A>` one byte."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return bytes([int(text[3:5], 16)])
    return text.replace("▁", " ").encode()


def _byte_of_character() -> Mapping[str, bytes]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2's table)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in visible)
    table = {chr(byte): bytes([byte]) for byte in visible}
    return {**table, **{chr(256 + n): bytes([byte]) for n, byte in enumerate(others)}}


@cache
def spells(source: Pretrained) -> bool:
    """Whether the bytes of a text's tokens are the text, but for the space before it."""
    tokenizer = load_tokenizer(source)
    known = spelling(tokenizer)
    tokens = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    return b"".join(known[token] for token in tokens).decode("utf-8", "replace").strip() == PROBE
