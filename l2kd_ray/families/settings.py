"""What every family's methods read of a study: models, training, the multi-task bound.

A family subclasses these sections with what its own stages read; a method brings its options as a
section of its own (`families.method`). So a key that nobody could read does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeVar

from pydantic import Field

from l2kd_ray.core.stage import Optimisation
from l2kd_ray.door import Plugin
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.section import Section

Precision = Literal["float32", "bfloat16"]
S = TypeVar("S", bound=Section)


class TrainSettings(Section):
    """Optimisation of every training stage. Batch sizes are those of the global batch."""

    epochs: int = Field(9, ge=1)
    batch_size: int = Field(16, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    """Largest number of examples in one forward pass; larger batches are accumulated."""
    lr: float = Field(6.25e-5, gt=0)
    adam_eps: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.005, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    precision: Precision = "float32"
    """bfloat16: matrix products by autocast; weights, losses and the optimizer stay float32."""
    max_length: int | None = Field(None, ge=8)
    """Largest number of tokens in a training sequence (default: the model's context)."""

    def optimisation(self, overrides: TrainOverrides | None = None) -> Optimisation:
        """What the training loop reads; `overrides` go first where they are set."""

        def chosen(name: str) -> Any:
            own = None if overrides is None else getattr(overrides, name)
            return getattr(self, name) if own is None else own

        return Optimisation(
            epochs=chosen("epochs"),
            batch_size=chosen("batch_size"),
            lr=chosen("lr"),
            micro_batch=self.micro_batch,
            adam_eps=self.adam_eps,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip=self.clip,
        )


class TrainOverrides(Section):
    """What differs from `train` for some models."""

    epochs: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=1)


class FamilySettings(Section):
    """The sections that every family has."""

    student: ModelSpec
    teacher: ModelSpec | None = None
    train: TrainSettings = TrainSettings()
    multitask: TrainOverrides = TrainOverrides()
    """The multi-task bound has one setting, whatever is searched."""

    @property
    def model_specs(self) -> tuple[ModelSpec, ...]:
        """Every model that is looked for in a folder or on the hub."""
        return tuple(spec for spec in (self.student, self.teacher) if spec is not None)


@dataclass(frozen=True)
class Settings:
    """What the methods of one study read: the sections of their family and their own options."""

    family: FamilySettings
    options: Mapping[str, Section]
    """By the key under which they stand in the study file."""
    plugins: Mapping[str, Plugin] = field(default_factory=dict)
    """The functions from outside that the study names, by the name that it gives them."""

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """The settings with some put in place, by dotted key; the sections touched are checked.

        Raises:
            KeyError: a key that is no setting.
            ValidationError: a value that the setting does not take.
        """
        if not values:
            return self
        family, options = _Changes(), dict(self.options)
        for key, value in values.items():
            first, *below = key.split(".")
            if first not in (*type(self.family).model_fields, *options) or not below:
                raise KeyError(key)
            if first in _FOUND and below[0] in _FOUND[first]:
                raise KeyError(key)
            family.put(key, [first, *below], value)
        for name in options.keys() & family.keys():
            options[name] = _changed(options[name], family.pop(name))
        return replace(self, family=_changed(self.family, family), options=options)

    def keys_set(self) -> Iterator[tuple[str, Section, str]]:
        """(dotted key, section, field) of every setting that the study file holds."""
        yield from self.family.keys_set()
        for name, section in self.options.items():
            for key, owner, own in section.keys_set():
                yield f"{name}.{key}", owner, own


_MODEL = ("model", "revision", "vectors")
_FOUND = {"student": _MODEL, "teacher": _MODEL, "tokenizer": ("model", "revision", "tasks")}
"""What stands for files or for something on the hub: it is found once a study."""


class _Changes(dict[str, Any]):
    """Changes by field; those of a section below are `_Changes` again."""

    def put(self, dotted: str, path: Sequence[str], value: object) -> None:
        name, *rest = path
        if not rest:
            self[name] = value
            return
        below = self.setdefault(name, _Changes())
        if not isinstance(below, _Changes):
            raise KeyError(dotted)
        below.put(dotted, rest, value)


def _changed(section: S, changes: _Changes) -> S:
    """The section with changes in place, checked as a whole."""
    fields = {name: getattr(section, name) for name in section.model_fields_set}
    for name, change in changes.items():
        inner = getattr(section, name, None)
        if isinstance(change, _Changes) and isinstance(inner, Section):
            change = _changed(inner, change)
        fields[name] = change
    return type(section).model_validate(fields)
