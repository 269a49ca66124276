"""A tokenizer for encoders from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


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
    # Trained apart: pieces that are numbered before are special tokens there, found in any text.
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
