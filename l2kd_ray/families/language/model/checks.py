"""Checks, on a few tokens, that a language model can be trained and decoded here.

The loss selects positions before the output layer, rows are padded on the right in training and on
the left in decoding, and decoding keeps keys and values. An architecture for which one of these
does not hold would train or decode another model, most of them without an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from l2kd_ray.errors import InputError
from l2kd_ray.families.language.model.causal_lm import CausalLM, EncoderDecoder, outline
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
    check_layers(model.lm.config)
    if sum(4 * weight.numel() for weight in model.parameters()) <= LOADED_AT_THE_DOOR:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = type(model)(type(model.lm)(model.lm.config))
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


def check_layers(config: Any) -> None:
    """Raise InputError if the model leaves out layers at random (LayerDrop).

    Their parameters have no gradient in a step, but DDP waits for all, and GEM compares all.
    """
    for name, share in config.to_dict().items():
        if name.endswith("layerdrop") and share:
            raise InputError(
                f"{config.name_or_path or config.model_type} leaves out whole layers at random in "
                "training",
                got=f"{name}: {share}",
                expected=f"{name}: 0.0",
                fix=f"set {name} to 0.0, for a pretrained model in the config.json of its folder",
            )


@torch.no_grad()
def check_model(model: CausalLM) -> None:
    """Raises: InputError, with the rule that the model breaks."""
    model.eval()
    long = [token % model.vocabulary for token in range(2, 9)]
    short, changed = long[3:6], [*long[:-1], long[0]]
    whole = _logits(model, long, 1)
    if not whole.isfinite().all():
        raise _refusal(model, "gives logits that are not finite (NaN or infinity)")
    if not _same(whole[:-1], _logits(model, changed, 1)[:-1]):
        raise _refusal(
            model,
            "sees the tokens after the one that it predicts: it is no causal LM",
            "a decoder such as gpt2 or llama",
        )
    rows, every = [long, short], torch.arange(len(long))
    wanted = [_logits(model, row, len(row) - 1) for row in rows]
    padded = torch.tensor([long, [*short, *[0] * (len(long) - len(short))]])
    ends = [number * len(long) + len(row) - 1 for number, row in enumerate(rows)]
    last = torch.tensor([index for end in ends for index in (end - 1, end)])
    with _refusing(model, "cannot be read position by position"):
        alone = model.head(model(torch.tensor([long]), every))
        together = model.head(model(padded, last, [len(row) - 1 for row in rows]))
    if not _same(whole, alone):
        raise _refusal(
            model,
            "changes its hidden states or logits round the output layer, which is not supported",
        )
    if not _same(torch.cat(wanted), together):
        raise _refusal(model, "reads a padded row as another one than the row alone")
    _check_decoding(model, rows, wanted)


def _check_decoding(model: CausalLM, rows: list[list[int]], wanted: list[Tensor]) -> None:
    """Compare decoding of each row's last token with a cache, padded on the left, with the logits
    [2, V] of reading the row whole."""
    prompts, tokens = [row[:-1] for row in rows], [row[-1] for row in rows]
    with _refusing(model, "cannot be decoded with a cache of keys and values"):
        decoder = Decoder.of(model, prompts)
        found = [decoder.logits]
        decoder.feed(torch.tensor(tokens))
        found.append(decoder.logits)
    for step, logits in enumerate(found):
        for row, whole in enumerate(wanted):
            if not _same(whole[step], logits[row, : model.vocabulary]):
                raise _refusal(model, "decodes a padded row as another one than the row alone")


def _logits(model: CausalLM, row: list[int], source: int) -> Tensor:
    """The logits after the first `source` tokens and after each later one, by transformers."""
    if isinstance(model, EncoderDecoder):
        given, read = torch.tensor([row[:source]]), torch.tensor([[model.start, *row[source:]]])
        found: Tensor = model.lm(input_ids=given, decoder_input_ids=read).logits[0]
        return found
    logits: Tensor = model.lm(input_ids=torch.tensor([row])).logits[0]
    return logits[source - 1 :]


def _same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _TOLERANCE * one.abs().max())


@contextmanager
def _refusing(model: CausalLM, problem: str) -> Iterator[None]:
    """Whatever an unknown architecture raises within is its refusal."""
    try:
        yield
    except Exception as error:
        raise _refusal(model, f"{problem} ({type(error).__name__}: {error})") from None


def _refusal(model: CausalLM, problem: str, expected: str = "") -> InputError:
    name = type(model.lm).__name__
    return InputError(
        f"{name} {problem}",
        got=model.lm.config.model_type,
        expected=expected or "an architecture such as gpt2, llama or qwen2",
    )
