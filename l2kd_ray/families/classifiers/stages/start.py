"""Untrained classifiers, and the labels that their heads' outputs stand for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.families.examples import Labelled
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.tasks import labels

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.families.classifiers.model.classifier import Body, Classifier

_LABELS = "labels.json"
DEFAULT_LENGTH = 128
"""Largest number of tokens of a text if `train.max_length` is not set."""


@dataclass(frozen=True)
class Head:
    """A head of a classifier, and the tasks that it is used for."""

    name: str
    tasks: tuple[Labelled, ...]


@dataclass(frozen=True)
class Labels:
    """The labels of each head's outputs; none for a head that predicts a number."""

    of_head: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, heads: Sequence[Head], context: Context) -> Labels:
        """Collect the labels of each head from its training examples, sorted."""
        return cls(
            {
                head.name: labels(
                    example
                    for task in head.tasks
                    if task.kind != "regress"
                    for example in task.load(context)
                )
                for head in heads
            }
        )

    @classmethod
    def load(cls, folder: Path) -> Labels:
        return cls(json.loads((folder / _LABELS).read_text("utf-8")))

    def save(self, folder: Path) -> None:
        text = json.dumps(self.of_head, ensure_ascii=False)
        (folder / _LABELS).write_text(text, "utf-8")

    def target(self, head: str, answer: str) -> float:
        """The index of a label, or the answer as a number for a regression head. Raises:
        ValueError."""
        known = self.of_head[head]
        return float(known.index(answer) if known else answer)

    def answers(self, head: str, logits: Tensor) -> list[str]:
        """The answers, as text, for logits [B, C]."""
        known = self.of_head[head]
        if not known:
            return [f"{value:.6g}" for value in logits.squeeze(-1).tolist()]
        return [known[index] for index in logits.argmax(-1).tolist()]


@dataclass(frozen=True, eq=False)
class Untrained(Stage):
    """An untrained classifier: a pretrained encoder (or its first layers), or random weights.

    Its heads, and all weights that are not pretrained, are drawn from `seed`. A vocabulary that is
    not pretrained is built from the tasks' training texts.
    """

    kind = "initial"
    version = 2  # all that reads texts by its tokenizer keeps special tokens in them as text
    prepares = True
    default_seconds = 20.0
    default_bytes = 5e8
    source: Pretrained | None
    arch: str | None
    overrides: Mapping[str, Any]
    heads: tuple[Head, ...]
    max_length: int | None
    seed: int
    layers: int | None = None
    """Number of the pretrained encoder's first layers to keep; None keeps all."""
    vectors: Pretrained | None = None
    """Pretrained word vectors, a text file."""

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.classifiers.model.classifier import Classifier
        from l2kd_ray.families.classifiers.model.cost import latency, parameters

        labels = Labels.of(self.heads, context)
        pairs = {head.name for head in self.heads if self._is_pair(head, context)}
        outputs = {name: len(known) or 1 for name, known in labels.of_head.items()}
        model = Classifier(self._body(context), outputs, pairs, self.seed)
        model.save(context.out)
        labels.save(context.out)
        total, inner = parameters(model)
        task = self.heads[0].name
        milliseconds = {
            f"latency_ms/{batch}": 1000 * latency(model, task, batch=batch, length=32, repeats=5)
            for batch in (1, 32)
        }
        return {"parameters": total, "parameters/inner": inner, **milliseconds}

    def _is_pair(self, head: Head, context: Context) -> bool:
        return any(len(task.texts(task.load(context)[0])) == 2 for task in head.tasks)

    def _texts(self, context: Context) -> Iterator[str]:
        for head in self.heads:
            for task in head.tasks:
                for example in task.load(context):
                    yield from task.texts(example)

    def _body(self, context: Context) -> Body:
        from l2kd_ray.families.classifiers.model.bilstm import BiLSTM
        from l2kd_ray.families.classifiers.model.encoders import (
            Encoder,
            build_encoder,
        )
        from l2kd_ray.families.classifiers.model.wordpiece import train_wordpiece
        from l2kd_ray.families.classifiers.model.words import Words
        from l2kd_ray.models.loading import load_encoder

        overrides, length = dict(self.overrides), self.max_length or DEFAULT_LENGTH
        if self.source is not None:
            return Encoder(*load_encoder(self.source, self.layers), max_length=length)
        size = overrides.pop("vocab_size", None)
        if self.arch == "bilstm":
            vectors = self.vectors.unchanged() if self.vectors else None
            settings = {**overrides, "max_length": length}
            return BiLSTM.build(Words.of(self._texts(context), size), self.seed, settings, vectors)
        tokenizer = train_wordpiece(self._texts(context), size or 4096)
        encoder = build_encoder(self.arch or "", overrides, tokenizer, self.seed)
        return Encoder(encoder, tokenizer, max_length=length)


def load_classifier(folder: Path) -> tuple[Classifier, Labels]:
    from l2kd_ray.families.classifiers.model.classifier import Classifier

    return Classifier.load(folder), Labels.load(folder)
