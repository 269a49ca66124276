"""Encoder-decoders such as T5: their loss and decoding are transformers' own, and all that a causal
LM learns by, they learn by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.language import FORMAT, NEW, OLD, curriculum, make_model, stopped
from helpers.studies import TINY, planned, tiny_data
from helpers.weights import weights
from torch import Tensor

from l2kd_ray.api import load_study
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.methods import LANGUAGE_METHODS
from l2kd_ray.families.language.model.beam import beam
from l2kd_ray.families.language.model.causal_lm import CausalLM, EncoderDecoder, build
from l2kd_ray.families.language.model.checks import check_arch
from l2kd_ray.families.language.model.generation import TopK, generate, greedy
from l2kd_ray.families.language.model.sequences import TrainingSequence
from l2kd_ray.families.language.stages.curriculum import SampleSource, SequenceRow
from l2kd_ray.families.language.stages.teachers import Live
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 1,
      "num_heads": 2}  # fmt: skip
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "encoder_ffn_dim": 32,
        "max_position_embeddings": 64}  # fmt: skip
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", T5),
    "t5 v1.1": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": ("bart", BART),
}
STUDENT = {"arch": "t5", **T5, "num_layers": 1}
STUDY = {"student": STUDENT, "train": {**TINY["train"], "max_length": 64}}
PROMPTS = [[int(token) for token in np.random.default_rng(n).integers(1, 260, 1 + 7 * n % 12)]
           for n in range(21)]  # fmt: skip


def make(name: str = "t5") -> EncoderDecoder:
    """A model in float64 whose logits are far from uniform."""
    arch, sizes = MODELS[name]
    model = build(arch, sizes, FORMAT.tokenizer, seed=0).double().eval()
    assert isinstance(model, EncoderDecoder)
    with torch.no_grad():
        for n, weight in enumerate(model.parameters()):
            if weight.dim() > 1:
                draws = torch.Generator().manual_seed(n)
                weight.copy_(0.3 * torch.randn(weight.shape, generator=draws, dtype=torch.float64))
    return model


def own_loss(model: EncoderDecoder, sequences: list[TrainingSequence]) -> Tensor:
    """transformers' own mean loss of a padded batch of (source, target)."""
    source, target = ([s.tokens[: s.source] for s in sequences],
                      [s.tokens[s.source :] for s in sequences])  # fmt: skip
    width, length = max(map(len, source)), max(map(len, target))
    loss: Tensor = model.lm(
        input_ids=torch.tensor([row + [0] * (width - len(row)) for row in source]),
        attention_mask=torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in source]),
        labels=torch.tensor([row + [-100] * (length - len(row)) for row in target]),
    ).loss
    return loss


# The loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_its_loss_and_gradient_are_transformers_own(name: str) -> None:
    model, lessons = make(name), curriculum()
    rows = lessons.rows_of(range(len(NEW)))
    loss, _ = lessons.loss(model, model, rows, lessons.scale(rows).double(), "cpu")
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    other = make(name)
    qa, lm = ([build(sample) for sample in NEW] for build in (FORMAT.qa, FORMAT.lm))
    assert [row.sequence for row in rows] == qa + lm
    (own_loss(other, qa) + 0.25 * own_loss(other, lm)).backward()
    for key, weight in other.named_parameters():
        # The scale of a row is float32.
        torch.testing.assert_close(found[key], weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("teacher", ["t5", "gpt2"])
def test_a_teacher_of_either_kind_is_compared_position_by_position(teacher: str) -> None:
    """A causal LM that reads the same row predicts the same tokens."""
    model = make()
    guide: CausalLM = make("t5 v1.1") if teacher == "t5" else make_model().double()
    lessons = curriculum(teacher=guide)
    lessons = replace(lessons, parts=("qa",), objective=replace(lessons.objective, temperature=2.0))
    rows = lessons.rows_of(range(3))
    found, _ = lessons.loss(model, model, rows, lessons.scale(rows).double(), "cpu")
    total, count = torch.zeros((), dtype=torch.float64), 0
    for sequence in (row.sequence for row in rows):
        wanted, own = (logits(one, sequence) for one in (guide.eval(), model))
        p, q = ((z / 2).softmax(-1) for z in (wanted, own))
        total, count = total + 4 * (p * (p.log() - q.log())).sum(), count + len(p)
    torch.testing.assert_close(found, total / count)


def logits(model: CausalLM, sequence: TrainingSequence) -> Tensor:
    """Those of the target's tokens [n, V], by transformers' own forward pass."""
    tokens, source = sequence.tokens, sequence.source
    if isinstance(model, EncoderDecoder):
        read = torch.tensor([[model.start, *tokens[source:-1]]])
        given = torch.tensor([tokens[:source]])
        found: Tensor = model.lm(input_ids=given, decoder_input_ids=read).logits[0]
        return found
    every: Tensor = model.lm(input_ids=torch.tensor([tokens])).logits[0, source - 1 : -1]
    return every


def test_what_is_not_learned_of_an_answer_stays_in_the_decoder() -> None:
    """`skip_tokens` takes positions out of the loss, and moves nothing into the encoder."""
    model, lessons = make(), curriculum()
    long = [replace(sample, answer=[20, 30, 31]) for sample in NEW[:2]]
    skipping = replace(lessons, new=(SampleSource(long, skip=2),), parts=("qa",))
    rows = skipping.rows_of(range(2))
    found, _ = skipping.loss(model, model, rows, skipping.scale(rows).double(), "cpu")
    each = []
    for sample in long:
        targets = torch.tensor([31, FORMAT.eos])
        log_p = logits(model, FORMAT.qa(sample))[2:].log_softmax(-1)
        each.append(-log_p.gather(-1, targets[:, None]).sum())
    torch.testing.assert_close(found, torch.stack(each).sum() / 4)


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    model = make("bart")
    rows = [SequenceRow(FORMAT.qa(sample), "qa") for sample in [*NEW, *OLD]]
    teacher = Live(model)
    together = teacher.annotate(rows, "cpu").hidden
    alone = torch.cat([teacher.annotate([row], "cpu").hidden for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


# Decoding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_greedy_decoding_is_transformers_own_whatever_the_batch(name: str) -> None:
    model, eos = make(name), frequent(make(name))
    model.lm.generation_config.forced_eos_token_id = None  # BART's last token
    wanted = []
    for prompt in PROMPTS:
        (tokens,) = model.lm.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=eos,
            pad_token_id=0, decoder_start_token_id=model.start,
        )[:, 1:].tolist()  # fmt: skip
        wanted.append(tokens[: tokens.index(eos) + 1] if eos in tokens else tokens)
    assert len({*map(len, wanted)}) > 1
    for batch in (1, 4, 64):
        found = generate(model, PROMPTS, greedy, max_new_tokens=12, eos=eos, batch=batch)
        assert found == wanted


def frequent(model: CausalLM) -> int:
    """The token that most continuations have: as eos it lets them end."""
    endless = generate(model, PROMPTS, greedy, max_new_tokens=12, eos=-1)
    tokens, counts = np.unique(np.concatenate(endless), return_counts=True)
    return int(tokens[counts.argmax()])


def test_what_a_row_draws_does_not_depend_on_its_neighbours() -> None:
    model = make()

    def sampled(rows: list[int], batch: int) -> list[list[int]]:
        sampler = TopK.seeded(5, 1.0, [np.random.default_rng(row) for row in rows], 9, "cpu")
        chosen = [PROMPTS[row] for row in rows]
        return generate(model, chosen, sampler, max_new_tokens=9, eos=FORMAT.eos, batch=batch)

    together = sampled([*range(9)], 9)
    assert sampled([*range(9)], 1) == together
    assert sampled([4, 2, 5], 2) == [together[row] for row in (4, 2, 5)]


@pytest.mark.parametrize("name", MODELS)
def test_a_beam_of_each_row_is_transformers_own(name: str) -> None:
    model, eos = make(name), frequent(make(name))
    found = beam(model, PROMPTS[:5], 3, max_new_tokens=6, eos=eos)
    model.lm.generation_config.forced_eos_token_id = None  # BART's last token
    for prompt, tokens in zip(PROMPTS[:5], found, strict=True):
        (own,) = model.lm.generate(
            torch.tensor([prompt]), max_new_tokens=6, do_sample=False, num_beams=3,
            eos_token_id=eos, pad_token_id=eos, decoder_start_token_id=model.start,
        )[:, 1:].tolist()  # fmt: skip
        assert tokens == own[: len(tokens)]
        assert tokens


# A study -----------------------------------------------------------------------------------------


def students(method: str, **changes: Any) -> list[Any]:
    study = planned(**{**tiny_data(methods=[method]), **STUDY, **changes})
    trial = study.trial(method, {}, study.orders[0], str(study.config.replicates[0]))
    return [step[0].stage.model for step in trial.steps][1:]


def test_a_student_that_was_killed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = students("l2kd")[-1]
    one, other = Store(str(tmp_path / "one")), Store(str(tmp_path / "other"))
    whole = weights(last, one)
    for _, source in last.inputs():
        obtain(source, other)
    with stopped(monkeypatch, after=2):
        obtain(last, other, checkpoint_seconds=0.0)
    resumed = weights(last, other)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    scores = [store.manifest(last.kind, last.key).scores for store in (one, other)]  # type: ignore[union-attr]
    assert scores[0] == scores[1]


@pytest.mark.drill
@pytest.mark.parametrize("method", LANGUAGE_METHODS)
def test_every_method_trains_one(method: str, store: Store) -> None:
    study = planned(**{**tiny_data(methods=[method]), **STUDY})
    for trial in study.trials():
        for cell in trial.cells:
            assert obtain(cell.stage, store)


def test_a_folder_is_loaded_and_keeps_what_it_knew(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "t5"
    model = build("t5", T5, FORMAT.tokenizer, seed=0).eval()
    model.save(folder)
    FORMAT.tokenizer.save_pretrained(folder)
    data = tiny_data(student=str(folder), tokenizer=None, methods=["finetune"])
    data["train"] = STUDY["train"]
    study = resolve_study(parse_study(data), tmp_path / "study.yaml")
    trial = next(trial for trial in study.trials() if trial.method == "finetune")
    start = trial.steps[0][0].stage.model
    obtain(start, store)
    loaded = CausalLM.load(store.fetch(start.kind, start.key)).eval()
    assert isinstance(loaded, EncoderDecoder)
    own, other = (logits(one, FORMAT.qa(NEW[0])) for one in (model, loaded))
    known = min(FORMAT.added)
    torch.testing.assert_close(other[:, :known], own[:, :known])
    assert loaded.vocabulary > known


def test_what_cannot_be_an_encoder_decoder_is_refused(study_file: Any) -> None:
    with pytest.raises(InputError, match="no largest length") as refused:
        load_study(study_file(student=STUDENT)).plan()
    assert "train.max_length" in str(refused.value)
    with pytest.raises(InputError, match="whole layers at random") as refused:
        check_arch("bart", {**BART, "decoder_layerdrop": 0.1}, 64)
    assert "decoder_layerdrop" in str(refused.value)
    small = {"num_encoder_layers": 1, "num_decoder_layers": 1, "hidden_size": 16,
             "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2,
             "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 300}  # fmt: skip
    with pytest.raises(InputError, match="cannot be read position by position"):
        check_arch("prophetnet", small, 64)
