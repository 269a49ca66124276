"""What generation costs beside transformers' `generate` and beside a loop with a cache an example.

    python benchmarks/generation.py [gpt2 stories15M lengths] [--rows 32 128] [--cases ...]
        [--device cuda]

One thread, medians of at least five, interleaved, all in one run. The time is that of the process
on its CPU, which is the wall clock of a machine with nothing else to do; on a GPU, the wall clock,
and without the loop with a cache an example, which is of CPUs. `stories15M` is looked
for below L2KD_MODELS. Prompts have 8 to 48 tokens, answers 64 at most; they are `ragged`
(geometric, mean 16: the longest is four times the mean, as in rnnlg.hotel) or `uniform` (16 to 64,
about twice, as in E2E). Every variant is made to end a row at the same step.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import save
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessor,
)

from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.generation import Sampler, TopK, generate, greedy

EOS = 2
TOP_K = 20
MEAN, LONGEST = 16, 64
REPEATS = 5
PARTS = ("gpt2", "stories15M", "lengths")
SIZES = (32, 128)
CASES = ("ragged greedy", "ragged top-k", "uniform greedy", "uniform top-k")


@dataclass(frozen=True)
class Case:
    """Prompts to continue by so many tokens each."""

    model: CausalLM
    rows: int
    answers: str
    decoding: str

    @cached_property
    def half(self) -> CausalLM:
        """The model with weights in bfloat16."""
        return copy.deepcopy(self.model).to(torch.bfloat16)

    @cached_property
    def prompts(self) -> list[list[int]]:
        stream = np.random.default_rng(self.rows)
        sizes = stream.integers(8, 49, size=self.rows)
        return [stream.integers(3, self.model.vocabulary, size=size).tolist() for size in sizes]

    @cached_property
    def lengths(self) -> Tensor:
        """[rows]"""
        stream = np.random.default_rng(self.rows + 1)
        if self.answers == "uniform":
            drawn = stream.integers(LONGEST // 4, LONGEST + 1, size=self.rows)
        else:
            drawn = stream.geometric(1 / MEAN, size=self.rows).clip(1, LONGEST)
        return torch.from_numpy(drawn).to(self.model.device)

    @property
    def sampled(self) -> bool:
        return self.decoding != "greedy"


def ours(case: Case, half: bool = False) -> list[list[int]]:
    streams = [np.random.default_rng(row) for row in range(case.rows)]
    how = TOP_K, 1.0, streams, LONGEST, case.model.device
    chosen: Sampler = TopK.seeded(*how) if case.sampled else greedy

    def ending(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        logits[:, EOS] = -torch.inf
        return torch.where(case.lengths[rows] <= step + 1, EOS, chosen(logits, rows, step))

    return generate(
        case.half if half else case.model, case.prompts, ending,
        max_new_tokens=LONGEST, eos=EOS, batch=case.rows,
    )  # fmt: skip


class Ending(LogitsProcessor):  # type: ignore[misc]
    """Lets each row end at its length, and not before."""

    def __init__(self, lengths: Tensor, width: int) -> None:
        self.lengths, self.width = lengths, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, EOS] = -torch.inf
        ended = self.lengths <= input_ids.shape[1] - self.width + 1
        scores[ended] = -torch.inf
        scores[ended, EOS] = 0.0
        return scores


@torch.inference_mode()
def transformers_own(case: Case) -> list[list[int]]:
    width = max(map(len, case.prompts))
    padding = [width - len(prompt) for prompt in case.prompts]
    rows = [[EOS] * pad + prompt for pad, prompt in zip(padding, case.prompts, strict=True)]
    mask = torch.tensor(
        [[0] * pad + [1] * (width - pad) for pad in padding], device=case.model.device
    )
    sampling = {"do_sample": True, "top_k": TOP_K, "top_p": 1.0, "temperature": 1.0}
    found = case.model.lm.generate(
        torch.tensor(rows, device=mask.device), attention_mask=mask, max_new_tokens=LONGEST,
        eos_token_id=EOS, pad_token_id=EOS, logits_processor=[Ending(case.lengths, width)],
        **(sampling if case.sampled else {"do_sample": False}),
    )[:, width:].tolist()  # fmt: skip
    return [row[: row.index(EOS) + 1] for row in found]


@torch.inference_mode()
def cache_an_example(case: Case) -> list[list[int]]:
    """The original's structure: the shortest sequences go on together until they are as long as
    the next; each keeps a cache of its own, stacked and split at each step. Samples are drawn from
    a softmax over the vocabulary. Kinder than the original: prompts give their last logits alone.
    """
    sequences = [list(prompt) for prompt in case.prompts]
    order = sorted(range(case.rows), key=lambda row: len(sequences[row]))
    caches: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def go_on(rows: list[int], tokens: Tensor, cache: Any, sizes: Tensor) -> None:
        output = case.model.lm.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)
        last = output.last_hidden_state[torch.arange(len(rows)), sizes - 1]
        for place, (row, token) in enumerate(zip(rows, _drawn(case, last), strict=True)):
            written = len(sequences[row]) + 1 - len(case.prompts[row])
            ended = written >= int(case.lengths[row])
            sequences[row].append(EOS if ended else token)
            size = len(sequences[row]) - 1
            caches[row] = [
                (layer.keys[place, :, :size].clone(), layer.values[place, :, :size].clone())
                for layer in cache.layers
            ]
            if ended:
                del caches[row]

    widest = len(sequences[order[-1]])
    padded = torch.tensor(
        [sequences[row] + [EOS] * (widest - len(sequences[row])) for row in order]
    )
    sizes = torch.tensor([len(sequences[row]) for row in order])
    go_on(order, padded, DynamicCache(config=case.model.lm.config), sizes)
    while caches:
        shortest = min(len(sequences[row]) for row in caches)
        rows = [row for row in caches if len(sequences[row]) == shortest]
        cache = DynamicCache(config=case.model.lm.config)
        for layer, parts in enumerate(zip(*(caches[row] for row in rows), strict=True)):
            keys, values = zip(*parts, strict=True)
            cache.update(torch.stack(keys), torch.stack(values), layer)
        tokens = torch.tensor([sequences[row][-1:] for row in rows])
        go_on(rows, tokens, cache, torch.ones(len(rows), dtype=torch.long))
    return [found[len(prompt) :] for found, prompt in zip(sequences, case.prompts, strict=True)]


def _drawn(case: Case, hidden: Tensor) -> list[int]:
    logits = case.model.head(hidden)
    logits[:, EOS] = -torch.inf
    if not case.sampled:
        return list(logits.argmax(-1).tolist())
    logits[logits < logits.topk(TOP_K)[0][:, -1:]] = -torch.inf
    return list(torch.multinomial(logits.softmax(-1), 1).squeeze(-1).tolist())


VARIANTS: dict[str, Callable[[Case], list[list[int]]]] = {
    "ours": ours,
    "ours, bf16": partial(ours, half=True),
    "transformers": transformers_own,
    "a cache an example": cache_an_example,
}


def compared(name: str, case: Case) -> Iterator[dict[str, Any]]:
    """Seconds of each variant on one case."""
    on_cpu, clock = clock_of(case.model)
    works = {
        name: work for name, work in VARIANTS.items() if on_cpu or work is not cache_an_example
    }
    found = {variant: work(case) for variant, work in works.items()}
    for variant, tokens in found.items():
        assert [len(row) for row in tokens] == case.lengths.tolist(), variant
    times = interleaved({what: partial(work, case) for what, work in works.items()}, clock)
    for variant in works:
        yield {
            "part": name,
            "what": f"{case.rows} rows, {case.answers} answers, {case.decoding}",
            "variant": variant,
            "same_tokens": None if case.sampled else found[variant] == found["ours"],
            "tokens": int(case.lengths.sum()),
            **summary(times[variant]),
            "speedup_of_ours": ratio(times[variant], times["ours"]),
            "speedup_of_bf16": ratio(times[variant], times["ours, bf16"]),
        }


def lengths(model: CausalLM) -> Iterator[dict[str, Any]]:
    """Seconds a step, by the number of tokens that 16 rows are continued by."""
    prompts = [[5] * 8] * 16
    news = (64, 128, 256, 512)
    works = {
        new: partial(generate, model, prompts, greedy, max_new_tokens=new, eos=-1) for new in news
    }
    for new, times in interleaved(works, clock_of(model)[1]).items():
        steps = [seconds / new for seconds in times]
        what = {"part": "lengths", "what": f"16 rows, {new} tokens each: a step"}
        yield {**what, "variant": "ours", "tokens": 16, **summary(steps)}


def clock_of(model: CausalLM) -> tuple[bool, Callable[[], float]]:
    """Whether a model is on a CPU, and the clock to time it by: tokens are read, so a GPU has
    ended when they are there."""
    on_cpu = model.device.type == "cpu"
    return on_cpu, time.process_time if on_cpu else time.perf_counter


def interleaved(
    works: dict[Any, Callable[[], object]], clock: Callable[[], float]
) -> dict[Any, list[float]]:
    times: dict[Any, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            started = clock()
            work()
            times[name].append(clock() - started)
    return times


def summary(times: list[float]) -> dict[str, Any]:
    low, high = min(times), max(times)
    median = statistics.median(times)
    return {"median": median, "low": low, "high": high, "n": len(times), "unit": "s"}


def ratio(times: list[float], of: list[float]) -> float:
    return round(statistics.median(times) / statistics.median(of), 2)


def gpt2() -> CausalLM:
    """4 layers, 256 wide, V = 50,257: most of the work is in the output layer."""
    torch.manual_seed(0)
    return CausalLM(GPT2LMHeadModel(GPT2Config(n_layer=4, n_embd=256, n_head=4)).eval())


def stories15m() -> CausalLM:
    folder = Path(os.environ["L2KD_MODELS"]) / "stories15M"
    return CausalLM(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def rows(
    parts: Iterable[str] = PARTS,
    sizes: Iterable[int] = SIZES,
    cases: Iterable[str] = CASES,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """All measurements; a model that is not there is left out."""
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for part in parts:
        if part == "lengths":
            found += lengths(gpt2().to(device))
        elif part == "gpt2" or "L2KD_MODELS" in os.environ:
            model = (gpt2() if part == "gpt2" else stories15m()).to(device)
            for size, case in itertools.product(sizes, cases):
                found += compared(part, Case(model, size, *case.split()))
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", help=", ".join(PARTS))
    arguments.add_argument("--rows", type=int, nargs="+", default=SIZES)
    arguments.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    arguments.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = arguments.parse_args()
    name = "generation" if given.device == "cpu" else f"generation_{given.device}"
    save(name, rows(given.parts or PARTS, given.rows, given.cases, given.device))


if __name__ == "__main__":
    main()
