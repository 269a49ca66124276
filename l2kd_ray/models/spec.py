"""The section of a study that describes a model."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from l2kd_ray.section import Section


class ModelSpec(Section):
    """A causal LM or a classifier's encoder: pretrained (`model`) or from scratch (`arch`).

    `model` is a hub id or a folder. `{arch: gpt2, n_layer: 2, n_embd: 128}`: every key but `arch`
    is a field of that architecture's transformers config. `arch: bilstm` (for classifiers and
    taggers) is not one of transformers.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str | None = None
    revision: str | None = None
    arch: str | None = None
    layers: int | None = Field(None, ge=1)
    """Keep only this many first layers of an encoder (MKD, Meta-KD)."""
    vectors: str | None = None
    """File of word vectors in GloVe's text format, for `arch: bilstm`."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.model is None) == (self.arch is None):
            raise ValueError("set exactly one of `model` (hub id or folder) and `arch`")
        if self.model is not None and self.overrides:
            raise ValueError(f"unknown keys beside `model`: {', '.join(sorted(self.overrides))}")
        if self.layers is not None and self.model is None:
            raise ValueError("layers needs a pretrained `model`; with `arch` set num_hidden_layers")
        if self.vectors is not None and self.arch != "bilstm":
            raise ValueError("vectors needs `arch: bilstm`")
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})
