"""Models of other people at the door: whole, of the right kind, and decoded as they are trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.language import TEXTS
from helpers.studies import TINY, source_of
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from l2kd_ray.api import load_study
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.model.causal_lm import build
from l2kd_ray.families.language.model.checks import check_arch, check_model
from l2kd_ray.families.language.model.vocabulary import train
from l2kd_ray.models.files import check_names
from l2kd_ray.models.loading import load_config, load_encoder, load_model, load_tokenizer
from l2kd_ray.models.pretrained import resolve_vectors

SIZES = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 96}
Change = Callable[[Path], object]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2 with its tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("gpt2"), train(TEXTS, 300)
    build("gpt2", SIZES, tokenizer, seed=0).save(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def plan(study_file: Any, student: dict[str, Any], **changes: Any) -> None:
    data: dict[str, Any] = {"student": student, "methods": ["finetune"], "tokenizer": None}
    load_study(study_file(**data, **changes)).plan()


def edit(name: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        old = json.loads((folder / name).read_text())
        new = {key: value for key, value in {**old, **changes}.items() if value is not None}
        (folder / name).write_text(json.dumps(new))

    return change


def remove(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def edited(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return edited


def cut(size: float) -> Change:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[: int(size * len(data))])

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def longer_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((10**9).to_bytes(8, "little") + path.read_bytes()[8:])


def sharded(names: dict[str, str]) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "one.safetensors")
        index = {"metadata": {}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')


FAULTS: dict[str, tuple[Change, str]] = {
    "pickle": (pickled, "no weights in safetensors"),
    "no weights": (remove("model.safetensors"), "no weights in safetensors"),
    "half": (cut(0.5), "the file is not whole"),
    "empty": (cut(0), "the file is not whole"),
    "header": (longer_header, "the file is not whole"),
    "shard": (sharded({"a": "two.safetensors"}), "the file is not whole"),
    "tensor": (sharded({"a": "one.safetensors"}), "the file is not whole"),
    "adapter": (adapter, "an adapter of a model"),
    "config": (lambda folder: (folder / "config.json").write_text("{"), "the file is not whole"),
    "list": (lambda folder: (folder / "config.json").write_text("[]"), "the file is not whole"),
    "no type": (edit("config.json", model_type=None), "does not name the type"),
    "no tokenizer": (
        remove("tokenizer.json", "tokenizer_config.json"),
        "tokenizer cannot be loaded",
    ),
    "layers left out": (edit("config.json", layerdrop=0.1), "whole layers at random"),
    "no eos": (edit("tokenizer_config.json", eos_token=None), "no end-of-text token"),
    "unknown type": (edit("config.json", model_type="mine"), "config cannot be read"),
    "own code": (
        edit("config.json", model_type="mine", auto_map={"AutoConfig": "mine.Mine"}),
        "needs code of its own, which is never run",
    ),
    "layers": (edit("config.json", n_layer=1), "more layers than the config says"),
    "more layers": (edit("config.json", n_layer=3), "weights of the model are not complete"),
    "width": (edit("config.json", n_embd=32), "the model cannot be loaded"),
    "vocabulary": (edit("config.json", vocab_size=290), "more tokens than the model has"),
    "NaN": (weights(lambda t: t["transformer.wpe.weight"].fill_(float("nan"))), "not finite"),
    "infinity": (weights(lambda t: t["transformer.wpe.weight"][0].fill_(float("inf"))), "finite"),
    "one missing": (weights(lambda t: t.pop("transformer.ln_f.weight")), "are not complete"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_work_is_refused_before_anything_starts(
    fault: str, copy: Path, study_file: Any
) -> None:
    change, problem = FAULTS[fault]
    change(copy)
    with pytest.raises(InputError, match=problem) as refused:
        plan(study_file, {"model": str(copy)})
    assert str(copy) in str(refused.value)
    assert "student.model" in str(refused.value)


def test_a_whole_folder_passes_and_tied_weights_are_not_missing(
    copy: Path, study_file: Any
) -> None:
    assert "lm_head.weight" not in load_file(copy / "model.safetensors")
    plan(study_file, {"model": str(copy)})
    names = dict.fromkeys(load_file(copy / "model.safetensors"), "one.safetensors")
    sharded(names)(copy)
    plan(study_file, {"model": str(copy)})


def test_a_tokenizer_needs_no_weights(copy: Path, study_file: Any) -> None:
    remove("model.safetensors")(copy)
    study = study_file(methods=["finetune"], tokenizer={"model": str(copy)})
    load_study(study).plan()
    edit("tokenizer_config.json", eos_token=None)(copy)
    with pytest.raises(InputError, match="no end-of-text token"):
        load_study(study).plan()


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["config.json", "pytorch_model.bin"], "no weights in safetensors"),
        (["config.json"], "no weights in safetensors"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter"),
        (["model.safetensors"], "no model"),
    ],
)
def test_the_names_of_a_repository_tell(names: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        check_names(names, "org/model", where="study", key="student.model")


@pytest.mark.parametrize("name", ["merges.bpe", "deep/code.py", "deep/model-1.safetensors", "x"])
def test_the_digest_of_a_folder_covers_every_file_that_may_be_read(name: str, copy: Path) -> None:
    def digest() -> str:
        return source_of(copy).digest

    before, path = digest(), copy / name
    for unread in ("README.md", "LICENSE", ".git/config", "pytorch_model.bin"):
        (copy / unread).parent.mkdir(exist_ok=True)
        (copy / unread).write_text("unread")
    assert digest() == before
    path.parent.mkdir(exist_ok=True)
    path.write_text("one")
    one = digest()
    path.write_text("another")
    assert len({before, one, digest()}) == 3


def test_a_model_that_has_changed_since_it_was_planned_is_refused(copy: Path) -> None:
    source = source_of(copy)
    load_config(source)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "note": "another"}))
    for read in (load_config, load_tokenizer, partial(load_model, AutoModel)):
        with pytest.raises(InputError, match="has changed since the study was planned"):
            read(source)
    file = copy / "vectors.txt"
    file.write_text("a 1 2")
    vectors = resolve_vectors(str(file), where="study")
    assert vectors.unchanged() == file
    file.write_text("a 1 3")
    with pytest.raises(InputError, match="has changed"):
        vectors.unchanged()


# --- architectures

BLOOM = {"arch": "bloom", "n_layer": 1, "hidden_size": 16, "n_head": 2}
BERT = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 96}  # fmt: skip
TROCR = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
XLNET = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}
MAMBA = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
COHERE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 32}  # fmt: skip


def test_an_architecture_without_a_limit_asks_for_max_length(study_file: Any) -> None:
    with pytest.raises(InputError, match=r"no largest length") as refused:
        plan(study_file, BLOOM)
    assert "train.max_length" in str(refused.value)
    plan(study_file, BLOOM, train={**TINY["train"], "max_length": 96})


@pytest.mark.parametrize(
    ("arch", "sizes", "problem"),
    [
        ("bert", BERT, "sees the tokens after"),
        ("xlnet", XLNET, "sees the tokens after"),
        ("trocr", TROCR, "decodes a padded row as another one"),
        ("mamba", MAMBA, "cannot be decoded with a cache"),
        ("cohere", COHERE, "output layer"),
        ("gemma2", {**COHERE, "num_key_value_heads": 2, "head_dim": 8}, "output layer"),
    ],
)
def test_an_architecture_that_would_train_another_model_is_refused(
    arch: str, sizes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        check_arch(arch, {**sizes, "vocab_size": 300}, 96)


@pytest.mark.parametrize(
    ("arch", "sizes"),
    [
        ("bloom", {key: value for key, value in BLOOM.items() if key != "arch"}),
        ("mpt", {"d_model": 16, "n_layers": 1, "n_heads": 2}),
        ("gpt2", SIZES),
    ],
)
def test_an_architecture_that_keeps_the_rules_passes(arch: str, sizes: dict[str, Any]) -> None:
    check_arch(arch, {**sizes, "vocab_size": 300}, 96)


def test_a_model_without_a_limit_learns_and_answers(study_file: Any) -> None:
    train = {**TINY["train"], "max_length": 96, "epochs": 1}
    path = study_file(student=BLOOM, methods=["lamol"], tasks=["gen.rest", "gen.intent"],
                      orders=[["gen.rest", "gen.intent"]], train=train)  # fmt: skip
    study = load_study(path)
    study.sweep("inline")
    assert study.scores()["score"].notna().all()


def test_a_model_that_computes_no_numbers_says_so() -> None:
    model = build("gpt2", SIZES, train(TEXTS, 300), seed=0)
    torch.nn.init.constant_(model.lm.transformer.ln_f.weight, float("nan"))
    with pytest.raises(InputError, match="not finite"):
        check_model(model)


def test_a_causal_lm_is_no_encoder(whole: Path) -> None:
    with pytest.raises(InputError, match="reads from left to right"):
        load_encoder(source_of(whole))
