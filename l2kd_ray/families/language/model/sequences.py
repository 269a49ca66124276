"""Conversion of (context, question, answer) to token sequences and back, in LAMOL's format.

    QA, training   [bos] c q <ans> a eos      supervised: a eos
    LM, training   [bos] G c q <ans> a eos    supervised: all after G
    QA, test       [bos] c q <ans>            decoded until eos

G is the task's prompt: a token of its own, or the task's name in ordinary tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2kd_ray.tasks import Example

ANSWER_TOKEN = "<ans>"
_FORMAT_FILE = "sequences.json"

TokenIds = list[int]


def task_token(task: str) -> str:
    return f"<task:{task}>"


@dataclass(frozen=True)
class Sample:
    """A tokenized example: context and question together, and the answer."""

    task: str
    question: TokenIds
    answer: TokenIds


@dataclass(frozen=True)
class TrainingSequence:
    """The tokens of one training sequence: what is given, and from index `source` on an output.

    The first `skipped` tokens of the output are not learned.
    """

    tokens: TokenIds
    source: int
    skipped: int = 0

    @property
    def supervised(self) -> int:
        """Index of the first token that is predicted."""
        return min(self.source + self.skipped, len(self.tokens))


class SequenceFormat:
    """A tokenizer with special tokens, which converts examples to sequences and back."""

    def __init__(self, tokenizer: Any, *, bos: int | None, task_prompt: str) -> None:
        self.tokenizer = tokenizer
        self.task_prompt = task_prompt
        self.bos: TokenIds = [] if bos is None else [bos]
        self.eos: int = tokenizer.eos_token_id
        self.answer: int = tokenizer.convert_tokens_to_ids(ANSWER_TOKEN)
        self._spaced = is_byte_level(tokenizer)

    @classmethod
    def load(cls, folder: Path) -> SequenceFormat:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(tokenizer, **json.loads((folder / _FORMAT_FILE).read_text("utf-8")))

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        settings = {"bos": self.bos[0] if self.bos else None, "task_prompt": self.task_prompt}
        (folder / _FORMAT_FILE).write_text(json.dumps(settings), "utf-8")

    @property
    def added(self) -> TokenIds:
        """The ids of the tokens added for the study: `<ans>` and one for each task."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        prefix = task_token("").removesuffix(">")
        tasks = [i for token, i in vocabulary.items() if token.startswith(prefix)]
        return sorted([self.answer, *tasks])

    def prompt(self, task: str) -> TokenIds:
        """[bos] G: the start of a generated pseudo-sample of a task."""
        if self.task_prompt == "token":
            return [*self.bos, self.tokenizer.convert_tokens_to_ids(task_token(task))]
        return [*self.bos, *self.encode([f"{task}:"])[0]]

    def room(self, task: str, max_length: int) -> int:
        """Tokens that a training sequence has left for context, question and answer.

        The others are its prompt, `<ans>` and eos.
        """
        return max_length - len(self.prompt(task)) - 2

    def test_room(self, max_length: int) -> int:
        """Tokens that a prompt of `max_length` has left for context and question."""
        return max_length - len(self.bos) - 1

    def test_prompts(self, examples: Sequence[Example], max_length: int) -> list[TokenIds]:
        """The prompts of the answers, cut to `max_length` whatever the answers' lengths."""
        room = self.test_room(max_length)
        questions = self.encode([example.question for example in examples])
        contexts = self.encode([example.context for example in examples])
        pairs = zip(contexts, questions, strict=True)
        return [[*self.bos, *cut(*pair, room), self.answer] for pair in pairs]

    def qa(self, sample: Sample) -> TrainingSequence:
        head = [*self.bos, *sample.question, self.answer]
        return TrainingSequence([*head, *sample.answer, self.eos], len(head))

    def lm(self, sample: Sample) -> TrainingSequence:
        head = self.prompt(sample.task)
        body = [*sample.question, self.answer, *sample.answer, self.eos]
        return TrainingSequence([*head, *body], len(head))

    def parse(self, task: str, generated: TokenIds) -> Sample | None:
        """The sample generated after a task's prompt; None unless it holds `<ans>` exactly once."""
        tokens = generated[:-1] if generated and generated[-1] == self.eos else generated
        if tokens.count(self.answer) != 1:
            return None
        separator = tokens.index(self.answer)
        return Sample(task, tokens[:separator], tokens[separator + 1 :])

    def decode(self, tokens: TokenIds) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def encode(self, texts: list[str]) -> list[TokenIds]:
        """The ordinary tokens of each text; a text that spells a special token stays text.

        A byte-level tokenizer sees a space before each text, as the original's does: to GPT-2
        "the" and " the" are two words, and context, question and answer follow one another.
        """
        # The tokenizer refuses an empty list.
        if not texts:
            return []
        if self._spaced:
            texts = [f" {text}" if text and not text.startswith(" ") else text for text in texts]
        encoded = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
        return list(encoded["input_ids"])


def is_byte_level(tokenizer: Any) -> bool:
    """True for tokenizers of GPT-2's kind, which tell words from their ends by the space before."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    return fast is not None and '"ByteLevel"' in json.dumps(
        json.loads(fast.to_str())["pre_tokenizer"]
    )


def cut(context: TokenIds, question: TokenIds, room: int) -> TokenIds:
    """Context and question in `room` tokens; the context is cut first, at its end."""
    question = question[: max(room, 0)]
    return [*context[: max(room - len(question), 0)], *question]
