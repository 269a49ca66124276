"""The bi-attentive BiLSTM classifier, as AllenNLP's (McCann et al. 2017), the student of MKD.

    X = BiLSTM(ReLU(FF(Emb(x)))), Y likewise (one text: Y = X);  A = X Y^T;  C_y = softmax_m(A) Y
    X' = BiLSTM([X; X - C_y; X * C_y]), Y' likewise;  pool = [max; min; mean; self-attention]

Shapes: B batch, n and m lengths, h LSTM size; X [B, n, 2h], pool [B, 8h], of a pair [B, 16h].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from l2kd_ray.distill.states import States, mean_state
from l2kd_ray.families.classifiers.model.maxout import Maxout
from l2kd_ray.families.classifiers.model.states import (
    Texts,
    TokenizedTexts,
    check_texts,
    check_wanted,
)
from l2kd_ray.families.classifiers.model.words import (
    PADDING,
    UNKNOWN,
    Words,
    split,
    with_vectors,
)
from l2kd_ray.models.vectors import read_vectors

_WEIGHTS, _WORDS = "model.safetensors", "words.json"
_FIRST, _SECOND = "first", "second"


class BiLSTM(nn.Module):
    """A classifier's body; a pair of texts is recognised by the second tensor of its inputs."""

    kind = "bilstm"

    def __init__(
        self,
        words: Words,
        *,
        embedding: int = 300,
        hidden: int = 256,
        dropout: float = 0.1,
        max_length: int = 128,
        maxout: int | None = None,
    ) -> None:
        super().__init__()
        self.words = words
        self.settings: dict[str, Any] = {
            "embedding": embedding, "hidden": hidden, "dropout": dropout, "max_length": max_length,
        }  # fmt: skip
        if maxout is not None:
            self.settings["maxout"] = maxout
        self.embed = nn.Embedding(len(words), embedding, padding_idx=PADDING)
        self.feedforward = nn.Linear(embedding, hidden)
        self.encode = _bilstm(hidden, hidden)
        self.integrate = _bilstm(6 * hidden, hidden)
        self.attend = nn.Linear(2 * hidden, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def build(
        cls, words: Words, seed: int, settings: Mapping[str, Any], vectors: Path | None = None
    ) -> BiLSTM:
        """Draw the weights from `seed`; embeddings come from a GloVe file where it has the word.

        Raises: InputError as `read_vectors` does.
        """
        torch.manual_seed(seed)
        model = cls(words, **settings)
        if vectors is not None:
            vectors_found = read_vectors(vectors, words.ids, model.embed.embedding_dim)
            model.embed.weight.data = with_vectors(model.embed.weight.data, vectors_found)
        return model

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> BiLSTM:
        """Load a model from a folder that `save` wrote."""
        model = cls(Words(json.loads((folder / _WORDS).read_text("utf-8"))), **settings)
        model.load_state_dict(load_file(folder / _WEIGHTS))
        return model

    def save(self, folder: Path) -> None:
        save_file(self.state_dict(), folder / _WEIGHTS)
        (folder / _WORDS).write_text(json.dumps(self.words.known, ensure_ascii=False), "utf-8")

    def width(self, pair: bool) -> int:
        """Width of the vectors that the heads read."""
        return (16 if pair else 8) * self.encode.hidden_size

    def head(self, width: int, outputs: int) -> nn.Module:
        """A task's head: linear, or a maxout network of the pool size `maxout`."""
        if "maxout" in self.settings:
            return Maxout(width, outputs, self.settings["maxout"], self.settings["dropout"])
        return nn.Linear(width, outputs)

    @property
    def state_width(self) -> int:
        """Width of each hidden state and of the feature."""
        return 2 * int(self.encode.hidden_size)

    @property
    def embeddings(self) -> Tensor:
        return self.embed.weight

    def prepare(self, texts: Texts) -> TokenizedTexts:
        """Encode texts or pairs, each text cut to `max_length` words.

        Raises: ValueError as `check_texts` does.
        """
        names = (_FIRST, _SECOND) if check_texts(texts) else (_FIRST,)
        columns = zip(names, zip(*texts, strict=True), strict=True)
        return TokenizedTexts({name: self._padded(column) for name, column in columns})

    def _padded(self, texts: Sequence[str]) -> Tensor:
        longest = self.settings["max_length"]
        ids = [torch.tensor(self.words.encode(text, longest)) for text in texts]
        return pad_sequence(ids, batch_first=True, padding_value=PADDING)

    def excess(self, texts: Texts) -> list[int]:
        """The words by which each text (of a pair: both) is longer than `max_length`."""
        longest = self.settings["max_length"]
        return [sum(max(len(split(text)) - longest, 0) for text in row) for row in texts]

    def blank(self, batch: int, length: int, pair: bool) -> TokenizedTexts:
        """Texts of `length` unknown words, for measuring time."""
        ids = torch.full((batch, length), UNKNOWN)
        return TokenizedTexts({_FIRST: ids, _SECOND: ids} if pair else {_FIRST: ids})

    def forward(self, inputs: TokenizedTexts, wanted: frozenset[str] = frozenset()) -> States:
        """The states of a batch; hidden states (of the first text): [E; E], X, X'.

        E = ReLU(FF(Emb(x))) is what each direction of the first LSTM reads: twice, so that all
        states are 2h wide and one map compares them with a teacher's.

        Raises: ValueError if attentions are wanted: a BiLSTM has none like a Transformer's.
        """
        check_wanted(wanted, frozenset({"hidden", "feature"}))
        ids = list(inputs.tensors.values())
        masks = [one != PADDING for one in ids]
        embedded = [self.dropout(torch.relu(self.feedforward(self.embed(one)))) for one in ids]
        states = [_run(self.encode, *pair) for pair in zip(embedded, masks, strict=True)]
        final = [
            self._integrated(states[n], masks[n], states[-1 - n], masks[-1 - n])
            for n in range(len(ids))
        ]
        pooled = [self._pooled(*pair) for pair in zip(final, masks, strict=True)]
        return States(
            text=self.dropout(torch.cat(pooled, -1)),
            mask=masks[0],
            hidden=[embedded[0].repeat(1, 1, 2), states[0], final[0]]
            if "hidden" in wanted
            else None,
            feature=mean_state(final[0], masks[0]) if "feature" in wanted else None,
        )

    def _integrated(self, x: Tensor, mask: Tensor, y: Tensor, other: Tensor) -> Tensor:
        """X' [B, n, 2h], from X and the attention of its tokens over Y."""
        affinity = x @ y.transpose(1, 2)
        context = affinity.masked_fill(~other.unsqueeze(1), -torch.inf).softmax(-1) @ y
        return _run(self.integrate, torch.cat([x, x - context, x * context], -1), mask)

    def _pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, 8h]: [max; min; mean; self-attention] over the tokens."""
        padding = ~mask.unsqueeze(-1)
        weights = self.attend(states).masked_fill(padding, -torch.inf).softmax(1)
        return torch.cat(
            [
                states.masked_fill(padding, -torch.inf).amax(1),
                states.masked_fill(padding, torch.inf).amin(1),
                states.sum(1) / mask.sum(1, keepdim=True),
                (weights * states).sum(1),
            ],
            -1,
        )


def check_bilstm(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a setting that the model does not have, or a value of no use."""
    known = ("embedding", "hidden", "dropout", "maxout")
    for name in settings:
        if name not in known:
            raise ValueError(f"a bilstm has no field {name}; it has {', '.join(known)}")
    pool = settings.get("maxout")
    if pool is not None and not (isinstance(pool, int) and pool > 1):
        raise ValueError(f"maxout is the number of units of a pool, 2 or more, and not {pool}")


def _bilstm(inputs: int, hidden: int) -> nn.LSTM:
    return nn.LSTM(inputs, hidden, batch_first=True, bidirectional=True)


def _run(lstm: nn.LSTM, states: Tensor, mask: Tensor) -> Tensor:
    """[B, n, 2h]: outputs on the tokens, 0 on padding, independent of the batch's longest text."""
    # pack_padded_sequence requires lengths on the CPU.
    lengths = mask.sum(1).cpu()
    packed = pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
    output, _ = pad_packed_sequence(lstm(packed)[0], True, total_length=states.shape[1])
    return output
