"""Features of words: embeddings with a character CNN, or a pretrained encoder.

Both are modules with `prepare`, from sentences to tensors on the CPU, `forward`, from these to
[B, n, width], and `excess`, the subwords by which each sentence is too long (0 or less if it fits).
Sentences are padded on the right; the features of a word do not depend on the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from l2kd_ray.models.architecture import UNLIMITED, position_limit
from l2kd_ray.models.vectors import read_vectors

WordSequence = Sequence[str]
"""The words of a sentence."""
LONGEST = 32  # bytes of a word that are read; the rest of a URL carries little information


@dataclass(frozen=True)
class SentenceBatch:
    """A batch of sentences: the number of words of each, [B], and the tensors of the features."""

    lengths: Tensor
    tensors: Mapping[str, Tensor]

    def to(self, device: torch.device | str) -> SentenceBatch:
        moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return SentenceBatch(self.lengths.to(device), moved)


class WordFeatures(nn.Module):
    """One vector per word, and the maxima of a CNN over its characters (Ma and Hovy 2016).

    A word that is not in `words` is looked up in lower case, then taken as unknown. Characters are
    the bytes of UTF-8, so that no second vocabulary is needed.
    """

    def __init__(self, words: Sequence[str], size: int, characters: int) -> None:
        super().__init__()
        self.words = tuple(words)
        self.ids = {word: number for number, word in enumerate(self.words, start=2)}
        self.embedding = nn.Embedding(len(self.words) + 2, size, padding_idx=0)  # 1 is unknown
        # Variance 1 / size for each entry: the expected squared length of a vector is 1.
        bound = (3 / size) ** 0.5
        nn.init.uniform_(self.embedding.weight[1:], -bound, bound)
        # 256 bytes and padding.
        self.byte_embedding = nn.Embedding(257, characters, padding_idx=0)
        self.convolution = nn.Conv1d(characters, characters, kernel_size=3, padding=1)
        self.width = size + characters

    def prepare(self, sentences: Sequence[WordSequence]) -> dict[str, Tensor]:
        """words [B, n] and characters [B, n, c] of a batch; 0 is padding."""
        spelled = [
            [[byte + 1 for byte in word.encode()[:LONGEST]] for word in sentence]
            for sentence in sentences
        ]
        B, n = len(sentences), max(map(len, sentences))
        words = torch.zeros(B, n, dtype=torch.long)
        characters = torch.zeros(
            B, n, max(len(word) for row in spelled for word in row), dtype=torch.long
        )
        for b, (sentence, row) in enumerate(zip(sentences, spelled, strict=True)):
            words[b, : len(sentence)] = torch.tensor([self._id(word) for word in sentence])
            for t, word in enumerate(row):
                characters[b, t, : len(word)] = torch.tensor(word)
        return {"words": words, "characters": characters}

    def excess(self, sentences: Sequence[WordSequence]) -> list[int]:
        return [0] * len(sentences)

    def _id(self, word: str) -> int:
        return self.ids.get(word, self.ids.get(word.lower(), 1))

    def forward(self, inputs: SentenceBatch) -> Tensor:
        words, characters = inputs.tensors["words"], inputs.tensors["characters"]
        flat = characters.flatten(0, 1)  # [B n, c]
        maps = self.convolution(self.byte_embedding(flat).transpose(1, 2))
        # After relu no value of a word is below 0, so 0 on padding never wins the maximum.
        maps = maps.relu().masked_fill((flat == 0)[:, None], 0.0)
        return torch.cat([self.embedding(words), maps.amax(-1).view(*words.shape, -1)], -1)

    @torch.no_grad()
    def read_glove(self, path: Path) -> None:
        """Set the vectors of known words from a file. Raises: InputError as `read_vectors` does."""
        found = read_vectors(path, self.ids, self.embedding.embedding_dim)
        self.embedding.weight[list(found)] = torch.tensor([*found.values()]).view(len(found), -1)

    def save(self, folder: Path) -> dict[str, Any]:
        """The vocabulary, which a model needs beside its weights (the model saves those)."""
        return {"words": self.words}


class PretrainedFeatures(nn.Module):
    """The hidden state of a Hugging Face encoder at the first subword of each word.

    Words without subwords, and words beyond the encoder's context, get zeros.
    """

    def __init__(self, encoder: Any, tokenizer: Any) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer
        self.width = int(encoder.config.hidden_size)

    def prepare(self, sentences: Sequence[WordSequence]) -> dict[str, Tensor]:
        """input_ids, attention_mask [B, m]; first [B, n]: 1 + each word's first subword's index."""
        encoded = self._encoded(sentences, truncation=True, max_length=self._longest)
        B, n, m = len(sentences), max(map(len, sentences)), max(map(len, encoded["input_ids"]))
        first = torch.zeros(B, n, dtype=torch.long)
        ids = torch.zeros(B, m, dtype=torch.long)
        mask = torch.zeros(B, m, dtype=torch.long)
        for b, row in enumerate(encoded["input_ids"]):
            ids[b, : len(row)], mask[b, : len(row)] = torch.tensor(row), 1
            # Backwards, so that the first subword of a word is written last and stays.
            for index, word in reversed([*enumerate(encoded.word_ids(b), start=1)]):
                if word is not None:
                    first[b, word] = index
        return {"input_ids": ids, "attention_mask": mask, "first": first}

    def excess(self, sentences: Sequence[WordSequence]) -> list[int]:
        whole = self._encoded(sentences, verbose=False)["input_ids"]
        return [len(subwords) - self._longest for subwords in whole]

    @property
    def _longest(self) -> int:
        positions = position_limit(self.encoder.config) or UNLIMITED
        return min(positions, int(self.tokenizer.model_max_length))

    def _encoded(self, sentences: Sequence[WordSequence], **how: Any) -> Any:
        return self.tokenizer(
            [list(sentence) for sentence in sentences],
            is_split_into_words=True,
            split_special_tokens=True,  # a word that spells one, such as [SEP], stays a word
            **how,
        )

    def forward(self, inputs: SentenceBatch) -> Tensor:
        ids, mask = inputs.tensors["input_ids"], inputs.tensors["attention_mask"]
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        hidden = nn.functional.pad(hidden, (0, 0, 1, 0))  # zeros for words without a subword
        first = inputs.tensors["first"][..., None].expand(-1, -1, hidden.shape[-1])
        pooled: Tensor = hidden.gather(1, first)
        return pooled

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the config and the tokenizer as files; the model saves the weights."""
        self.encoder.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return {}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Rebuild the features from a folder; the weights are loaded afterwards."""
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(AutoModel.from_config(config, dtype=torch.float32), tokenizer)
