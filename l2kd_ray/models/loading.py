"""Loading of pretrained models and tokenizers: complete, finite and fitting, or refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from l2kd_ray.errors import InputError
from l2kd_ray.models.files import weight_bytes
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.models.vocabulary import vocabulary_size

logging.disable_progress_bar()  # a stage may load several models, each in a fraction of a second
LOADED_AT_THE_DOOR = 10**9
"""Bytes of float32 weights up to which a model is loaded, or built, before anything starts.

A larger one is checked by the first stage that loads it.
"""


def is_small(source: Pretrained) -> bool:
    """True for a model in a folder that can be loaded within seconds."""
    folder = Path(source.location)
    return folder.is_dir() and weight_bytes(folder) <= LOADED_AT_THE_DOOR


def load_config(source: Pretrained) -> Any:
    """A model's config. Raises: InputError if transformers does not know its type, or the files
    have changed since the study was planned."""
    from transformers import AutoConfig

    source.unchanged()
    try:
        return AutoConfig.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=False
        )
    except Exception as error:  # transformers raises errors of many types
        custom = "custom code" in str(error)
        raise InputError(
            "the model needs code of its own, which is never run"
            if custom
            else f"the model's config cannot be read ({_first_line(error)})",
            got=source.location,
            expected="a model whose type transformers knows",
        ) from None


def load_tokenizer(source: Pretrained) -> Any:
    """A pretrained tokenizer. Raises: InputError if there is none, or it has changed."""
    from transformers import AutoTokenizer

    source.unchanged()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=False
        )
        ordinary = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    except Exception as error:  # transformers raises errors of many types
        raise _no_tokenizer(source, _first_line(error)) from None
    # For some types of model transformers makes an empty tokenizer where there are no files.
    if not ordinary:
        raise _no_tokenizer(source, "no ordinary tokens")
    return tokenizer


@cache
def vocabulary_of(source: Pretrained) -> Mapping[str, int]:
    """The tokens of a pretrained tokenizer. Raises: InputError if there is none."""
    vocabulary: Mapping[str, int] = load_tokenizer(source).get_vocab()
    return vocabulary


def _no_tokenizer(source: Pretrained, got: str) -> InputError:
    return InputError(
        "the model's tokenizer cannot be loaded",
        got=f"{source.location}: {got}",
        expected="tokenizer.json, or the tokenizer's other files, beside config.json",
        fix="save it there: AutoTokenizer.from_pretrained(ITS_MODEL).save_pretrained(FOLDER)",
    )


def check_vocabulary(config: Any, tokenizer: Any, location: str) -> None:
    """Raise InputError if the tokenizer has ids for which the model has no embedding."""
    rows, size = config.get_text_config().vocab_size, vocabulary_size(tokenizer)
    if size > rows:
        raise InputError(
            "the tokenizer has more tokens than the model has embeddings",
            got=f"{location}: ids up to {size - 1}, {rows} embeddings",
            expected="the tokenizer that the model was trained with",
            fix="resize the model's embeddings and train them, or take its own tokenizer",
        )


def load_model(
    auto: Any,
    source: Pretrained,
    *,
    config: Any = None,
    without: str = "",
    cut: bool = False,
) -> Any:
    """A pretrained model in float32, from safetensors only.

    Args:
        auto: a class of transformers, such as AutoModel.
        without: weights whose names hold this may be missing.
        cut: `config` asks for fewer layers than the weights have.

    Raises: InputError if the weights do not fill the model, are not finite, or have changed.
    """
    source.unchanged()
    try:
        with quiet():
            model, info = auto.from_pretrained(
                source.location,
                **({} if config is None else {"config": config}),
                revision=source.revision,
                trust_remote_code=False,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises errors of many types
        raise InputError(
            f"the model cannot be loaded ({_first_line(error)})",
            got=source.location,
            expected="config.json and weights of one model",
        ) from None
    missing = [name for name in info["missing_keys"] if not without or without not in name]
    more = [] if cut else _more_layers(model, info["unexpected_keys"])
    for problem, names in (
        ("the weights of the model are not complete: the others would be drawn at random", missing),
        ("the weights have more layers than the config says", more),
        ("the model has weights that are not finite (NaN or infinity)", _not_finite(model)),
    ):
        if names:
            raise InputError(
                problem,
                got=f"{source.location}: {', '.join(sorted(names)[:3])}; {len(names)} in all",
                expected="config.json and weights of one model",
                fix="download or save the model again",
            )
    return model


def _more_layers(model: Any, names: Any) -> list[str]:
    """The weights that differ from the model's only by the number of their layer."""
    known = {re.sub(r"\.\d+\.", ".#.", name) for name in model.state_dict()}
    prefix = f"{model.base_model_prefix}."
    return [
        name
        for name in names
        if {generic := re.sub(r"\.\d+\.", ".#.", name), generic.removeprefix(prefix)} & known
    ]


def _not_finite(model: Any) -> list[str]:
    return [name for name, each in model.named_parameters() if not each.isfinite().all()]


def load_encoder(source: Pretrained, layers: int | None = None) -> tuple[Any, Any]:
    """A pretrained encoder and its tokenizer.

    Args:
        layers: keep only this many first layers, from which a student starts.

    Raises: InputError if it is no encoder, or has fewer layers, and as `load_model` does.
    """
    from transformers import AutoModel

    config, tokenizer = _encoder_parts(source, layers)
    encoder = load_model(
        AutoModel, source, config=config, without="pooler.", cut=layers is not None
    )
    _check_both_ways(encoder)
    return encoder, tokenizer


def check_pretrained_encoder(source: Pretrained, layers: int | None) -> None:
    """Raise InputError as `load_encoder` does; weights are read only where they are small."""
    if is_small(source):
        load_encoder(source, layers)
    else:
        _encoder_parts(source, layers)


def _encoder_parts(source: Pretrained, layers: int | None) -> tuple[Any, Any]:
    """An encoder's config, cut to some layers, and its tokenizer."""
    config, tokenizer = load_config(source), load_tokenizer(source)
    check_vocabulary(config, tokenizer, source.location)
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise InputError(
                "the encoder has fewer layers",
                got=layers,
                expected=f"layers from 1 to {config.num_hidden_layers}",
            )
        config.num_hidden_layers = layers
    return config, tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """No report of weights that are missing or left over, which are refused where they matter."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@torch.no_grad()
def _check_both_ways(model: Any) -> None:
    """Raise InputError if a token's state does not depend on the tokens after it."""
    ids = torch.arange(2, 8)[None] % model.get_input_embeddings().num_embeddings
    other = torch.cat([ids[:, :-1], ids[:, :1]], 1)
    first, second = (model.eval()(input_ids=one).last_hidden_state[0, 0] for one in (ids, other))
    if torch.allclose(first, second, rtol=1e-5, atol=1e-6):
        raise InputError(
            "the model reads from left to right, and an encoder that reads both ways is needed",
            got=type(model).__name__,
            expected="an encoder, such as BERT",
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
