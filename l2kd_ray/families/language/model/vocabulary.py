"""Tokenizers: loaded with a pretrained model, or trained from text for a student from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from l2kd_ray.families.language.model.sequences import ANSWER_TOKEN, task_token
from l2kd_ray.models.pretrained import Pretrained

END_TOKEN = "<eos>"


def train(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer: any text goes through it and back unchanged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_TOKEN, pad_token=END_TOKEN
    )


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> Any:
    """A tokenizer for encoders from scratch, as BERT's: WordPiece, no case, [CLS] a [SEP] b [SEP].

    What was not seen in training is [UNK]. The trainer numbers the pieces within words as it meets
    them, in the order of a hash table: they are numbered before, or no two runs would be alike.
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
    """A pretrained model's tokenizer, and the bos that its texts start with (None: with none).

    A bos that is the eos (GPT-2) only ends texts.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {source.location} has no end-of-text token")
    bos = tokenizer.bos_token_id
    return tokenizer, None if bos == tokenizer.eos_token_id else bos


def with_tokens(tokenizer: Any, prompts: Sequence[str] | None) -> None:
    """Add `<ans>` and, in sorted order, a token a task."""
    from tokenizers import AddedToken

    names = [ANSWER_TOKEN, *map(task_token, sorted(prompts or ()))]
    tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True
    )


def vocabulary_size(tokenizer: Any) -> int:
    """How many rows a model's embedding needs: ids may have gaps."""
    ids: dict[str, int] = tokenizer.get_vocab()
    return 1 + max(ids.values())
