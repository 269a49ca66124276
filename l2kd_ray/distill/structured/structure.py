"""The interface of every factorisation, so that the objective is written once.

Shapes: B sentences, n positions, L labels. `lengths` [B] are at least 1, sentences are padded at
the end, and what stands on padding is never read. A score of -inf forbids a substructure; every
sentence needs one structure without any. Inference runs in float64 whatever the scores' type.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# One tensor [B, ...] for each kind of substructure: marginals, or scores that broadcast to them.
Parts = tuple[Tensor, ...]


class Structure(Protocol):
    """A distribution over the structures of each sentence: P(y) = exp(score(y)) / Z."""

    @property
    def lengths(self) -> Tensor:
        """[B]: tokens of each sentence."""
        ...

    def potentials(self) -> Parts:
        """The scores of the substructures; a structure's score is the sum of its own."""
        ...

    def log_partition(self) -> Tensor:
        """[B]: log Z. Its gradient in the scores is the marginals."""
        ...

    def marginals(self) -> Parts:
        """P(u) of each substructure u, 0 on padding; aligned with `potentials`."""
        ...

    def score(self, gold: Tensor) -> Tensor:
        """[B]: score of one structure a sentence, encoded as `argmax` does."""
        ...

    def argmax(self) -> Tensor:
        """The best structure of each sentence."""
        ...

    def temper(self, temperature: float) -> Self:
        """The distribution proportional to P ** (1 / temperature)."""
        ...


def valid_positions(lengths: Tensor, n: int) -> Tensor:
    """[B, n]: True on tokens, False on padding."""
    return torch.arange(n, device=lengths.device) < lengths[:, None]


def at_end(values: Tensor, lengths: Tensor) -> Tensor:
    """values [B, n, ...] at each sentence's last token: [B, ...]."""
    return values[torch.arange(len(values), device=values.device), lengths - 1]


def logsumexp(values: Tensor, dim: int) -> Tensor:
    """torch.logsumexp whose gradient is 0, not NaN, where every value is -inf."""
    top = values.detach().amax(dim, keepdim=True).clamp(min=torch.finfo(values.dtype).min)
    total = (values - top).exp().sum(dim)
    empty = total == 0
    log = total.masked_fill(empty, 1.0).log() + top.squeeze(dim)
    return log.masked_fill(empty, -torch.inf)


def wants_gradient(scores: Parts) -> bool:
    """Whether autograd would record a function of these."""
    return torch.is_grad_enabled() and any(score.requires_grad for score in scores)


def with_gradient(log_z: Tensor, scores: Parts, marginals: Parts) -> Tensor:
    """`log_z` [B] as a function of the scores with d log_z / d scores = marginals."""
    if not wants_gradient(scores):
        return log_z
    attached: Tensor = _ClosedForm.apply(log_z, marginals, *scores)  # type: ignore[no-untyped-call]
    return attached


class _ClosedForm(torch.autograd.Function):
    """A value whose gradient is known in closed form; differentiable once."""

    @staticmethod
    def forward(ctx: Any, log_z: Tensor, marginals: Parts, *scores: Tensor) -> Tensor:
        ctx.save_for_backward(*marginals)
        ctx.shapes = [score.shape for score in scores]
        return log_z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.shapes, strict=True)
        scaled = [
            (mu * grad.reshape(-1, *[1] * (mu.dim() - 1))).sum_to_size(shape) for mu, shape in pairs
        ]
        return None, None, *scaled
