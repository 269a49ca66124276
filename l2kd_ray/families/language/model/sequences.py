"""From (context, question, answer) to token sequences and back, as LAMOL writes them.

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
FORMAT_FILE = "sequences.json"

Tokens = list[int]


def task_token(task: str) -> str:
    return f"<task:{task}>"


@dataclass(frozen=True)
class Sample:
    """An example in tokens: context and question together, and the answer."""

    task: str
    question: Tokens
    answer: Tokens


@dataclass(frozen=True)
class TrainingSequence:
    """Tokens of one training sequence; those from `supervised` on are to be predicted."""

    tokens: Tokens
    supervised: int


class SequenceFormat:
    """A tokenizer with its special tokens: what turns examples into sequences and back."""

    def __init__(self, tokenizer: Any, *, bos: int | None, task_prompt: str) -> None:
        self.tokenizer = tokenizer
        self.task_prompt = task_prompt
        self.bos: Tokens = [] if bos is None else [bos]
        self.eos: int = tokenizer.eos_token_id
        self.answer: int = tokenizer.convert_tokens_to_ids(ANSWER_TOKEN)

    @classmethod
    def load(cls, folder: Path) -> SequenceFormat:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(tokenizer, **json.loads((folder / FORMAT_FILE).read_text()))

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        settings = {"bos": self.bos[0] if self.bos else None, "task_prompt": self.task_prompt}
        (folder / FORMAT_FILE).write_text(json.dumps(settings))

    @property
    def added(self) -> Tokens:
        """The ids of the tokens that were added for the study: `<ans>`, and one a task."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        prefix = task_token("").removesuffix(">")
        tasks = [i for token, i in vocabulary.items() if token.startswith(prefix)]
        return sorted([self.answer, *tasks])

    def prompt(self, task: str) -> Tokens:
        """[bos] G: what the generation of a task's pseudo-sample starts from."""
        if self.task_prompt == "token":
            return [*self.bos, self.tokenizer.convert_tokens_to_ids(task_token(task))]
        return [*self.bos, *self.encode([f"{task}:"])[0]]

    def room(self, task: str, max_length: int) -> int:
        """Tokens of context, question and answer that a training sequence of a task has room for:
        beside its prompt, `<ans>` and eos."""
        return max_length - len(self.prompt(task)) - 2

    def test_prompts(self, examples: Sequence[Example], max_length: int) -> list[Tokens]:
        """What the answers are decoded from, cut to `max_length` without a look at the answers."""
        room = max_length - len(self.bos) - 1
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

    def parse(self, task: str, generated: Tokens) -> Sample | None:
        """What was generated after a task's prompt; None unless it holds `<ans>` exactly once."""
        tokens = generated[:-1] if generated and generated[-1] == self.eos else generated
        if tokens.count(self.answer) != 1:
            return None
        cut = tokens.index(self.answer)
        return Sample(task, tokens[:cut], tokens[cut + 1 :])

    def decode(self, tokens: Tokens) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def encode(self, texts: list[str]) -> list[Tokens]:
        """Plain tokens of each text, no special ones."""
        if not texts:
            return []
        return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"])


def cut(context: Tokens, question: Tokens, room: int) -> Tokens:
    """Context and question in `room` tokens: the context loses its end, first of all."""
    question = question[: max(room, 0)]
    return [*context[: max(room - len(question), 0)], *question]
