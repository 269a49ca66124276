"""Generation: against transformers' own, against enumeration, against the wanted distribution."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import AutoConfig, AutoModelForCausalLM

from l2kd_ray.families.language.model import generation
from l2kd_ray.families.language.model.beam import beam
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.decoder import BLOCK, Decoder, closed_up
from l2kd_ray.families.language.model.generation import TopK, best, generate, greedy
from l2kd_ray.families.language.model.sequences import TokenIds

EOS = 0
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 128},
    "llama": {
        "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 32,
        "num_attention_heads": 2, "max_position_embeddings": 128,
    },
    "qwen2": {
        "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for one another make tiny products slow on a machine that is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(arch: str = "gpt2", vocab: int = 24, seed: int = 0, **fields: Any) -> CausalLM:
    """A random model in float64, and far from uniform: no two continuations are as good."""
    sizes = {**ARCHITECTURES[arch], "vocab_size": vocab, "initializer_range": 0.4, **fields}
    config = AutoConfig.for_model(arch, bos_token_id=EOS, eos_token_id=EOS, **sizes)
    torch.manual_seed(seed)
    return CausalLM(AutoModelForCausalLM.from_config(config, dtype=torch.float64)).eval()


def ragged(lengths: Sequence[int], vocab: int = 24, seed: int = 0) -> list[TokenIds]:
    stream = np.random.default_rng(seed)
    return [stream.integers(1, vocab, size=length).tolist() for length in lengths]


def transformers_own(
    model: CausalLM, prompts: list[TokenIds], eos: int = EOS, **options: Any
) -> list[TokenIds]:
    """All prompts in one batch, padded on the left, as transformers generates."""
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    rows = [[eos] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * pad + [1] * (width - pad) for pad in padding]
    found = model.lm.generate(
        torch.tensor(rows), attention_mask=torch.tensor(mask), do_sample=False,
        eos_token_id=eos, pad_token_id=eos, **options,
    )[:, width:].tolist()  # fmt: skip
    return [row[: row.index(eos) + 1] if eos in row else row for row in found]


def frequent(model: CausalLM, prompts: list[TokenIds]) -> int:
    """A token that many continuations come upon, sooner or later: as eos it lets them end."""
    endless = generate(model, prompts, greedy, max_new_tokens=20, eos=-1)
    return Counter(itertools.chain(*endless)).most_common(1)[0][0]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_generation_is_transformers_own(arch: str, seed: int) -> None:
    model = make_model(arch, seed=seed)
    prompts = ragged([3, 9, 1, 5, 9, 30, 2, 2, 17, 4, 40, 1, *range(6, 16)], seed=seed)
    eos = frequent(model, prompts)
    theirs = transformers_own(model, prompts, eos, max_new_tokens=40)
    assert len(set(map(len, theirs))) > 2
    for batch in (1, 5, 64):
        ours = generate(model, prompts, greedy, max_new_tokens=40, eos=eos, batch=batch)
        assert ours == theirs


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_as_wide_as_the_space_finds_the_best_of_all(seed: int) -> None:
    vocab, longest = 4, 3
    model = make_model(vocab=vocab, seed=seed)
    prompts = ragged([2, 5, 1], vocab, seed)
    found = beam(model, prompts, vocab**longest, max_new_tokens=longest, eos=EOS)
    for prompt, tokens in zip(prompts, found, strict=True):
        scores = {
            ended: log_probability(model, prompt, ended) / len(ended)
            for ended in continuations(vocab, longest)
        }
        assert tuple(tokens) == max(scores, key=scores.__getitem__)


def test_a_beam_reads_nothing_of_a_checkpoints_own_settings() -> None:
    """As greedy decoding and sampling."""
    model, prompts = make_model(), ragged([3, 9, 1])
    wanted = beam(model, prompts, 3, max_new_tokens=12, eos=EOS)
    model.lm.generation_config.repetition_penalty = 5.0
    assert transformers_own(model, prompts, num_beams=3, max_new_tokens=12) != wanted
    assert beam(model, prompts, 3, max_new_tokens=12, eos=EOS) == wanted
    assert model.lm.generation_config.repetition_penalty == 5.0


def continuations(vocab: int, longest: int) -> set[tuple[int, ...]]:
    """All that end with eos or are as long as may be."""
    every = itertools.product(range(vocab), repeat=longest)
    return {one[: one.index(EOS) + 1] if EOS in one else one for one in every}


@torch.no_grad()
def log_probability(model: CausalLM, prompt: TokenIds, continuation: Sequence[int]) -> float:
    logits = model.lm(input_ids=torch.tensor([[*prompt, *continuation]])).logits[0]
    log_probabilities = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(log_probabilities.gather(-1, torch.tensor(continuation).unsqueeze(-1)).sum())


def test_one_beam_is_greedy() -> None:
    model, prompts = make_model(), ragged([3, 9, 1, 5])
    expected = generate(model, prompts, greedy, max_new_tokens=20, eos=EOS)
    assert beam(model, prompts, 1, max_new_tokens=20, eos=EOS) == expected


def decode(model: CausalLM, prompts: list[TokenIds], new: int, beams: int) -> list[TokenIds]:
    if beams:
        return beam(model, prompts, beams, max_new_tokens=new, eos=EOS)
    return generate(model, prompts, greedy, max_new_tokens=new, eos=EOS)


@pytest.mark.parametrize("beams", [0, 3])
def test_generation_ends_at_the_models_context(beams: int) -> None:
    model = make_model(n_positions=16)
    with torch.no_grad():  # eos is the last that it wants
        model.lm.transformer.ln_f.weight.zero_()
        model.lm.transformer.ln_f.bias.copy_(-model.lm.lm_head.weight[EOS])
    found = decode(model, ragged([12, 1]), 50, beams)
    assert [len(tokens) for tokens in found] == ([4, 4] if beams else [4, 15])
    assert decode(model, ragged([3, 4]), 0, beams) == [[], []]
    assert decode(model, [], 5, beams) == []
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        decode(model, [[1], []], 5, beams)


def test_generation_keeps_the_eos_it_ends_at() -> None:
    model = make_model()
    with torch.no_grad():  # all tokens alike: the first is eos
        model.lm.lm_head.weight.zero_()
    assert generate(model, [[1], [2, 3]], greedy, max_new_tokens=3, eos=EOS) == [[EOS], [EOS]]


@pytest.mark.parametrize("vocab", [24, 3 * BLOCK, 1000])
def test_sampling_has_the_distribution_of_the_top_k(vocab: int) -> None:
    model, prompt, count, k, temperature = make_model(vocab=vocab), [5, 7, 3], 20_000, 6, 0.7
    with torch.no_grad():
        logits = model.lm(input_ids=torch.tensor([prompt])).logits[0, -1]
    kept, tokens = logits.topk(k)
    streams = [np.random.default_rng(row) for row in range(count)]
    sampler = TopK.seeded(k, temperature, streams, 1, "cpu")
    drawn = sampler(logits.expand(count, -1), torch.arange(count), 0)
    counts = [int((drawn == token).sum()) for token in tokens]
    assert sum(counts) == count
    expected = (kept / temperature).softmax(-1).numpy() * count
    assert chisquare(counts, expected).pvalue > 0.001


def test_a_k_beyond_the_vocabulary_draws_from_all_of_it() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    sampler = TopK(50, 1.0, torch.linspace(0, 1, 1001)[:-1].unsqueeze(-1))
    drawn = sampler(logits.expand(1000, -1), torch.arange(1000), 0)
    expected = logits[0].softmax(-1)
    assert torch.allclose(drawn.bincount(minlength=3) / 1000, expected, atol=2e-3)


def test_what_a_row_draws_does_not_depend_on_its_neighbours() -> None:
    model, prompts = make_model(), ragged([1, 4, 2, 9, 30, 1])

    def sampled(rows: list[int], batch: int) -> list[TokenIds]:
        sampler = TopK.seeded(20, 1.0, [np.random.default_rng(row) for row in rows], 40, "cpu")
        chosen = [prompts[row] for row in rows]
        return generate(model, chosen, sampler, max_new_tokens=40, eos=EOS, batch=batch)

    together = sampled([0, 1, 2, 3, 4, 5], 6)
    assert len(set(map(len, together))) > 2
    assert sampled([0, 1, 2, 3, 4, 5], 1) == together
    assert sampled([4, 2, 5], 2) == [together[row] for row in (4, 2, 5)]


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 700), st.integers(1, 90), st.integers(0, 10**6))
def test_the_best_are_those_of_topk(rows: int, vocab: int, k: int, seed: int) -> None:
    # Distinct numbers: of equals either may come first.
    logits = torch.from_numpy(np.random.default_rng(seed).permuted(
        np.tile(np.arange(vocab, dtype=np.float64), (rows, 1)), axis=1
    ))  # fmt: skip
    k = min(k, vocab)
    largest, tokens = best(logits, k)
    expected = logits.topk(k, dim=-1)
    assert torch.equal(largest, expected.values)
    assert torch.equal(tokens, expected.indices)
    assert torch.equal(greedy(logits, torch.arange(rows), 0), logits.argmax(-1))


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_rows_that_go_on_close_up_and_move_only_into_free_places(going: list[bool]) -> None:
    order = closed_up(torch.tensor(going)).tolist()
    assert sorted(order) == [row for row, goes in enumerate(going) if goes]
    assert all(row == place for place, row in enumerate(order) if going[place])


@torch.inference_mode()
def test_a_cache_is_not_copied_at_every_step() -> None:
    decoder = Decoder(make_model(n_positions=1024), ragged([3, 5]))
    places = set()
    for _ in range(300):
        decoder.feed(torch.tensor([1, 2]))
        places.add(decoder.layers[0].buffers[0].data_ptr())
    assert len(places) <= 300 // BLOCK + 1


def test_weights_in_bfloat16_decode_the_same_first_tokens() -> None:
    model, prompts = make_model(), ragged([3, 9, 1, 5])
    in_double = decode(model, prompts, 20, 0)
    model.bfloat16()
    coarse = generate(model, prompts, greedy, max_new_tokens=20, eos=EOS)
    assert [tokens[:1] for tokens in coarse] == [tokens[:1] for tokens in in_double]


def test_a_batch_that_does_not_fit_is_decoded_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, model = ragged([4, 2, 7, 3, 5]), make_model()
    wanted = generate(model, prompts, greedy, max_new_tokens=6, eos=EOS)
    sizes, inner = [], generation._continue

    def narrow(model: CausalLM, prompts: Any, rows: Sequence[int], *rest: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError
        return inner(model, prompts, rows, *rest)

    monkeypatch.setattr(generation, "_continue", narrow)
    assert generate(model, prompts, greedy, max_new_tokens=6, eos=EOS, batch=4) == wanted
    assert sizes == [4, 2, 1, 1, 1, 1, 1]
