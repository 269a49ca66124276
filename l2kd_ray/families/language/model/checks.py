"""Checks, on a few tokens, that a causal LM can be trained and decoded here.

The loss selects positions before the output layer, rows are padded on the right in training and on
the left in decoding, and decoding keeps keys and values. An architecture for which one of these
does not hold would train or decode another model, most of them without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from l2kd_ray.errors import InputError
from l2kd_ray.families.language.model.causal_lm import CausalLM, outline
from l2kd_ray.families.language.model.decoder import Decoder
from l2kd_ray.models.architecture import position_limit
from l2kd_ray.models.loading import LOADED_AT_THE_DOOR

_TOLERANCE = 1e-4  # of the largest logit; rounding in float32 gives some 1e-6


def check_arch(arch: str, overrides: Mapping[str, Any], max_length: int | None) -> None:
    """Check a model from scratch; a small one is built for it, with weights drawn at random.

    Raises: InputError; ValueError as `outline` does.
    """
    model = outline(arch, overrides)
    check_limit(model.lm.config, max_length)
    if sum(4 * weight.numel() for weight in model.parameters()) <= LOADED_AT_THE_DOOR:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = CausalLM(type(model.lm)(model.lm.config))
            for weight in built.parameters():
                if weight.dim() > 1:  # the usual 0.02 would hide the cap of Gemma 2's logits
                    torch.nn.init.normal_(weight, std=0.3)
            check_model(built)


def check_limit(config: Any, max_length: int | None) -> None:
    """Raise InputError if neither the config nor the study limits the length of a sequence."""
    if position_limit(config) is None and max_length is None:
        raise InputError(
            f"the architecture {config.model_type} has no largest length, so that the study must "
            "name one",
            expected="train.max_length",
            fix="set train.max_length, such as train.max_length=512",
        )


@torch.no_grad()
def check_model(model: CausalLM) -> None:
    """Raises: InputError, with the rule that the model breaks."""
    model.eval()
    long = [token % model.vocabulary for token in range(2, 9)]
    short, changed = long[3:6], [*long[:-1], long[0]]
    whole, brief = _logits(model, long), _logits(model, short)
    if not whole.isfinite().all():
        raise _refusal(model, "gives logits that are not finite (NaN or infinity)")
    if not _same(whole[:-1], _logits(model, changed)[:-1]):
        raise _refusal(
            model,
            "sees the tokens after the one that it predicts: it is no causal LM",
            "a decoder such as gpt2 or llama",
        )
    every = torch.arange(len(long))
    if not _same(whole, model.head(model(torch.tensor([long]), every))):
        raise _refusal(
            model,
            "changes its hidden states or logits round the output layer, which is not supported",
        )
    _check_decoding(model, [long[:-1], short[:-1]], [long[-1], short[-1]], [whole, brief])


def _check_decoding(
    model: CausalLM, prompts: list[list[int]], tokens: list[int], wanted: list[Tensor]
) -> None:
    """Compare decoding with a cache, padded on the left, with reading each row whole."""
    try:
        decoder = Decoder(model, prompts)
        found = [decoder.logits]
        decoder.feed(torch.tensor(tokens))
        found.append(decoder.logits)
    except Exception as error:  # whatever an unknown architecture raises
        raise _refusal(
            model,
            f"cannot be decoded with a cache of keys and values ({type(error).__name__}: {error})",
        ) from None
    for step, logits in enumerate(found):
        for row, whole in enumerate(wanted):
            if not _same(whole[len(prompts[row]) - 1 + step], logits[row, : model.vocabulary]):
                raise _refusal(model, "decodes a padded row as another one than the row alone")


def _logits(model: CausalLM, row: list[int]) -> Tensor:
    logits: Tensor = model.lm(input_ids=torch.tensor([row])).logits[0]
    return logits


def _same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _TOLERANCE * one.abs().max())


def _refusal(model: CausalLM, problem: str, expected: str = "") -> InputError:
    name = type(model.lm).__name__
    return InputError(
        f"{name} {problem}",
        got=model.lm.config.model_type,
        expected=expected or "an architecture such as gpt2, llama or qwen2",
    )
