"""Sequences, vocabularies and models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.language import FORMAT, make_format, make_model
from helpers.studies import source_of
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.families.language.model.causal_lm import (
    SHORT,
    CausalLM,
    add_vocabulary,
    build,
)
from l2kd_ray.families.language.model.corpus import Corpus
from l2kd_ray.families.language.model.sequences import Sample, cut
from l2kd_ray.families.language.stages.start import Initial, Tokenizer
from l2kd_ray.models.architecture import position_limit
from l2kd_ray.tasks import Example


@settings(max_examples=50)
@given(st.text(max_size=40))
def test_any_text_goes_through_the_trained_tokenizer_unchanged(text: str) -> None:
    text = text.strip()
    ids = FORMAT.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not any(token in text for token in ("<ans>", "<eos>", "<task:")):
        assert FORMAT.decode(ids) == text


def test_training_a_tokenizer_is_deterministic(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        make_format().save(folder)
    assert len({(folder / "tokenizer.json").read_bytes() for folder in folders}) == 1


def test_sequences_are_those_of_lamol() -> None:
    sample = Sample("b", [1, 2, 3], [4, 5])
    qa, lm = FORMAT.qa(sample), FORMAT.lm(sample)
    task = FORMAT.tokenizer.convert_tokens_to_ids("<task:b>")
    assert qa.tokens == [1, 2, 3, FORMAT.answer, 4, 5, FORMAT.eos]
    assert qa.tokens[qa.supervised :] == [4, 5, FORMAT.eos]
    assert lm.tokens == [task, 1, 2, 3, FORMAT.answer, 4, 5, FORMAT.eos]
    assert lm.tokens[lm.supervised :] == lm.tokens[1:]


def test_a_bos_comes_first_and_a_task_may_be_spelled() -> None:
    text = make_format(bos=7, task_prompt="text")
    sample = Sample("a", [1], [2])
    spelled = text.prompt("a")
    assert spelled[0] == 7
    assert text.decode(spelled[1:]) == "a:"
    assert text.qa(sample).tokens[0] == 7
    assert text.lm(sample).tokens[: len(spelled)] == spelled
    assert "<task:a>" not in text.tokenizer.get_vocab()


@given(st.integers(8, 60), st.integers(1, 80), st.integers(1, 80))
@settings(max_examples=60)
def test_long_examples_are_cut_and_keep_their_answer(longest: int, c: int, a: int) -> None:
    example = Example("1", "blue " * c, "what is it ?", ("moon " * a,))
    whole = Corpus.of([example], FORMAT, "a", 10_000)[0]
    cut = Corpus.of([example], FORMAT, "a", longest)[0]
    assert len(FORMAT.lm(cut).tokens) <= longest
    assert len(FORMAT.qa(cut).tokens) <= longest
    assert cut.answer == whole.answer[: len(cut.answer)]
    assert len(cut.answer) >= min(len(whole.answer), (longest - 3) // 2)


@given(st.lists(st.tuples(*[st.integers(1, 40)] * 3), min_size=1, max_size=5), st.integers(8, 60))
@settings(max_examples=60)
def test_the_tokens_that_are_cut_are_counted(
    sizes: list[tuple[int, int, int]], longest: int
) -> None:
    examples = [Example("1", "blue " * c, "what " * q, ("moon " * a,)) for c, q, a in sizes]
    whole = Corpus.of(examples, FORMAT, "a", 10_000)
    cut = Corpus.of(examples, FORMAT, "a", longest)
    inputs, answers = cut.excess()
    for n, (long, short) in enumerate(zip(whole, cut, strict=True)):
        assert inputs[n] == len(long.question) - len(short.question)
        assert answers[n] == len(long.answer) - len(short.answer)


@pytest.mark.parametrize("room", range(9))
def test_the_context_is_cut_first_and_both_at_their_ends(room: int) -> None:
    """By enumeration: of 5 + 2 tokens, the first ones of the context, then the question's."""
    kept = max(room - 2, 0)
    wanted = [*[1, 2, 3, 4, 5][:kept], *[8, 9][:room]]
    assert cut([1, 2, 3, 4, 5], [8, 9], room) == wanted
    assert len(wanted) == min(room, 7)


@pytest.mark.parametrize("bos", [None, 3])
def test_a_test_prompt_fills_the_length_with_its_bos(bos: int | None) -> None:
    form = make_format(bos)
    text = "the blue moon serves thai food . " * 20
    (prompt,) = form.test_prompts([Example("0", text, "what is it ?", ("x",))], 40)
    context, question = form.encode([text, "what is it ?"])
    start = [] if bos is None else [bos]
    wanted = [*start, *cut(context, question, 39 - len(start)), form.answer]
    assert len(prompt) == 40
    assert prompt == wanted


def test_a_test_prompt_does_not_look_at_the_answer() -> None:
    short, long = Example("1", "blue " * 50, "?", ("a",)), Example("1", "blue " * 50, "?", ("a b",))
    assert FORMAT.test_prompts([short], 20) == FORMAT.test_prompts([long], 20)
    assert len(FORMAT.test_prompts([short], 20)[0]) == 20


@pytest.mark.parametrize(
    ("generated", "parsed"),
    [
        ([1, 2, "ans", 3, "eos"], ([1, 2], [3])),
        ([1, 2, "ans", 3], ([1, 2], [3])),
        ([1, 2, 3, "eos"], None),
        ([1, "ans", 2, "ans", 3, "eos"], None),
        (["ans", "eos"], ([], [])),
        ([], None),
    ],
)
def test_generated_text_is_a_sample_if_it_holds_one_answer_token(
    generated: list[Any], parsed: Any
) -> None:
    special = {"ans": FORMAT.answer, "eos": FORMAT.eos}
    sample = FORMAT.parse("a", [special.get(token, token) for token in generated])
    assert (sample and (sample.question, sample.answer)) == parsed


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
def test_selected_logits_are_those_of_the_whole_model(arch: str) -> None:
    model = make_model(arch).eval()
    rows = [[5, 6, 7, 8], [9, 10]]
    input_ids = torch.tensor([rows[0], [*rows[1], FORMAT.eos, FORMAT.eos]])
    with torch.no_grad():
        chosen = model.head(model(input_ids, torch.tensor([3, 4, 5])))
        first = model.lm(input_ids=torch.tensor([rows[0]])).logits[0, 3]
        second = model.lm(input_ids=torch.tensor([rows[1]])).logits[0]
    torch.testing.assert_close(chosen[0], first, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(chosen[1:], second, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
def test_short_rows_and_long_ones_are_one_model(arch: str) -> None:
    model = make_model(arch, positions=2 * SHORT).eval()
    row = [token % 200 for token in range(3, SHORT + 1)]
    places = torch.arange(len(row))
    with torch.no_grad():  # on a CPU two kernels of attention: the filler makes the row a long one
        short = model(torch.tensor([row]), places)
        long = model(torch.tensor([[*row, *[FORMAT.eos] * SHORT]]), places)
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-4)


def test_new_rows_start_at_the_mean_of_the_old() -> None:
    model = make_model()
    old = model.lm.get_input_embeddings().weight.detach().clone()
    add_vocabulary(model, len(old) + 2, [len(old), len(old) + 1])
    new = model.lm.get_input_embeddings().weight.detach()
    torch.testing.assert_close(new[: len(old)], old)
    torch.testing.assert_close(new[len(old) :], old.mean(0).expand(2, -1))
    assert model.lm.get_output_embeddings().weight is model.lm.get_input_embeddings().weight


def test_a_field_that_the_architecture_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no field n_layers"):
        build("gpt2", {"n_layers": 2}, FORMAT.tokenizer, seed=0)


def test_a_frozen_model_has_no_dropout_and_no_gradient() -> None:
    model = make_model()
    model.train()
    frozen = model.freeze()
    assert not any(module.training for module in frozen.modules())
    assert not any(weight.requires_grad for weight in frozen.parameters())


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(
    ("arch", "more"),
    [
        ("roberta", {}),
        ("data2vec-text", {}),
        ("ibert", {}),
        ("luke", {"entity_vocab_size": 4, "entity_emb_size": 8}),
        ("mpnet", {}),
        ("roberta-prelayernorm", {}),
        ("xmod", {"default_language": "en_XX"}),
    ],
)
def test_the_longest_sequence_of_positions_that_are_counted_from_the_padding(
    arch: str, more: dict[str, Any], padding: int
) -> None:
    config = AutoConfig.for_model(
        arch, vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=12, pad_token_id=padding, **more,
    )  # fmt: skip
    model, limit = AutoModel.from_config(config), position_limit(config)
    assert limit is not None
    model(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 5))


def test_an_exported_student_keeps_its_rows_of_special_tokens(tmp_path: Path, store: Store) -> None:
    model, folder = make_model(), tmp_path / "model"
    model.save(folder)
    FORMAT.save(folder)
    source = source_of(folder)
    tokenizer = Tokenizer(source, (), None, ("a", "c"))  # `<task:c>` is new to it
    stage = Initial(source, None, {}, tokenizer, None)
    obtain(stage, store)
    folder = store.fetch(stage.kind, stage.key)
    before = model.lm.get_input_embeddings().weight
    after = CausalLM.load(folder).lm.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    assert torch.allclose(after[-1], before.mean(dim=0), atol=1e-6)
