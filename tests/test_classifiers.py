"""Classifiers: encoders and the BiLSTM; a real encoder where L2KD_ENCODER names its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.studies import source_of
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from l2kd_ray.distill.corruption import DomainCorruption
from l2kd_ray.distill.intermediate import MetaDistillation
from l2kd_ray.errors import InputError
from l2kd_ray.families.classifiers.model import words
from l2kd_ray.families.classifiers.model.bilstm import BiLSTM, check_bilstm
from l2kd_ray.families.classifiers.model.classifier import Classifier
from l2kd_ray.families.classifiers.model.cost import latency, parameters
from l2kd_ray.families.classifiers.model.encoders import (
    Encoder,
    build_encoder,
    check_encoder,
)
from l2kd_ray.families.classifiers.model.states import Texts, TokenizedTexts
from l2kd_ray.families.classifiers.model.wordpiece import train_wordpiece
from l2kd_ray.models.loading import load_encoder
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.models.vectors import read_vectors

TEXTS = ["the blue moon serves thai food .", "it is cheap", "", "two words", "moon moon moon !"]
PAIRS = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
SINGLES = [(text,) for text in TEXTS]
HEADS = {"b.topic": 3, "a.score": 1, "c-pairs": 2}
SIZES: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 64,
    },
    "roberta": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 64, "type_vocab_size": 1,
    },
    "distilbert": {
        "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64,
    },
}  # fmt: skip
BODIES = [*SIZES, "first", "bilstm", "maxout"]
TOKENIZER = train_wordpiece(TEXTS, 100)


def test_a_vocabulary_is_a_function_of_its_texts() -> None:
    texts = [f"the {color} thing of {n} parts" for n in range(40) for color in ("reddish", "blue")]
    vocabularies = [train_wordpiece(texts, 90).get_vocab() for _ in range(5)]
    assert all(one == vocabularies[0] for one in vocabularies)
    assert {"[PAD]", "the", "##d"} <= vocabularies[0].keys()


LSTM = {"embedding": 6, "hidden": 5, "dropout": 0.1, "max_length": 32}


def make(name: str, heads: dict[str, int] = HEADS, seed: int = 0) -> Classifier:
    body: Encoder | BiLSTM
    if name in ("bilstm", "maxout"):
        more = {"maxout": 3} if name == "maxout" else {}
        body = BiLSTM.build(words.Words.of(TEXTS[:3]), seed, {**LSTM, **more})
    else:
        arch = "bert" if name == "first" else name
        encoder = build_encoder(arch, SIZES[arch], TOKENIZER, seed)
        body = Encoder(encoder, TOKENIZER, pooling="first" if name == "first" else "mean")
    return Classifier(body, heads, [task for task in heads if task == "c-pairs"], seed)


def batch_of(model: Classifier, task: str) -> TokenizedTexts:
    return model.prepare(PAIRS if task in model.pairs else SINGLES)


def everything(model: Classifier) -> frozenset[str]:
    encoder = {"attentions"} if isinstance(model.body, Encoder) else set()
    return frozenset({"hidden", "feature"} | encoder)


def padding_does_not_count(model: Classifier, task: str, texts: Texts) -> None:
    """Each text alone says what it says beside longer ones, on its own tokens."""
    together = model(model.prepare(texts), task, wanted=everything(model))
    close: Callable[..., None] = torch.testing.assert_close
    for row, text in enumerate(texts):
        alone = model(model.prepare([text]), task, wanted=everything(model))
        n = int(alone.mask.sum())
        assert together.mask[row].tolist() == [place < n for place in range(together.mask.shape[1])]
        for name in ("logits", "feature"):
            one, other = getattr(alone, name)[0], getattr(together, name)[row]
            close(one, other, atol=2e-5, rtol=1e-4)
        for one, other in zip(alone.hidden, together.hidden, strict=True):
            close(one[0, :n], other[row, :n], atol=2e-5, rtol=1e-4)
        for one, other in zip(alone.attentions or [], together.attentions or [], strict=True):
            close(one[0, :, :n, :n], other[row, :, :n, :n], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("name", BODIES)
@torch.no_grad()
def test_padding_does_not_change_what_a_model_says(name: str, task: str) -> None:
    model = make(name).eval()
    texts = PAIRS if task in model.pairs else SINGLES
    padding_does_not_count(model, task, texts)
    assert model(model.prepare(texts), task).logits.shape == (len(texts), HEADS[task])


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("name", BODIES)
def test_a_batch_of_a_task_teaches_the_body_and_its_own_head(name: str, task: str) -> None:
    model = make(name).eval()
    model(batch_of(model, task), task).logits.square().sum().backward()
    for parameter_name, parameter in model.body.named_parameters():
        assert parameter.grad is not None, parameter_name
        if not parameter_name.endswith(("key.bias", "k_lin.bias")):  # softmax sees no shift
            assert parameter.grad.abs().sum() > 0, parameter_name
    for other, head in zip(model.heads, model.layers, strict=True):
        assert all((p.grad is not None) == (other == task) for p in head.parameters())


@pytest.mark.parametrize("name", BODIES)
@torch.no_grad()
def test_outputs_have_the_shapes_they_say(name: str) -> None:
    model = make(name).eval()
    inputs = model.prepare(SINGLES)
    bare = model(inputs, "b.topic")
    assert (bare.hidden, bare.attentions, bare.feature) == (None, None, None)
    said = model(inputs, "b.topic", wanted=everything(model))
    torch.testing.assert_close(said.logits, bare.logits, atol=1e-5, rtol=1e-4)
    B, n = said.mask.shape
    assert said.hidden is not None
    assert len(said.hidden) == 3
    assert all(state.shape[:2] == (B, n) for state in said.hidden)
    assert said.feature is not None
    assert said.feature.shape == (B, said.hidden[-1].shape[-1])
    for row in range(B):  # h, from its definition
        own = said.hidden[-1][row, : int(said.mask[row].sum())]
        torch.testing.assert_close(said.feature[row], (own[1:] if len(own) > 1 else own).mean(0))
    if isinstance(model.body, Encoder):
        assert said.attentions is not None
        assert [a.shape for a in said.attentions] == [(B, 2, n, n)] * 2
        for attention in said.attentions:
            rows = attention.sum(-1).transpose(1, 2)[said.mask]
            torch.testing.assert_close(rows, torch.ones_like(rows))
    else:
        with pytest.raises(ValueError, match=r"wanted is \['attentions'\]"):
            model(inputs, "b.topic", wanted=frozenset({"attentions"}))


@pytest.mark.parametrize("name", BODIES)
@torch.no_grad()
def test_a_saved_model_comes_back_the_same(name: str, tmp_path: Path) -> None:
    model = make(name).eval()
    model.save(tmp_path)
    again = Classifier.load(tmp_path).eval()
    assert (again.heads, again.pairs) == (model.heads, model.pairs)
    assert again.body.settings == model.body.settings
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    for task in HEADS:
        said = [m(batch_of(m, task), task).logits for m in (model, again)]
        assert torch.equal(*said)
    if isinstance(model.body, Encoder):  # whatever reads Hugging Face folders reads it
        encoder = AutoModel.from_pretrained(tmp_path)
        inputs = AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0], return_tensors="pt")
        keys = ("input_ids", "attention_mask")
        last = encoder.eval()(**{key: inputs[key] for key in keys}).last_hidden_state
        said = model(model.prepare(SINGLES[:1]), "b.topic", wanted=frozenset({"hidden"}))
        torch.testing.assert_close(last, said.hidden[-1])


@pytest.mark.parametrize("name", BODIES)
def test_weights_come_from_the_seed_and_heads_from_their_task(name: str) -> None:
    def head(model: Classifier, number: int) -> Tensor:
        return torch.cat([one.flatten() for one in model.layers[number].parameters()])

    one, other = make(name), make(name, {"b.topic": 3})
    assert torch.equal(head(one, 1), head(other, 0))
    assert all(
        torch.equal(p, q)
        for p, q in zip(one.body.parameters(), other.body.parameters(), strict=True)
    )
    assert not torch.equal(head(one, 1), head(make(name, seed=1), 1))


@torch.no_grad()
def test_the_maxout_head_is_the_formula() -> None:
    """Three layers, each unit the largest of three; each layer but the last halves the width."""
    model = make("maxout").eval()
    states = text = model.body(model.prepare(SINGLES)).text
    head = model.layers[1]
    for layer, width in zip(head.layers, (20, 10, 3), strict=True):
        units = states @ layer.weight.T + layer.bias
        states = torch.stack([units[:, 3 * k : 3 * k + 3].amax(1) for k in range(width)], 1)
    assert text.shape[1] == 40
    torch.testing.assert_close(model(model.prepare(SINGLES), "b.topic").logits, states)


def test_what_is_wrong_is_said() -> None:
    model = make("bert")
    with pytest.raises(
        ValueError, match=r"no head for task x; there are heads for a\.score, b.topic, c-pairs"
    ):
        model(model.prepare(SINGLES), "x")
    with pytest.raises(ValueError, match="texts or pairs"):
        model.prepare([("a",), ("a", "b")])
    with pytest.raises(ValueError, match="wanted"):
        model(model.prepare(SINGLES), "b.topic", wanted=frozenset({"x"}))
    with pytest.raises(ValueError, match="architecture: berd; did you mean one of bert"):
        check_encoder("berd", {})
    with pytest.raises(ValueError, match="the config of bert has no field n_layer"):
        check_encoder("bert", {"n_layer": 2})
    with pytest.raises(ValueError, match=r"a bilstm has no field depth; .* dropout, maxout"):
        check_bilstm({"depth": 2})
    for pool in (1, True, "4", 2.0):
        with pytest.raises(ValueError, match="2 or more"):
            check_bilstm({"maxout": pool})
    with pytest.raises(ValueError, match=r"pairs names \['y'\]"):
        Classifier(model.body, {"x": 2}, ["y"])


def test_long_texts_are_cut() -> None:
    for name in ("bert", "bilstm"):
        model = make(name)
        longest = model.body.settings["max_length"]
        inputs = model.prepare([("moon " * 200, "thai " * 200)])
        assert all(tensor.shape[1] <= longest for tensor in inputs.tensors.values())
        model(inputs, "c-pairs")


def naive_bilstm(model: BiLSTM, first: list[int], second: list[int]) -> Tensor:
    """The text's vector, from the formulas, without padding."""
    x, y = (
        model.encode(torch.relu(model.feedforward(model.embed(torch.tensor(ids)))))[0]
        for ids in (first, second)
    )
    pools = []
    for own, other in ((x, y), (y, x)):
        context = torch.softmax(own @ other.T, 1) @ other
        joined = torch.cat([own, own - context, own * context], 1)
        z = model.integrate(joined)[0]
        attention = torch.softmax(z @ model.attend.weight[0], 0)
        pools += [z.max(0).values, z.min(0).values, z.mean(0), attention @ z]
    return torch.cat(pools)


@torch.no_grad()
def test_the_bilstm_is_the_formula() -> None:
    model = make("bilstm").eval()
    assert isinstance(model.body, BiLSTM)
    ids = [[model.body.words.encode(text, 32) for text in pair] for pair in PAIRS]
    text = model.body(model.prepare(PAIRS)).text
    torch.testing.assert_close(text, torch.stack([naive_bilstm(model.body, *p) for p in ids]))
    single = model.body(model.prepare(SINGLES)).text
    naive = torch.stack([naive_bilstm(model.body, p[0], p[0])[: single.shape[1]] for p in ids])
    torch.testing.assert_close(single, naive)


def test_embeddings_come_from_a_file_where_it_has_the_word(tmp_path: Path) -> None:
    file = tmp_path / "glove.txt"
    vectors = {"moon": [0.5] * 6, "thai": [-0.5] * 5 + [1.5], "never-seen": [9.0] * 6}
    file.write_text("\n".join(f"{w} {' '.join(map(str, v))}" for w, v in vectors.items()) + "\n")
    vocabulary = words.Words.of(TEXTS)
    drawn = BiLSTM.build(vocabulary, 0, LSTM).embed.weight
    loaded = BiLSTM.build(vocabulary, 0, LSTM, file).embed.weight
    for word in ("moon", "thai"):
        assert loaded[vocabulary.encode(word, 1)[0]].tolist() == vectors[word]
    rest = vocabulary.encode("blue", 1)[0]
    torch.testing.assert_close(loaded[rest] / loaded[rest].norm(), drawn[rest] / drawn[rest].norm())
    assert loaded[0].abs().max() == 0
    for width in (5, 7):
        with pytest.raises(InputError, match=rf"glove\.txt:1.*\n.*got: +6\n.*{width} numbers"):
            BiLSTM.build(vocabulary, 0, {**LSTM, "embedding": width}, file)


def test_vectors_of_words_with_spaces_and_a_header_are_read(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text("4 2\nthe 1 2\na 3 4\n. . . 5 6\nat x@y.z 7 8 \n")
    ids = {word: n for n, word in enumerate(["a", ". . .", "at x@y.z", "."])}
    assert read_vectors(file, ids, 2) == {0: [3, 4], 1: [5, 6], 2: [7, 8]}


def test_a_text_that_spells_a_special_token_is_as_long_as_it_is_read() -> None:
    encoder = make("bert").body
    texts = [("[SEP] the [CLS] moon",)]
    read = encoder.prepare(texts).tensors["input_ids"]
    assert encoder.excess(texts) == [read.shape[1] - encoder.max_length]
    most = encoder.max_length
    assert encoder.blank(2, most + 9, pair=False).tensors["input_ids"].shape == (2, most)


def test_a_vocabulary_is_the_most_frequent_words_in_a_stable_order() -> None:
    vocabulary = words.Words.of(["b a c a", "c d"], size=3)
    assert vocabulary.known == ["a", "c", "b"]
    assert vocabulary.encode("A, d!", 9) == [2, 1, 1, 1]
    assert vocabulary.encode("", 9) == [1]


def test_costs() -> None:
    for name in ("bert", "bilstm"):
        model = make(name)
        total, without = parameters(model)
        assert total == sum(p.numel() for p in model.parameters())
        assert total - without == model.body.embeddings.numel()
        for task in HEADS:
            assert latency(model, task, batch=2, length=7, repeats=2) > 0
        assert model.training


def meta_losses(teacher: Classifier, student: Classifier, texts: Texts) -> Tensor:
    objective = MetaDistillation()
    inputs = teacher.prepare(texts)
    said = [m(inputs, "b.topic", wanted=objective.wanted) for m in (student, teacher)]
    torch.manual_seed(0)
    corruption = DomainCorruption(2, 16)
    domain = torch.zeros(len(texts), dtype=torch.long)
    features = [corruption(one.feature, domain)[0] for one in said]
    return objective.loss(*said, (features[0], features[1]))


def test_meta_distillation_between_models_reads_no_padding() -> None:
    teacher = make("bert").eval()
    cut = build_encoder("bert", {**SIZES["bert"], "num_hidden_layers": 1}, TOKENIZER, 3)
    student = Classifier(Encoder(cut, TOKENIZER), HEADS, ["c-pairs"], 1).eval()
    together = meta_losses(teacher, student, SINGLES)
    alone = torch.cat([meta_losses(teacher, student, [text]) for text in SINGLES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    together.mean().backward()
    used = [p for name, p in student.named_parameters() if not name.startswith("layers")]
    assert all(p.grad is not None for p in used)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.fixture
def real() -> Pretrained:
    if "L2KD_ENCODER" not in os.environ:
        pytest.skip("L2KD_ENCODER names no folder of an encoder")
    return source_of(Path(os.environ["L2KD_ENCODER"]))


@torch.no_grad()
def test_a_real_encoder_and_its_first_layers(real: Pretrained, tmp_path: Path) -> None:
    whole, tokenizer = load_encoder(real)
    cut, _ = load_encoder(real, layers=2)
    with pytest.raises(ValueError, match="fewer layers"):
        load_encoder(real, layers=99)
    teacher, student = (Classifier(Encoder(e, tokenizer), {"t": 2}).eval() for e in (whole, cut))
    padding_does_not_count(teacher, "t", SINGLES)
    deep, shallow = (m(m.prepare(SINGLES), "t", wanted=everything(m)) for m in (teacher, student))
    assert len(shallow.hidden) == 3
    for one, other in zip(shallow.hidden, deep.hidden, strict=False):
        torch.testing.assert_close(one[shallow.mask], other[deep.mask], atol=1e-5, rtol=1e-4)
    student.save(tmp_path)
    again = Classifier.load(tmp_path).eval()
    logits = again(again.prepare(SINGLES), "t").logits
    torch.testing.assert_close(logits, shallow.logits, atol=1e-5, rtol=1e-4)
