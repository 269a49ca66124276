"""How sharp a teacher's distributions are at a temperature: what a student can learn from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from l2kd_ray.distill.linear_loss import Knowledge, chunk_size
from l2kd_ray.distill.top_k import MostLikely


@torch.no_grad()  # the output layer may be that of a student, which is its own teacher
def sharpness(teacher: Knowledge | MostLikely, temperature: float) -> Mapping[str, float]:
    """Means over K positions of a teacher's distributions [K, V] at `temperature`.

    Returns: `best`, the probability of its most likely token; `added`, the entropy in nats that
    the temperature adds to the distribution at 1. Of the most likely tokens alone, the others
    count as one class. Of no position at all they are NaN.
    """
    if isinstance(teacher, MostLikely):
        count, size = len(teacher.tokens), max(1, len(teacher.tokens))
    else:
        count, size = len(teacher.hidden), chunk_size(teacher.head.weight)
    best = added = torch.zeros(())
    for start in range(0, count, size):
        part = slice(start, start + size)
        plain, tempered = (_log_p(teacher, part, at) for at in (1.0, temperature))
        tokens = tempered[:, :-1] if isinstance(teacher, MostLikely) else tempered
        best = best + tokens.amax(-1).exp().sum()
        added = added + (_entropy(tempered) - _entropy(plain)).sum()
    return {"best": float(best / count), "added": float(added / count)}


def _log_p(teacher: Knowledge | MostLikely, part: slice, temperature: float) -> Tensor:
    """[C, V] at some positions."""
    if isinstance(teacher, MostLikely):
        return torch.cat(teacher[part].log_p(temperature), -1)
    bias = None if teacher.head.bias is None else teacher.head.bias.float()
    logits = nn.functional.linear(teacher.hidden[part].float(), teacher.head.weight.float(), bias)
    return torch.log_softmax(logits / temperature, -1)


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)
