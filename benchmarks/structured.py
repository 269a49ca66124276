"""What a Structural KD loss costs, forward and backward; prints a table and saves it.

    python benchmarks/structured.py [chain spans matrix-tree eisner] [--lengths 40 128]
        [--device cuda]

B = 32 sentences of n/2 to n tokens, float32, one thread; L = 20 labels, 4 types of spans. A loss
is log Z - <mu, s> with its gradient in the scores; against it the same code a sentence at a time,
for the chain the textbook's loop a sentence at a time, and torch-struct where it is installed.
Medians of processor time (one thread, so that a busy machine weighs less; of wall-clock time on a
GPU), the competitors interleaved in one run.

torch-struct's semi-Markov chart cuts off spans in batches of unequal lengths, so spans have equal
ones, and grows as n^3, so that it is left out above n = 64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from table import save, timing
from torch import Tensor

from l2kd_ray.distill.structured.chain import Chain
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.objective import structural_cross_entropy
from l2kd_ray.distill.structured.spans import Spans
from l2kd_ray.distill.structured.structure import Parts
from l2kd_ray.distill.structured.trees import NonProjective

B, L, TYPES, REPEATS = 32, 20, 4, 7

Losses = Callable[[Any, Parts], Tensor]  # (student, targets) -> [B]


def structural(student: Any, targets: Parts) -> Tensor:
    """Equation (1) for the batch."""
    return structural_cross_entropy(targets, student.potentials(), student.log_partition())


def one_by_one(student: Any, targets: list[Parts]) -> Tensor:
    """The same, sentence by sentence, none of them padded."""
    alone = [sentence(student, b) for b in range(B)]
    return torch.cat([structural(one, mu) for one, mu in zip(alone, targets, strict=True)])


def textbook(student: Chain, targets: list[Parts]) -> Tensor:
    """One by one: the forward algorithm in log space and autograd."""
    found = []
    for b, (tokens, transitions, first, last) in enumerate(targets):
        emissions = student.emissions[b, : student.lengths[b]]
        alpha = student.start + emissions[0]
        for emission in emissions[1:]:
            alpha = (alpha[:, None] + student.transitions).logsumexp(0) + emission
        expected = (tokens[0] * emissions).sum() + (transitions[0] * student.transitions).sum()
        expected = expected + (first[0] * student.start).sum() + (last[0] * student.end).sum()
        found.append((alpha + student.end).logsumexp(0) - expected)
    return torch.stack(found)


def sentence(student: Any, b: int) -> Any:
    """Sentence b of a batch, alone and without its padding."""
    n, lengths = int(student.lengths[b]), student.lengths[b : b + 1]
    if isinstance(student, Chain):
        return replace(student, emissions=student.emissions[b : b + 1, :n], lengths=lengths)
    width = n if isinstance(student, Spans) else n + 1
    return replace(student, scores=student.scores[b : b + 1, :n, :width], lengths=lengths)


def torch_struct_chain(student: Chain, targets: Parts) -> Tensor:
    steps = student.transitions.T + student.emissions[:, 1:, :, None]  # [B, n-1, to, from]
    begin = (student.start + student.emissions[:, 0])[:, None, None]
    at_end = torch.zeros_like(steps)
    at_end[torch.arange(B), student.lengths - 2] = student.end[:, None]
    potentials = torch.cat([steps[:, :1] + begin, steps[:, 1:]], 1) + at_end
    crf = import_module("torch_struct").LinearChainCRF(potentials, lengths=student.lengths)
    tokens, transitions, first, last = targets
    expected = (tokens * student.emissions).sum((1, 2)) + first @ student.start
    expected = expected + (transitions * student.transitions).sum((1, 2)) + last @ student.end
    return crf.partition - expected


def torch_struct_spans(student: Spans, targets: Parts) -> Tensor:
    """A semi-Markov model of one state; spans of one token stand for words outside them too."""
    n = student.scores.shape[1]
    segments = student.scores.logsumexp(-1)
    outside = torch.eye(n, dtype=torch.bool)
    segments = torch.where(outside, segments.logaddexp(torch.zeros(())), segments)
    at = torch.arange(n)[:, None] + torch.arange(n)  # [first, width - 1] -> last
    by_width = segments.gather(2, at.clamp(max=n - 1).expand(B, n, n))
    by_width = by_width.masked_fill(at >= student.lengths[:, None, None], -1e9)
    nothing = by_width.new_full((B, n, 1), -1e9)
    potentials = torch.cat([nothing, by_width], -1)[..., None, None]
    lengths = student.lengths + 1
    crf = import_module("torch_struct").SemiMarkovCRF(potentials, lengths=lengths)
    return crf.partition - (targets[0] * student.scores).flatten(1).sum(1)


def torch_struct_trees(kind: str, student: Any, targets: Parts) -> Tensor:
    arcs = student.scores[..., 1:].transpose(1, 2)  # (head, dependent), the root on the diagonal
    diagonal = torch.eye(arcs.shape[1], dtype=torch.bool)
    arcs = torch.where(diagonal, student.scores[..., 0][:, None], arcs)
    crf = getattr(import_module("torch_struct"), kind)
    found = crf(arcs, lengths=student.lengths, multiroot=False).partition
    return found - (targets[0] * student.scores).flatten(1).sum(1)


def chain(lengths: Tensor, n: int) -> Chain:
    scores = torch.randn(B, n, L), torch.randn(L, L), torch.randn(L), torch.randn(L)
    return Chain(*(score.requires_grad_() for score in scores), lengths)


def spans(lengths: Tensor, n: int) -> Spans:
    return Spans(torch.randn(B, n, n, TYPES).requires_grad_(), lengths)


def arcs(kind: type[Any], lengths: Tensor, n: int) -> Any:
    return kind(torch.randn(B, n, n + 1).requires_grad_(), lengths)


PARTS: dict[str, tuple[Callable[[Tensor, int], Any], Losses]] = {
    "chain": (chain, torch_struct_chain),
    "spans": (spans, torch_struct_spans),
    "matrix-tree": (
        partial(arcs, NonProjective),
        partial(torch_struct_trees, "NonProjectiveDependencyCRF"),
    ),
    "eisner": (partial(arcs, Projective), partial(torch_struct_trees, "DependencyCRF")),
}


def rows(parts: Iterable[str] = PARTS, sizes: Iterable[int] = (40, 128)) -> list[dict[str, Any]]:
    return [found for part in parts for n in sizes for found in compared(part, n)]


def compared(part: str, n: int) -> Iterator[dict[str, Any]]:
    """Milliseconds of one loss, forward and backward, for each competitor."""
    torch.manual_seed(0)
    make, torch_struct = PARTS[part]
    lengths = torch.linspace(n if part == "spans" else n // 2, n, B).long()
    student, teacher = make(lengths, n), make(lengths, n)
    targets = teacher.marginals()
    alone = [sentence(teacher, b).marginals() for b in range(B)]
    leaves = [value for value in vars(student).values() if getattr(value, "requires_grad", False)]

    def step(losses: Callable[[], Tensor]) -> list[Tensor]:
        total = losses()
        return [total.detach(), *torch.autograd.grad(total.sum(), leaves)]

    competitors = {
        "batched": partial(structural, student, targets),
        "a sentence at a time": partial(one_by_one, student, alone),
    }
    if part == "chain":
        competitors["textbook, a sentence at a time"] = partial(textbook, student, alone)
    if find_spec("torch_struct") and (part != "spans" or n <= 64):
        competitors["torch-struct"] = partial(torch_struct, student, targets)
    times = measured({name: partial(step, loss) for name, loss in competitors.items()})
    ours = statistics.median(times["batched"])
    for name, found in times.items():
        row = timing(part, f"n={n}, {name}", found, "ms", scale=1000, digits=2)
        yield {**row, "ratio": round(statistics.median(found) / ours, 2)}


def measured(work: dict[str, Callable[[], list[Tensor]]]) -> dict[str, list[float]]:
    """Seconds of each, interleaved, once all are seen to find the same losses and gradients.

    Each runs twice in a row and the second counts: none pays for the memory of the one before.
    """
    times: dict[str, list[float]] = {}
    wanted: list[Tensor] = []
    for name, once in work.items():
        found, times[name] = once(), []
        wanted = wanted or found
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    for _ in range(REPEATS):
        for name, once in work.items():
            once()
            started = _now()
            once()
            times[name].append(_now() - started)
    return times


def _now() -> float:
    """Seconds of the process on its CPU; on a GPU of the wall clock, when the GPU has ended."""
    if torch.get_default_device().type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", help=", ".join(PARTS))
    arguments.add_argument("--lengths", nargs="*", type=int, default=[40, 128])
    arguments.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.set_default_device(given.device)
    name = "structured" if given.device == "cpu" else f"structured_{given.device}"
    save(name, rows(given.parts or PARTS, given.lengths))


if __name__ == "__main__":
    main()
