"""Check that the layers of two encoders can be compared, token by token (Meta-KD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l2kd_ray.errors import InputError
from l2kd_ray.models.architecture import config_of, position_limit
from l2kd_ray.models.loading import load_config, vocabulary_of
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.models.spec import ModelSpec


def check_encoders(
    student: ModelSpec,
    teacher: ModelSpec,
    models: Mapping[str, Pretrained],
    *,
    attention: bool,
    longest: int,
) -> None:
    """Raise InputError if the encoders differ in their tokens, or if their layers do not match.

    `attention`: attentions are compared, too. `longest`: largest number of tokens of a text.
    """
    try:
        own, other = (_config(spec, models) for spec in (student, teacher))
    except ValueError:
        return  # no such architecture: a plan says so, with the model's key
    layers = own.num_hidden_layers, other.num_hidden_layers
    heads = own.num_attention_heads, other.num_attention_heads
    limits = [min(position_limit(config) or longest, longest) for config in (own, other)]
    if layers[1] % layers[0]:
        raise _refusal(
            "the student's layers do not divide its teacher's",
            f"{layers[0]} and {layers[1]} layers",
            f"one of {[n for n in range(1, layers[1] + 1) if layers[1] % n == 0]} layers",
        )
    if attention and heads[0] != heads[1]:
        raise _refusal(
            "a student cannot take over attentions of a teacher with other attention heads",
            f"{heads[0]} and {heads[1]} heads",
            "as many heads",
        )
    if not _same_tokens(student, teacher, models) or limits[0] != limits[1]:
        raise _refusal(
            "teacher and student split a text differently, so their layers cannot be compared",
            f"{_name(student)} and {_name(teacher)}, up to {limits[0]} and {limits[1]} tokens",
            "one tokenizer: a pretrained student, or both from scratch with one vocab_size",
        )


def _refusal(problem: str, got: str, expected: str) -> InputError:
    return InputError(
        problem,
        key="student",
        got=got,
        expected=expected,
        fix="or set metakd.hidden: 0 and metakd.attention: 0",
    )


def _name(spec: ModelSpec) -> str:
    return spec.model or f"{spec.arch} with vocab_size {spec.overrides.get('vocab_size')}"


def _config(spec: ModelSpec, models: Mapping[str, Pretrained]) -> Any:
    """The config of an encoder. Raises: ValueError if there is none."""
    if spec.model is None:
        arch, fields = spec.arch or "", spec.overrides
        return config_of(arch, fields, (arch,), "encoder")
    config = load_config(models[spec.model])
    if spec.layers is not None:
        config.num_hidden_layers = spec.layers
    return config


def _same_tokens(student: ModelSpec, teacher: ModelSpec, models: Mapping[str, Pretrained]) -> bool:
    """True if both split a text into the same tokens."""
    if student.model is None or teacher.model is None:  # tokenizers are trained on the same texts
        sizes = [spec.overrides.get("vocab_size") for spec in (student, teacher)]
        return student.model == teacher.model and sizes[0] == sizes[1]
    own, other = models[student.model], models[teacher.model]
    return own == other or vocabulary_of(own) == vocabulary_of(other)
