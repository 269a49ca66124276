"""Tokenizers: loaded with a pretrained model, or trained on text for a student from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from l2kd_ray.errors import InputError
from l2kd_ray.families.language.model.sequences import ANSWER_TOKEN, task_token
from l2kd_ray.models.loading import load_tokenizer
from l2kd_ray.models.pretrained import Pretrained

_END_TOKEN = "<eos>"


def train(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer, which encodes and decodes any text without loss."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END_TOKEN],
        # All 256 bytes, so that no text is unknown.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_END_TOKEN, pad_token=_END_TOKEN
    )


def load(source: Pretrained) -> tuple[Any, int | None]:
    """A pretrained model's tokenizer, and the bos id that its texts start with (None: no bos).

    A bos that equals eos (GPT-2) only ends texts. Raises: InputError if there is none, or no eos.
    """
    tokenizer = load_tokenizer(source)
    if tokenizer.eos_token_id is None:
        raise InputError(
            "the model's tokenizer has no end-of-text token (eos)",
            got=source.location,
            expected="eos_token in tokenizer_config.json",
            fix="name the token that ended the texts in training as eos_token",
        )
    bos = tokenizer.bos_token_id
    return tokenizer, None if bos == tokenizer.eos_token_id else bos


def with_tokens(tokenizer: Any, prompts: Sequence[str] | None) -> None:
    """Add `<ans>` and one token for each task, in sorted order."""
    from tokenizers import AddedToken

    names = [ANSWER_TOKEN, *map(task_token, sorted(prompts or ()))]
    tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True
    )
