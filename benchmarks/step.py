"""The training step against the original's structure: time, arithmetic rate, memory.

    python benchmarks/step.py [--models small gpt2] [--variants "ours" "ours, bf16"] [--times 5]
    python benchmarks/step.py --device cuda --models stories15M gpt2 1b --batches 8 32 128

On a GPU the variants are compared with the first of them, since the original's step is of CPUs, and
the arithmetic rate is a share of the card's own rate of bfloat16 products.

Each variant runs in a process of its own (all five at GPT-2-small size: more than 24 GB), one
thread; their steps are interleaved, round after round, with a large matrix product between them.
GFLOP are those of the matrix products that the exact step needs (torch's counter), whatever a
variant spends besides.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from table import save

SIZES: Mapping[str, Mapping[str, int]] = {
    "small": {"n_layer": 4, "n_embd": 256, "n_head": 4},
    "gpt2": {"n_layer": 12, "n_embd": 768, "n_head": 12},
    "stories15M": {
        "num_hidden_layers": 6,
        "hidden_size": 288,
        "intermediate_size": 768,
        "num_attention_heads": 6,
    },
    "1b": {
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
VOCABULARY, BATCH, CONTEXT = 50_257, 8, 128
VARIANTS = ("original", "ours", "ours, cached teacher", "ours, bf16", "ours, bf16, cached teacher")


Prepared = tuple[Callable[[], Any], int, Callable[[], float]]
"""A step, its tokens, and its GFLOP, to be counted afterwards (0: not asked for)."""
Prepare = Callable[[str, bool, str], Prepared]


def rows(
    size: str, variants: Sequence[str], times: int, device: str, batch: int
) -> list[dict[str, Any]]:
    """A row for each part of the step (QA alone, QA and LM) and variant."""
    prepare = partial(step_of, device=device, batch=batch)
    if device != "cpu":
        both = [compare(variants, size, lm, times, prepare, device) for lm in (False, True)]
        return [{"batch": batch, **row} for found in both for row in found]
    found = [
        (lm, {"batch": batch, **row})
        for lm in (False, True)
        for row in compare([VARIANTS[0], *variants], size, lm, times, prepare)
    ]
    return [
        row | {"gradient error": _gradient_error(size, lm, row["variant"])}
        for lm, row in found  # the workers have ended: one pair of models is held at a time
    ]


def compare(
    variants: Sequence[str],
    size: str,
    lm: bool,
    times: int,
    prepare: Prepare,
    device: str = "cpu",
) -> Iterator[dict[str, Any]]:
    """A row a variant, against the first; `prepare` makes their steps."""
    workers = {v: _Worker(prepare, size, lm, v) for v in variants}
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    products: list[float] = []
    for _ in range(times + 1):  # the first round warms up
        products.append(_products(device))
        for variant, worker in workers.items():
            seconds[variant].append(worker.ask("step"))
    facts = {variant: worker.ask("facts") for variant, worker in workers.items()}
    for worker in workers.values():
        worker.end()
    limit = statistics.median(products[1:])
    flop = max(fact["gflop"] for fact in facts.values())
    base = seconds[variants[0]][1:]
    for variant in variants:
        taken = seconds[variant][1:]
        ratios = [one / other for one, other in zip(base, taken, strict=True)]
        median = statistics.median(taken)
        yield {
            "model": size,
            "step": "QA and LM" if lm else "QA",
            "variant": variant,
            "seconds": median,
            "tokens/s": facts[variant]["tokens"] / median,
            "speed-up": statistics.median(ratios),
            "from": min(ratios),
            "to": max(ratios),
            "of sgemm" if device == "cpu" else "of bf16 products": flop / median / limit,
            "memory MB": facts[variant]["memory"],
            "n": times,
        }


def _products(device: str) -> float:
    """GFLOP/s of a matrix product: in float32 on one thread of a CPU, in bfloat16 on a GPU."""
    import torch

    torch.set_num_threads(1)
    size, dtype = (2048, torch.float32) if device == "cpu" else (8192, torch.bfloat16)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    float((a @ b)[0, 0])
    start = time.perf_counter()
    float((a @ b)[0, 0])  # read, so that the product is waited for
    return 2 * size**3 / 1e9 / (time.perf_counter() - start)


class _Worker:
    """A process that holds one variant and does a step when it is asked."""

    def __init__(self, prepare: Prepare, size: str, lm: bool, variant: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        given = (theirs, prepare, size, lm, variant)
        self._process = context.Process(target=_serve, args=given, daemon=True)
        self._process.start()
        theirs.close()  # else a worker that is killed is waited for

    def ask(self, what: str) -> Any:
        self._pipe.send(what)
        return self._pipe.recv()

    def end(self) -> None:
        self._pipe.send("end")
        self._process.join()


def _serve(pipe: Any, prepare: Prepare, size: str, lm: bool, variant: str) -> None:
    import torch

    from l2kd_ray.core.execute import _keep_memory

    torch.set_num_threads(1)
    if "ours" in variant:
        _keep_memory()
    step, tokens, gflop = prepare(size, lm, variant)
    before = _peak()
    while (asked := pipe.recv()) != "end":
        if asked == "step":
            start = time.perf_counter()
            step()
            pipe.send(time.perf_counter() - start)
        else:
            memory = _peak() - before
            pipe.send({"tokens": tokens, "memory": memory, "gflop": gflop()})


def _peak() -> float:
    """MB that this process has held at most: of a GPU's memory if it uses one."""
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def step_of(size: str, lm: bool, variant: str, device: str = "cpu", batch: int = BATCH) -> Prepared:
    """Our step, or the original's."""
    from original import OriginalStep

    student, teacher = (model(size, seed).to(device) for seed in (0, 1))
    qa, language = _rows(lm, batch)
    tokens = sum(len(sequence.tokens) for sequence in [*qa, *language])
    if variant == "original":
        original = OriginalStep(student, teacher, 2.0, 0.25)
        return lambda: original(qa, language), tokens, float
    step = our_step(student, teacher, qa, language, variant, device=device)
    return step, tokens, lambda: counted(step)


def _rows(lm: bool, batch: int = BATCH) -> tuple[list[Any], list[Any]]:
    qa, language = sequences(0, batch)
    return qa, language if lm else []


def _gradient_error(size: str, lm: bool, variant: str) -> float:
    """Of a first step's (clipped) gradient, against the original's: norm of the difference."""
    import torch
    from original import OriginalStep

    gradients = []
    for ours in (False, variant != "original"):
        student, teacher = model(size, seed=0), model(size, seed=1)
        qa, language = _rows(lm)
        if ours:
            our_step(student, teacher, qa, language, variant)()
        else:
            OriginalStep(student, teacher, 2.0, 0.25)(qa, language)
        flat = [p.grad.flatten() for p in student.parameters() if p.grad is not None]
        gradients.append(torch.cat(flat))
    wanted, found = gradients
    return float((found - wanted).norm() / wanted.norm())


def counted(step: Callable[[], Any]) -> float:
    """GFLOP of a step's matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()) / 1e9


def our_step(
    student: Any,
    teacher: Any,
    qa: Any,
    language: Any,
    variant: str,
    temperature: float = 2.0,
    device: str = "cpu",
) -> Callable[[], float]:
    """An optimizer step of the loop on these rows, all of them distilled; returns the loss."""
    from pathlib import Path

    from torch import nn

    from l2kd_ray.core import loop
    from l2kd_ray.core.stage import Context, Optimisation
    from l2kd_ray.core.store import Store
    from l2kd_ray.distill.linear_loss import Knowledge, OutputLayer
    from l2kd_ray.distill.objectives import SoftTargets
    from l2kd_ray.families.language.stages.curriculum import Curriculum, SampleSource, SequenceRow
    from l2kd_ray.families.language.stages.teachers import Live

    class Format:
        answer = -1

    class Kept:
        """As `Cached`: hidden states of half precision, and an output layer."""

        def __init__(self, live: Live, rows: list[SequenceRow]) -> None:
            self.hidden = live.annotate(rows, device).hidden.half()
            self.head = OutputLayer(teacher.head.weight.detach())

        def to(self, device: str) -> None: ...

        def annotate(self, rows: Any, device: str) -> Knowledge:
            return Knowledge(self.hidden.float(), self.head)

    student.train()
    live = Live(teacher)
    rows = [SequenceRow(s, "qa", teacher=0, share=1.0) for s in qa]
    rows += [SequenceRow(s, "lm", teacher=0, share=1.0) for s in language]
    said: Any = Kept(live, rows) if "cached" in variant else live
    how = Optimisation(epochs=9, batch_size=BATCH, lr=6.25e-5, adam_eps=1e-4)
    source = SampleSource([], teacher=said, share=1.0)
    text: Any = Format()
    objective = SoftTargets(temperature)
    curriculum = Curriculum(
        (source,),
        SampleSource([]),
        separate=False,
        format=text,
        optimisation=how,
        seed=0,
        stream="",
        objective=objective,
        parts=("qa", "lm") if language else ("qa",),
        precision="bfloat16" if "bf16" in variant else "float32",
    )
    context = Context(Store("memory://bench"), Path(), device=device)
    optimizer = loop._optimizer(student, how)

    def step() -> float:
        optimizer.zero_grad()
        loss, *_ = loop.accumulate(student, rows, curriculum, context)
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        return float(loss)

    return step


def model(size: str, seed: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    from l2kd_ray.families.language.model.causal_lm import CausalLM

    torch.manual_seed(seed)
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    config: Any = (
        GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, **SIZES[size], **off)
        if "n_embd" in SIZES[size]
        else LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **SIZES[size])
    )
    return CausalLM(AutoModelForCausalLM.from_config(config))


def sequences(seed: int, batch: int = BATCH) -> tuple[list[Any], list[Any]]:
    """QA and LM sequences as E2E's: some 60 to 110 tokens, 20 to 40 of them an answer."""
    from l2kd_ray.families.language.model.sequences import TrainingSequence

    stream = np.random.default_rng(seed)
    qa, language = [], []
    for _ in range(batch):
        question, answer = int(stream.integers(40, 70)), int(stream.integers(20, 40))
        tokens = stream.integers(0, VOCABULARY, question + answer).tolist()
        qa.append(TrainingSequence(tokens, question))
        language.append(TrainingSequence([0, *tokens], 1))
    return qa, language


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["small", "gpt2"], choices=list(SIZES))
    parser.add_argument("--batches", nargs="*", type=int, default=[BATCH])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--variants", nargs="*", default=VARIANTS[1:], choices=VARIANTS[1:])
    parser.add_argument("--times", type=int, default=5)
    chosen = parser.parse_args()
    for size in chosen.models:
        given = chosen.variants, chosen.times, chosen.device
        found = [row for batch in chosen.batches for row in rows(size, *given, batch)]
        save(f"step_{size}" if chosen.device == "cpu" else f"step_{size}_{chosen.device}", found)


if __name__ == "__main__":
    main()
