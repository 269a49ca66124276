"""Hugging Face encoders as classifier bodies: pretrained, cut to some layers, or from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from l2kd_ray.distill.states import States, mean_state
from l2kd_ray.families.classifiers.model.states import (
    Texts,
    TokenizedTexts,
    check_texts,
    check_wanted,
)
from l2kd_ray.models.architecture import config_of, position_limit
from l2kd_ray.models.loading import quiet
from l2kd_ray.models.vocabulary import vocabulary_size

Pooling = Literal["mean", "first"]


class Encoder(nn.Module):
    """An encoder with its tokenizer; heads read the mean `feature` or the first token (`pooling`).

    Attention is computed the eager way only where attentions are wanted: other kernels do not
    return them.
    """

    kind = "encoder"

    def __init__(
        self, encoder: Any, tokenizer: Any, *, max_length: int = 128, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # no loss trains it, and DDP would find it unused
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.pooling = pooling
        longest = position_limit(encoder.config) or max_length
        self.max_length = min(max_length, tokenizer.model_max_length, longest)
        self._attention: str = encoder.config._attn_implementation

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Encoder:
        """Load an encoder in float32 from a folder that `save` wrote."""
        from transformers import AutoModel, AutoTokenizer

        with quiet():
            encoder = AutoModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(encoder, tokenizer, **settings)

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder: config.json, model.safetensors, the tokenizer's files."""
        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_length": self.max_length, "pooling": self.pooling}

    def width(self, pair: bool) -> int:
        """Width of the vectors that the heads read."""
        return int(self.encoder.config.hidden_size)

    def head(self, width: int, outputs: int) -> nn.Module:
        """A task's head."""
        return nn.Linear(width, outputs)

    @property
    def state_width(self) -> int:
        """Width of each hidden state and of the feature."""
        return self.width(pair=False)

    @property
    def embeddings(self) -> Tensor:
        """The token embedding's weights."""
        weight: Tensor = self.encoder.get_input_embeddings().weight
        return weight

    def prepare(self, texts: Texts) -> TokenizedTexts:
        """Texts or pairs, cut to `max_length` tokens. Raises: ValueError as `check_texts` does."""
        check_texts(texts)
        columns = [list(column) for column in zip(*texts, strict=True)]
        encoded = self.tokenizer(
            *columns,
            padding=True,
            truncation=True,
            max_length=self.max_length,
            split_special_tokens=True,  # a text that spells one, such as [SEP], stays text
            return_tensors="pt",
        )
        return self._inputs(encoded["input_ids"], encoded["attention_mask"], encoded)

    def excess(self, texts: Texts) -> list[int]:
        """The tokens by which each text (or pair) is longer than `max_length`; negative if not."""
        columns = [list(column) for column in zip(*texts, strict=True)]
        whole = self.tokenizer(*columns, split_special_tokens=True, verbose=False)["input_ids"]
        return [len(tokens) - self.max_length for tokens in whole]

    def blank(self, batch: int, length: int, pair: bool) -> TokenizedTexts:
        """Texts of `length` unknown tokens (at most `max_length`), for measuring time."""
        ids = torch.full(
            (batch, min(length, self.max_length)), int(self.tokenizer.unk_token_id or 0)
        )
        types = {"token_type_ids": torch.zeros_like(ids)}
        return self._inputs(ids, torch.ones_like(ids), types)

    def _inputs(self, ids: Tensor, mask: Tensor, more: Mapping[str, Tensor]) -> TokenizedTexts:
        tensors = {"input_ids": ids, "attention_mask": mask}
        # RoBERTa's family has one segment only, whatever its tokenizer returns.
        if "token_type_ids" in more and getattr(self.encoder.config, "type_vocab_size", 0) > 1:
            tensors["token_type_ids"] = more["token_type_ids"]
        return TokenizedTexts(tensors)

    def forward(self, inputs: TokenizedTexts, wanted: frozenset[str] = frozenset()) -> States:
        """The states of a batch.

        Raises: ValueError if something unknown is wanted.
        """
        check_wanted(wanted)
        attention = "eager" if "attentions" in wanted else self._attention
        if self.encoder.config._attn_implementation != attention:
            self.encoder.set_attn_implementation(attention)
        outputs = self.encoder(
            **inputs.tensors,
            output_hidden_states="hidden" in wanted,
            output_attentions="attentions" in wanted,
        )
        mask = inputs.tensors["attention_mask"].bool()
        last = outputs.last_hidden_state
        feature = mean_state(last, mask)
        return States(
            text=feature if self.pooling == "mean" else last[:, 0],
            mask=mask,
            hidden=list(outputs.hidden_states) if "hidden" in wanted else None,
            attentions=list(outputs.attentions) if "attentions" in wanted else None,
            feature=feature if "feature" in wanted else None,
        )


def build_encoder(arch: str, overrides: Mapping[str, Any], tokenizer: Any, seed: int) -> Any:
    """An encoder from scratch, its weights drawn from `seed`.

    Raises: ValueError as `check_encoder` does.
    """
    ids = {"vocab_size": vocabulary_size(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(seed)
    return _from_config(arch, {**overrides, **ids})


def check_encoder(arch: str, overrides: Mapping[str, Any]) -> None:
    """Build the encoder without its weights.

    Raises: ValueError: no such architecture, a field that its config has not, sizes that do not
        fit together.
    """
    with torch.device("meta"):
        _from_config(arch, overrides)


def _from_config(arch: str, fields: Mapping[str, Any]) -> Any:
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as KNOWN

    config = config_of(arch, fields, ("bert", "roberta", "distilbert", *KNOWN), "encoder")
    return AutoModel.from_config(config, dtype=torch.float32)
