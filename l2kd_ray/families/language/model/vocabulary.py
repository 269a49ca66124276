"""Tokenizers: loaded with a pretrained model, or trained on text for a student from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from l2kd_ray.families.language.model.sequences import ANSWER_TOKEN, task_token
from l2kd_ray.models.pretrained import Pretrained

END_TOKEN = "<eos>"


def train(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer, which encodes and decodes any text without loss."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TOKEN],
        # All 256 bytes, so that no text is unknown.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_TOKEN, pad_token=END_TOKEN
    )


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a tokenizer like BERT's for encoders from scratch: WordPiece, no case.

    Texts are encoded as [CLS] a [SEP] b [SEP]. Characters that were not seen in training are [UNK].
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token=names["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    known = list(texts)
    plain = (tokenizer.normalizer.normalize_str(text) for text in known)
    words = {word for t in plain for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(t)}
    # The trainer numbers within-word pieces in the order of a hash table, so that two runs over the
    # same texts would differ: they are numbered here, before the training.
    within = sorted({f"##{letter}" for word in words for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*names.values(), *within], show_progress=False
    )
    trained = Tokenizer(tokenizer.model)
    trained.normalizer, trained.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    trained.train_from_iterator(known, trainer)
    tokenizer.model = models.WordPiece(trained.get_vocab(), unk_token=names["unk"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{role}_token": name for role, name in names.items()},
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def load(source: Pretrained) -> tuple[Any, int | None]:
    """A pretrained model's tokenizer, and the bos id that its texts start with (None: no bos).

    A bos that equals eos (GPT-2) only ends texts.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {source.location} has no end-of-text token (eos)")
    bos = tokenizer.bos_token_id
    return tokenizer, None if bos == tokenizer.eos_token_id else bos


def with_tokens(tokenizer: Any, prompts: Sequence[str] | None) -> None:
    """Add `<ans>` and one token for each task, in sorted order."""
    from tokenizers import AddedToken

    names = [ANSWER_TOKEN, *map(task_token, sorted(prompts or ()))]
    tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True
    )


def vocabulary_size(tokenizer: Any) -> int:
    """The number of rows that a model's embedding needs; ids may have gaps."""
    ids: dict[str, int] = tokenizer.get_vocab()
    return 1 + max(ids.values())
