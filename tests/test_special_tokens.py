"""A text that spells a special token stays text, in every family; other texts keep their tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.language import FORMAT
from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.families.classifiers.model.encoders import Encoder, build_encoder
from l2kd_ray.families.classifiers.model.wordpiece import train_wordpiece
from l2kd_ray.families.language.model.corpus import Encoded
from l2kd_ray.families.language.model.sequences import SequenceFormat, task_token
from l2kd_ray.families.language.model.vocabulary import train, with_tokens
from l2kd_ray.families.structures.model.features import PretrainedFeatures
from l2kd_ray.tasks import Example

SPELLED = ["<ans> inside", "a <eos> b", "the tag <ans> marks an answer", "<eos>", "x<eos>y"]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def special(tokenizer: Any) -> set[int]:
    return {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}


@pytest.mark.parametrize("text", SPELLED)
def test_a_special_token_in_a_text_is_text_in_a_sequence(text: str) -> None:
    example = Example("0", text, f"is it {text}?", (text,))
    (prompt,) = FORMAT.test_prompts([example], 200)
    assert prompt.count(FORMAT.answer) == 1
    assert FORMAT.eos not in prompt
    question, answer = Encoded.of([example], FORMAT).parts(0)[1:]
    assert not special(FORMAT.tokenizer) & {*question, *answer}
    assert FORMAT.decode(answer) == text


def test_a_task_token_in_a_text_is_text() -> None:
    tokenizer = train(["some text"], 300)
    with_tokens(tokenizer, ["sst"])
    text = SequenceFormat(tokenizer, bos=None, task_prompt="token")
    (tokens,) = text.encode([f"{task_token('sst')} good"])
    assert not special(tokenizer) & set(tokens)
    assert text.prompt("sst") == [tokenizer.convert_tokens_to_ids("<task:sst>")]


@settings(max_examples=60, derandomize=True)
@given(text=texts)
def test_other_texts_keep_their_tokens_and_come_back(text: str) -> None:
    (tokens,) = FORMAT.encode([text])
    if not any(name in text for name in FORMAT.tokenizer.get_added_vocab()):
        assert tokens == FORMAT.tokenizer([text], add_special_tokens=False)["input_ids"][0]
    assert FORMAT.decode(tokens) == text.strip()


WORDPIECE = train_wordpiece(["a film of note", "an answer [ sep ] c", "mask"], 60)


def encoder() -> Encoder:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    body = build_encoder("bert", {**sizes, "intermediate_size": 8}, WORDPIECE, seed=0)
    return Encoder(body, WORDPIECE, max_length=40)


def test_a_classifier_reads_special_tokens_as_text() -> None:
    ids = encoder().prepare([("a [SEP] c", "[MASK] [CLS]")]).tensors["input_ids"][0].tolist()
    tokens = WORDPIECE.convert_ids_to_tokens(ids)
    assert [tokens.count(name) for name in ("[CLS]", "[SEP]", "[MASK]")] == [1, 2, 0]
    plain = [("a film", "of note"), ("an answer", "note")]
    found = encoder().prepare(plain).tensors["input_ids"]
    columns = [list(column) for column in zip(*plain, strict=True)]
    expected = WORDPIECE(*columns, padding=True, return_tensors="pt")["input_ids"]
    assert np.array_equal(found, expected)


def test_a_tagger_reads_a_special_token_as_a_word() -> None:
    features = PretrainedFeatures(encoder().encoder, WORDPIECE)
    ids = features.prepare([["a", "[SEP]", "film"]])["input_ids"][0].tolist()
    assert WORDPIECE.convert_ids_to_tokens(ids).count("[SEP]") == 1
    plain = [["a", "film", "note"]]
    expected = WORDPIECE(plain, is_split_into_words=True)["input_ids"]
    assert features.prepare(plain)["input_ids"].tolist() == expected


def byte_level(spaced: bool) -> Any:
    """A tokenizer of GPT-2's kind: it puts a space before a text, or does not."""
    from tokenizers import pre_tokenizers

    tokenizer = train(["the food is good", "so is the view"], 300)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    return tokenizer


@settings(max_examples=60, derandomize=True)
@given(text=texts)
def test_a_byte_level_tokenizer_sees_a_space_before_each_text(text: str) -> None:
    """So that "the" after a context is the word that " the" is within it."""
    bare, spaced = byte_level(spaced=False), byte_level(spaced=True)
    with_tokens(bare, None)
    found = SequenceFormat(bare, bos=None, task_prompt="text").encode([text, "the food"])
    wanted = spaced([text, "the food"], add_special_tokens=False, split_special_tokens=True)
    assert found == wanted["input_ids"]
    assert bare.convert_ids_to_tokens(found[1])[0].startswith("\u0120")


def test_white_space_around_an_answer_is_not_learned() -> None:
    plain, wide = (
        Encoded.of([Example("0", "c", "q", (answer,))], FORMAT) for answer in ("no", " no \n")
    )
    assert plain.parts(0) == wide.parts(0)


@pytest.mark.skipif("L2KD_MODELS" not in os.environ, reason="L2KD_MODELS names no folder of models")
def test_gpt2_sees_words_as_the_original_does() -> None:
    """pytorch_transformers 1.2 puts a space before every text that it encodes."""
    from transformers import GPT2TokenizerFast

    folder = Path(os.environ["L2KD_MODELS"]) / "gpt2_tokenizer"
    tokenizer = GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    with_tokens(tokenizer, ["sst"])
    text = SequenceFormat(tokenizer, bos=None, task_prompt="token")
    said = "what is the natural language form ?"
    example = Example("0", "name ( the eagle )", said, ("the eagle is a pub",))
    parts = [tokenizer.convert_ids_to_tokens(part) for part in Encoded.of([example], text).parts(0)]
    assert [part[0] for part in parts] == ["\u0120name", "\u0120what", "\u0120the"]


@pytest.mark.skipif("L2KD_MODELS" not in os.environ, reason="L2KD_MODELS names no folder of models")
@pytest.mark.parametrize("name", ["stories15M", "stories260K"])
def test_a_pretrained_tokenizer_keeps_its_tokens(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ["L2KD_MODELS"]) / name)
    with_tokens(tokenizer, ["sst"])
    text = SequenceFormat(tokenizer, bos=1, task_prompt="token")
    for odd in (*SPELLED, "</s> x", "a <s> b", "\u3000x", "do n't , no"):
        (tokens,) = text.encode([odd])
        assert not special(tokenizer) & set(tokens)
        assert text.decode(tokens) == odd.strip()
    ordinary = Path(__file__).read_text().replace("<ans>", "").split("\n\n")[:9]
    given = [part for part in ordinary if "<" not in part]
    assert text.encode(given) == tokenizer(given, add_special_tokens=False)["input_ids"]
