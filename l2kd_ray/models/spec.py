"""The section of a study that describes a model."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from l2kd_ray.errors import InputError
from l2kd_ray.section import Location, Section, by_name


class ModelSpec(Section):
    """A language model or a classifier's encoder: pretrained (`model`) or from scratch (`arch`).

    `model` is a hub id or a folder; a text alone stands for it. `{arch: gpt2, n_layer: 2}`: every
    key but `arch` is a field of that architecture's transformers config. `arch: bilstm` (for
    classifiers and taggers) is not one of transformers.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    model: Location | None = None
    revision: str | None = None
    arch: str | None = None
    layers: int | None = Field(None, ge=1)
    """Keep only this many first layers of an encoder (MKD, Meta-KD)."""
    vectors: Location | None = None
    """File of word vectors in GloVe's text format, for `arch: bilstm`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return by_name(value, "model")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.model is None) == (self.arch is None):
            raise InputError("set exactly one of `model` (hub id or folder) and `arch`")
        if self.model is not None and self.overrides:
            raise InputError(
                f"unknown keys beside `model`: {', '.join(sorted(self.overrides))}",
                fix="remove them; they are fields of an `arch`",
            )
        if self.layers is not None and self.model is None:
            raise InputError(
                "needs a pretrained `model`",
                key="layers",
                got=self.layers,
                fix="with `arch` set num_hidden_layers",
            )
        if self.vectors is not None and self.arch != "bilstm":
            raise InputError("needs `arch: bilstm`", key="vectors", got=self.vectors)
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})
