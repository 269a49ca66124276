"""Taggers and parsers: one contract for all, whatever head, body and features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.studies import source_of

from l2kd_ray.distill.structured.case_table import CASES, HeadKind
from l2kd_ray.distill.structured.cases import distillation
from l2kd_ray.distill.structured.labelled import RelativeLabels
from l2kd_ray.distill.structured.objective import negative_log_likelihood
from l2kd_ray.distill.structured.packing import pack
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.model.vocabulary import train as train_tokenizer
from l2kd_ray.families.structures.model.features import LONGEST, PretrainedFeatures
from l2kd_ray.families.structures.model.structured import (
    Architecture,
    StructuredModel,
    build,
    label_set,
)
from l2kd_ray.models.loading import load_encoder
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.tasks.readers import READERS
from l2kd_ray.tasks.spec import TaskKind
from l2kd_ray.tasks.tagging import words

SMALL = Architecture(
    hidden=12, depth=2, word_size=12, character_size=6, dropout=0.0, arc_size=16, relation_size=8,
    span_size=16, rank=8, attention_heads=2,
)  # fmt: skip
HEADS: dict[HeadKind, TaskKind] = {
    "token": "tag",
    "chain": "tag",
    "spans": "tag",
    "biaffine": "parse",
    "second-order": "parse",
    "tree": "parse",
    "projective": "parse",
    "labelling": "parse",
}
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
every_head = pytest.mark.parametrize("head", HEADS)
every_body = pytest.mark.parametrize("body", ["bilstm", "transformer", "none"])


def data(kind: TaskKind) -> tuple[list[list[str]], list[list[str]]]:
    """Five sentences of unequal lengths, and their labels."""
    task = "made.tags.a" if kind == "tag" else "made.trees.a"
    options = {"task": task, "data_seed": "0", "split": "train"}
    read = READERS["sentences"].read("", options)
    chosen = sorted(
        [e for e in read[:300] if any(n in e.answers[0] for n in ("S-", "E-", "obj"))],
        key=lambda e: (len(words(e.context)) - 2) % 7,
    )[:5]
    return [words(e.context) for e in chosen], [words(e.answers[0]) for e in chosen]


def make(head: HeadKind, seed: int = 0, **changes: Any) -> StructuredModel:
    kind = HEADS[head]
    sentences, labels = data(kind)
    known = label_set(kind, [" ".join(row) for row in labels])
    architecture = replace(SMALL, head=head, **changes)
    return build(
        architecture, {"t": known}, words=sorted({word for s in sentences for word in s}), seed=seed
    )


def fit(
    model: StructuredModel, sentences: list[list[str]], loss: Callable[[Any], torch.Tensor]
) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    inputs, losses = model.prepare(sentences), []
    for _ in range(80):
        value = loss(model(inputs, "t")).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def fit_gold(model: StructuredModel, kind: TaskKind) -> list[float]:
    sentences, labels = data(kind)
    gold = model.encode_gold(labels, "t")
    return fit(model, sentences, lambda structure: negative_log_likelihood(structure, gold))


@cache
def fitted(head: HeadKind) -> tuple[StructuredModel, list[float]]:
    """A model that has learned the sentences, and its losses; not to be changed."""
    model = make(head)
    return model, fit_gold(model, HEADS[head])


# Every head and body ----------------------------------------------------------------------------


@every_body
@every_head
def test_what_is_computed_of_a_sentence_does_not_depend_on_the_padding(
    head: HeadKind, body: str
) -> None:
    model, (sentences, _) = make(head, body=body).eval(), data(HEADS[head])
    sentences = [*sentences, ["a" * 50, "é"], ["x"]]
    with torch.no_grad():
        together = pack([model(model.prepare(sentences), "t")])
        alone = pack([model(model.prepare([sentence]), "t") for sentence in sentences])
    assert len(set(together["lengths"].tolist())) > 2
    for name, scores in together.items():
        close(scores, alone[name])


@every_head
def test_a_few_sentences_are_learned(head: HeadKind) -> None:
    (model, losses), (sentences, labels) = fitted(head), data(HEADS[head])
    assert losses[-1] < 0.1 * losses[0]
    structure = model(model.prepare(sentences), "t")
    assert model.decode(structure, "t") == labels


def test_a_transformer_learns_them_too() -> None:
    model, (sentences, labels) = make("token", body="transformer"), data("tag")
    fit_gold(model, "tag")
    assert model.decode(model(model.prepare(sentences), "t"), "t") == labels


@every_head
def test_what_an_untrained_model_decodes_has_a_label_a_word(head: HeadKind) -> None:
    model, (sentences, _) = make(head), data(HEADS[head])
    for row, sentence in zip(
        model.decode(model(model.prepare(sentences), "t"), "t"), sentences, strict=True
    ):
        assert len(row) == len(sentence)
        if HEADS[head] == "parse":
            assert all(0 <= int(label.partition(":")[0]) <= len(sentence) for label in row)


@every_head
def test_a_model_is_saved_and_loaded_bit_for_bit(head: HeadKind, tmp_path: Path) -> None:
    model, (sentences, _) = make(head, seed=3), data(HEADS[head])
    model.save(tmp_path / "m")
    loaded = StructuredModel.load(tmp_path / "m")
    assert loaded.labels == model.labels
    inputs = loaded.prepare(sentences)
    one, other = (pack([m.eval()(inputs, "t")]) for m in (model, loaded))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {path.suffix for path in (tmp_path / "m").iterdir()} == {".json", ".safetensors"}


# Cases, from a trained teacher to a student that sees no label ----------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_student_learns_from_its_teacher_alone(case: str) -> None:
    row = CASES[case]
    kind = HEADS[row.teacher]
    sentences, labels = data(kind)
    (teacher, _), student = fitted(row.teacher), make(row.student, seed=1)
    relative = RelativeLabels(student.labels["t"]) if row.student == "labelling" else None
    kd = distillation(case, temperature=2.0, labels=relative)
    targets = kd.targets(teacher(teacher.prepare(sentences), "t"))
    losses = fit(student, sentences, lambda structure: kd.loss(structure, targets))
    assert losses[-1] < losses[0]
    decoded = student.decode(student(student.prepare(sentences), "t"), "t")
    right = [
        a == b for p, q in zip(decoded, labels, strict=True) for a, b in zip(p, q, strict=True)
    ]
    assert sum(right) > 0.9 * len(right)


# Labels, seeds, tasks ---------------------------------------------------------------------------


def test_heads_of_one_label_set_agree_on_its_order() -> None:
    models = [make(head) for head in ("token", "chain", "spans")]
    gold = [["B-person", "E-person", "O", "S-place"]]
    token, chain, spans = (model.encode_gold(gold, "t") for model in models)
    assert token.equal(chain)
    assert token.tolist() == [[1, 3, 0, 8]]
    assert spans[0, 0, 1] == 0
    assert spans[0, 3, 3] == 1
    assert (spans >= 0).sum() == 2


def test_other_tags_are_taken_as_they_are() -> None:
    labels = label_set("tag", ["NN VB", "B-x I-x O"])
    model = build(replace(SMALL, head="chain"), {"pos": labels}, words=["a"], seed=0)
    assert model.heads[0].labels == ["B-x", "I-x", "NN", "O", "VB"]
    with pytest.raises(ValueError, match="spans need tags with types such as B-person"):
        build(replace(SMALL, head="spans"), {"pos": ("NN", "VB")}, words=["a"], seed=0)


@every_head
def test_a_sentence_without_labels_is_padding(head: HeadKind) -> None:
    model, (sentences, labels) = make(head), data(HEADS[head])
    longest = max(map(len, sentences)) + 2
    batch = [*sentences, ["new"] * longest]
    gold = model.encode_gold([*labels, []], "t", longest)
    nll = negative_log_likelihood(model(model.prepare(batch), "t"), gold)
    alone = negative_log_likelihood(
        model(model.prepare(sentences), "t"), model.encode_gold(labels, "t")
    )
    close(nll[:-1], alone)
    assert nll[-1].isfinite()


@every_head
def test_an_unknown_label_is_refused(head: HeadKind) -> None:
    label = "S-animal" if HEADS[head] == "tag" else "0:animal"
    with pytest.raises(ValueError, match="animal"):
        make(head).encode_gold([[label]], "t")


def test_weights_come_from_the_seed_and_from_nothing_else() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = make("chain", seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again, other = make("chain", seed=5).state_dict(), make("chain", seed=6).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert not torch.equal(other["body.lstm.weight_hh_l0"], again["body.lstm.weight_hh_l0"])


def test_a_stream_has_a_head_a_task_and_one_more_task_changes_no_other() -> None:
    tags = {"made.tags.b": ("O", "S-x"), "made.tags.a": ("B-y", "E-y", "O")}
    two = build(SMALL, tags, words=["a"], seed=0)
    three = build(SMALL, {**tags, "first": ("NN",)}, words=["a"], seed=0)
    inputs = two.prepare([["a", "b"]])
    for task in tags:
        structures = [model.eval()(inputs, task).potentials()[0] for model in (two, three)]
        assert torch.equal(*structures)
        assert structures[0].shape[-1] == 5
    assert three.decode(three(inputs, "first"), "first") == [["NN", "NN"]]


# Features ---------------------------------------------------------------------------------------


def test_a_word_is_known_by_lower_case_and_an_unknown_one_by_its_characters() -> None:
    model = build(replace(SMALL, body="none"), {"t": ("A",)}, words=["a", "B"], seed=0)
    inputs = model.prepare([["a", "A", "B", "b", "xy", "yx", "z" * LONGEST, "z" * 99]])
    assert inputs.tensors["words"].tolist() == [[2, 2, 3, 1, 1, 1, 1, 1]]
    unknown = model.features(inputs)[0, 4:]
    size = SMALL.word_size
    assert unknown[0, :size].equal(unknown[1, :size])
    assert not unknown[0].equal(unknown[1])
    assert unknown[2].equal(unknown[3])


def test_glove_sets_the_vectors_of_known_words(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("b 1 2 3\nz 4 5 6\n")
    architecture = replace(SMALL, word_size=3)
    plain = build(architecture, {"t": ("A",)}, words=["a", "b"], seed=0)
    read = build(architecture, {"t": ("A",)}, words=["a", "b"], glove=path, seed=0)
    assert read.features.embedding.weight[3].tolist() == [1, 2, 3]
    assert read.features.embedding.weight[:3].equal(plain.features.embedding.weight[:3])
    with pytest.raises(InputError, match=r"glove\.txt:1.*\n.*got: +3\n.*12 numbers"):
        build(SMALL, {"t": ("A",)}, words=["a", "b"], glove=path, seed=0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """A folder with an encoder of random weights and its tokenizer, as from the hub."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    sentences, _ = data("tag")
    tokenizer = train_tokenizer([" ".join(sentence) for sentence in sentences], 270)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return source_of(folder)


def pretrained(encoder: Pretrained, **changes: Any) -> StructuredModel:
    _, labels = data("tag")
    known = label_set("tag", [" ".join(row) for row in labels])
    architecture = replace(SMALL, head="chain", **changes)
    return build(architecture, {"t": known}, encoder=encoder, seed=0)


def test_a_words_vector_is_that_of_its_first_subword(encoder: Pretrained) -> None:
    features = PretrainedFeatures(*load_encoder(encoder)).eval()
    sentence = ["dozu", "unheard-of", "fube"]
    model = pretrained(encoder, body="none").eval()
    vectors = model.features(model.prepare([sentence, ["dozu"] * 9]))[0]
    pieces = [features.tokenizer(f" {word}")["input_ids"] for word in sentence]
    assert max(map(len, pieces)) > 2
    flat = torch.tensor([[piece for word in pieces for piece in word]])
    hidden = features.encoder(input_ids=flat).last_hidden_state[0]
    for word, vector in enumerate(vectors[:3]):
        close(vector, hidden[sum(map(len, pieces[:word]))])


def test_a_pretrained_encoder_keeps_the_contract(encoder: Pretrained, tmp_path: Path) -> None:
    model, (sentences, labels) = pretrained(encoder).eval(), data("tag")
    sentences = [*sentences, ["x"], ["unheard-of"] * 40]  # the last is longer than the encoder
    together = pack([model(model.prepare(sentences), "t")])
    alone = pack([model(model.prepare([sentence]), "t") for sentence in sentences])
    close(together["Chain.emissions"], alone["Chain.emissions"])
    model.save(tmp_path / "m")
    loaded = StructuredModel.load(tmp_path / "m").eval()
    again = pack([loaded(loaded.prepare(sentences), "t")])
    assert torch.equal(together["Chain.emissions"], again["Chain.emissions"])
    fit_gold(model, "tag")
    sentences, _ = data("tag")
    assert model.decode(model(model.prepare(sentences), "t"), "t") == labels


def test_the_excess_of_a_sentence_is_that_of_its_subwords(encoder: Pretrained) -> None:
    features, word = pretrained(encoder).features, "unheard-of"
    (first,) = features.prepare([[word] * 40])["first"]
    each = len(features.tokenizer(f" {word}")["input_ids"])
    assert features.excess([["dozu"], [word] * 40])[1] == 40 * each - 64 > 0
    assert (first > 0).sum() == -(-64 // each)  # so many words have a first subword
    assert features.excess([["dozu"]])[0] <= 0
    assert make("chain").features.excess([["dozu"], [word] * 40]) == [0, 0]


def test_inputs_move_as_a_whole() -> None:
    model, (sentences, _) = make("chain"), data("tag")
    moved = model.prepare(sentences).to("meta")
    assert moved.lengths.is_meta
    assert all(tensor.is_meta for tensor in moved.tensors.values())
