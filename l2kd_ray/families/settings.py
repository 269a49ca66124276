"""Settings that the methods of all families read: models, training, the multi-task bound.

A family subclasses these sections and adds the fields its own stages read; a method has its options
in a section of its own (`families.method`). So no key exists that nothing could read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from l2kd_ray.core.stage import Optimisation
from l2kd_ray.door import Plugin
from l2kd_ray.errors import InputError
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.section import Section

Precision = Literal["float32", "tf32", "bfloat16"]
S = TypeVar("S", bound=Section)


class Length(Section):
    """The length of a training, in epochs or in optimizer steps."""

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    """Number of steps in place of `epochs`: one budget, whatever the amount of data."""

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if self.steps is not None and self.model_fields_set & {"epochs"}:
            raise InputError(
                "a training has a number of steps or of epochs, not both",
                key="steps",
                got=self.steps,
                fix="remove epochs, or remove steps",
            )
        return self

    @property
    def length(self) -> int | None:
        """The number of steps or of epochs, whichever is in use; None if neither is set."""
        return self.epochs if self.steps is None else self.steps


class TrainSettings(Length):
    """Optimisation of every training stage. Batch sizes are those of the global batch."""

    epochs: int = Field(9, ge=1)
    batch_size: int = Field(16, ge=1)
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Largest number of examples in one forward pass; larger batches are accumulated. `auto`: all.
    Either is halved, and the step done again, where the device has no memory for so many."""
    lr: float = Field(6.25e-5, gt=0)
    adam_eps: float = Field(1e-4, gt=0)
    adam_eps_added: Literal["after", "before"] = "after"
    """`after` the bias correction (torch); `before` it, as the original's optimizer does, so that
    the epsilon of the first steps is larger (32 times at the first)."""
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.005, ge=0, lt=1)
    warmup_over: Literal["training", "epoch"] = "training"
    """`warmup` is a share of all steps, or of one epoch's steps (the original)."""
    clip: float = Field(1.0, gt=0)
    precision: Precision = "float32"
    """bfloat16: matrix products by autocast; weights, losses and the optimizer stay float32. tf32:
    matrix products of float32 with 10 bits of mantissa, on GPUs that have them."""
    deterministic: bool = False
    """Use kernels that give the same bits each time, on a GPU slower ones; a CPU's always do."""
    max_length: int | None = Field(None, ge=8)
    """Largest number of tokens in a training sequence (default: the model's context)."""

    def optimisation(self, overrides: TrainOverrides | None = None) -> Optimisation:
        """The settings of the training loop; fields set in `overrides` take precedence."""

        def chosen(name: str) -> Any:
            own = None if overrides is None else getattr(overrides, name)
            return getattr(self, name) if own is None else own

        unit = self if overrides is None or overrides.length is None else overrides
        return Optimisation(
            epochs=unit.epochs if unit.steps is None else None,
            steps=unit.steps,
            batch_size=chosen("batch_size"),
            lr=chosen("lr"),
            micro_batch=None if self.micro_batch == "auto" else self.micro_batch,
            deterministic=self.deterministic,
            adam_eps=self.adam_eps,
            eps_first=self.adam_eps_added == "before" or None,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            warmup_of_epoch=(self.warmup > 0 and self.warmup_over == "epoch") or None,
            clip=self.clip,
        )


class TrainOverrides(Length):
    """Settings that replace those of `train` for some models; None keeps them."""

    lr: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=1)


class TeachingSettings(TrainOverrides):
    """Training of teachers. By default they are trained by the study's `train`, whatever an arm or
    a search sets there for students."""

    max_train: int | None = Field(None, ge=1)
    """Number of a task's training examples that its teacher sees; those of the student are among
    them, if they are fewer (default: the student's)."""


class FamilySettings(Section):
    """The sections that all families have."""

    student: ModelSpec
    teacher: ModelSpec | None = None
    train: TrainSettings = TrainSettings()
    teaching: TeachingSettings = TeachingSettings()
    multitask: TrainOverrides = TrainOverrides()
    """Overrides for the multi-task bound, which has one setting whatever is searched."""

    @property
    def model_specs(self) -> tuple[ModelSpec, ...]:
        """The models that are looked up in a folder or on the hub."""
        return tuple(spec for spec in (self.student, self.teacher) if spec is not None)


@dataclass(frozen=True)
class Settings:
    """All settings of a study's methods: the sections of their family and their own options."""

    family: FamilySettings
    options: Mapping[str, Section]
    """The methods' options, by their key in the study file."""
    plugins: Mapping[str, Plugin] = field(default_factory=dict)
    """The plug-ins that the study names, by the name it uses."""
    base: FamilySettings | None = None
    """The study's own sections, if an arm or a search has changed them."""

    @property
    def teacher_train(self) -> TrainSettings:
        """The settings that teachers are trained by, before `teaching` overrides some."""
        return (self.base or self.family).train

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """A copy with the values of some dotted keys replaced; the changed sections are validated.

        Raises:
            KeyError: no setting has this key, or it is one for the whole study (`_OF_THE_STUDY`).
            ValidationError: the setting does not accept this value.
        """
        if not values:
            return self
        family, options = _Changes(), dict(self.options)
        for key, value in values.items():
            first, *below = key.split(".")
            if first not in (*type(self.family).model_fields, *options) or not below:
                raise KeyError(key)
            if below[0] in _OF_THE_STUDY.get(first, ()):
                raise KeyError(key)
            family.put(key, [first, *below], value)
        for name in options.keys() & family.keys():
            options[name] = _changed(options[name], family.pop(name))
        base = self.base or self.family
        return replace(self, family=_changed(self.family, family), options=options, base=base)

    def keys_set(self) -> Iterator[tuple[str, Section, str]]:
        """Yield (dotted key, section, field) for each setting that is set in the study file."""
        yield from self.family.keys_set()
        for name, section in self.options.items():
            for key, owner, own in section.keys_set():
                yield f"{name}.{key}", owner, own


_MODEL = ("model", "revision", "vectors")
_OF_THE_STUDY: Mapping[str, tuple[str, ...]] = {
    "student": _MODEL,
    "teacher": _MODEL,
    "tokenizer": ("model", "revision", "tasks"),
    "structkd": ("case",),
    "train": (
        "micro_batch",
        "gradient_checkpointing",
        "deterministic",
        "shard",
        "fsdp_config",
    ),
}
"""Fields that neither an arm nor a search may set: names of files and hub entries, which are
resolved once; the kind of model that the references and all arms are compared with; and how a
result is computed, on which it does not depend."""


class _Changes(dict[str, Any]):
    """Changed values by field; the changes of a nested section are `_Changes` themselves."""

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
    """A copy of the section with the changes, validated as a whole."""
    fields = {name: getattr(section, name) for name in section.model_fields_set}
    for name, change in changes.items():
        inner = getattr(section, name, None)
        if isinstance(change, _Changes) and isinstance(inner, Section):
            change = _changed(inner, change)
        fields[name] = change
    return type(section).model_validate(fields)
