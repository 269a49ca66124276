"""What a study may say of a model."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from l2kd_ray.section import Section


class ModelSpec(Section):
    """A causal LM, or an encoder of classifiers: a hub id or folder (`model`), or an architecture
    trained from scratch (`bilstm` for classifiers and taggers, beside those of transformers).

    `{arch: gpt2, n_layer: 2, n_embd: 128}`: every key but `arch` is a field of that architecture's
    transformers config.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    arch: str | None = None
    layers: int | None = Field(None, ge=1)
    """Of an encoder, its first ones alone (MKD, Meta-KD)."""
    vectors: str | None = None
    """Word vectors in GloVe's text format, for `arch: bilstm`."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.model is None) == (self.arch is None):
            raise ValueError("exactly one of `model` (hub id or folder) and `arch` is needed")
        if self.model is not None and self.overrides:
            raise ValueError(f"unknown keys beside `model`: {', '.join(sorted(self.overrides))}")
        if self.layers is not None and self.model is None:
            raise ValueError("layers: of a pretrained encoder; from scratch, num_hidden_layers")
        if self.vectors is not None and self.arch != "bilstm":
            raise ValueError("vectors: of words, for arch: bilstm")
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})
