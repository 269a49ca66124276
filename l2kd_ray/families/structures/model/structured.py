"""Taggers and parsers with one interface: features, a body over the sentence, a head per task.

    model = build(architecture, {"ner": labels}, words=words, seed=0)
    structure = model(model.prepare(sentences), "ner")        # of `distill.structured`
    loss = negative_log_likelihood(structure, model.encode_gold(gold, "ner"))
    labels = model.decode(structure, "ner")

All tasks of a stream and their labels are given at construction. A head's initial weights depend
only on the seed and its task's name, not on any order or other task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from l2kd_ray.distill.structured.case_table import HeadKind
from l2kd_ray.distill.structured.labelled import RelativeLabels
from l2kd_ray.distill.structured.structure import Structure
from l2kd_ray.families.structures.model.contextual import BiLSTMEncoder, Transformer, Unchanged
from l2kd_ray.families.structures.model.features import (
    PretrainedFeatures,
    SentenceBatch,
    WordFeatures,
    WordSequence,
)
from l2kd_ray.families.structures.model.parser import (
    DISTRIBUTIONS,
    ArcHead,
    LabellingHead,
    SecondOrderHead,
)
from l2kd_ray.families.structures.model.tagger import ChainHead, LabelRows, SpanHead, TokenHead
from l2kd_ray.models.loading import load_encoder
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.tasks.spec import TaskKind
from l2kd_ray.tasks.tagging import words as split

_FILE, _WEIGHTS = "structured.json", "model.safetensors"


@dataclass(frozen=True)
class Architecture:
    """The kind and the sizes of a model; the defaults are those of Wang et al. 2021's students."""

    head: HeadKind = "token"
    body: Literal["bilstm", "transformer", "none"] = "bilstm"
    hidden: int = 256
    """Size of each direction of a BiLSTM, or of a Transformer's layers."""
    depth: int = 1
    """Number of layers of the body (`layers` of a model are those kept of a pretrained encoder)."""
    attention_heads: int = 4
    word_size: int = 100
    character_size: int = 30
    dropout: float = 0.33
    arc_size: int = 500
    relation_size: int = 100
    span_size: int = 150
    rank: int = 32
    """Number of factors of second-order scores."""


def label_set(kind: TaskKind, answers: Iterable[str]) -> tuple[str, ...]:
    """The labels of a task of kind `tag` or `parse`, from the gold answers of its training split.

    Teacher and student are built for the same labels, whatever their heads.
    """
    rows = [split(answer) for answer in answers]
    if kind == "parse":
        return RelativeLabels.of(rows).names
    return tuple(sorted({label for row in rows for label in row}))


class StructuredModel(nn.Module):
    """A tagger or parser for one or more tasks."""

    def __init__(
        self,
        architecture: Architecture,
        labels: Mapping[str, Sequence[str]],
        features: WordFeatures | PretrainedFeatures,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.labels = {task: tuple(labels[task]) for task in sorted(labels)}
        self.features = features
        self.dropout = nn.Dropout(architecture.dropout)
        with torch.random.fork_rng(devices=[]):
            _seed(seed, "body")
            self.body = _body(architecture, features.width)
            # A list, since tasks' names may have dots, which module names may not.
            self.heads = nn.ModuleList()
            for task, known in self.labels.items():
                _seed(seed, f"head/{task}")
                self.heads.append(_head(architecture, self.body.width, known))

    def prepare(self, sentences: Sequence[WordSequence]) -> SentenceBatch:
        """A padded batch on the CPU; every sentence has at least one word."""
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        return SentenceBatch(lengths, self.features.prepare(sentences))

    def forward(self, inputs: SentenceBatch, task: str) -> Structure:
        """The distribution over the task's structures, of the kind `architecture.head`."""
        hidden = self.body(self.dropout(self.features(inputs)), inputs.lengths)
        with torch.autocast(hidden.device.type, enabled=False):  # scores stay in float32
            structure: Structure = self._head(task)(self.dropout(hidden.float()), inputs.lengths)
        return structure

    def encode_gold(self, labels: LabelRows, task: str, length: int | None = None) -> Tensor:
        """Gold labels in the form that the structure's `score` reads, on the CPU.

        Args:
            length: words of the batch's longest sentence, if that is one without labels.

        Raises: ValueError: a label that the task does not have.
        """
        gold: Tensor = self._head(task).encode(labels, length or max(map(len, labels)))
        return gold

    def decode(self, structure: Structure, task: str) -> list[list[str]]:
        """The best labels of each word, as in a task's answers (which join them by spaces)."""
        decoded: list[list[str]] = self._head(task).decode(structure)
        return decoded

    def _head(self, task: str) -> Any:
        return self.heads[list(self.labels).index(task)]

    def save(self, folder: Path) -> None:
        """Write model.safetensors, structured.json, and an encoder's config and tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        document = {
            "architecture": asdict(self.architecture),
            "labels": self.labels,
            "features": self.features.save(folder),
        }
        (folder / _FILE).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        save_model(self, str(folder / _WEIGHTS))

    @classmethod
    def load(cls, folder: Path) -> StructuredModel:
        document = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        architecture, saved = Architecture(**document["architecture"]), document["features"]
        features: WordFeatures | PretrainedFeatures
        if saved:
            sizes = architecture.word_size, architecture.character_size
            features = WordFeatures(saved["words"], *sizes)
        else:
            features = PretrainedFeatures.load(folder)
        model = cls(architecture, document["labels"], features)
        load_model(model, str(folder / _WEIGHTS))
        return model


def build(
    architecture: Architecture,
    labels: Mapping[str, Sequence[str]],
    *,
    words: Sequence[str] = (),
    encoder: Pretrained | None = None,
    glove: Path | None = None,
    seed: int,
) -> StructuredModel:
    """A model with weights drawn from `seed`, except those of an encoder or of GloVe.

    Args:
        labels: the labels of each task, from `label_set`.
        words: the vocabulary; ignored if there is an encoder.
        encoder: a pretrained encoder.
        glove: a file of word vectors in GloVe's text format, of size `architecture.word_size`.

    Raises: InputError: the vectors are of another size; as `load_encoder` does.
    """
    if encoder is not None:
        return StructuredModel(
            architecture, labels, PretrainedFeatures(*load_encoder(encoder)), seed
        )
    with torch.random.fork_rng(devices=[]):
        _seed(seed, "features")
        features = WordFeatures(words, architecture.word_size, architecture.character_size)
    if glove is not None:
        features.read_glove(glove)
    return StructuredModel(architecture, labels, features, seed)


def _seed(seed: int, stream: str) -> None:
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _body(architecture: Architecture, width: int) -> BiLSTMEncoder | Transformer | Unchanged:
    if architecture.body == "bilstm":
        return BiLSTMEncoder(width, architecture.hidden, architecture.depth, architecture.dropout)
    if architecture.body == "transformer":
        return Transformer(
            width,
            architecture.hidden,
            architecture.depth,
            architecture.attention_heads,
            architecture.dropout,
        )
    if architecture.body == "none":
        return Unchanged(width)
    raise ValueError(f"no such arch: {architecture.body}; it is bilstm or transformer")


def check_architecture(architecture: Architecture) -> None:
    """Build the body without its weights. Raises: ValueError: no such body, or no such size."""
    with torch.device("meta"):
        _body(architecture, architecture.word_size + architecture.character_size)


def _head(architecture: Architecture, width: int, labels: Sequence[str]) -> nn.Module:
    if architecture.head == "token":
        return TokenHead(width, labels)
    if architecture.head == "chain":
        return ChainHead(width, labels)
    if architecture.head == "spans":
        return SpanHead(width, labels, architecture.span_size, architecture.dropout)
    if architecture.head == "labelling":
        return LabellingHead(width, labels)
    sizes = architecture.arc_size, architecture.relation_size, architecture.dropout
    if architecture.head == "second-order":
        return SecondOrderHead(width, labels, *sizes, architecture.rank)
    return ArcHead(width, labels, *sizes, DISTRIBUTIONS[architecture.head])
