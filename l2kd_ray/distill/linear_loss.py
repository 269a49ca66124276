"""Output layer, cross-entropy and distillation in one, chunk by chunk of the positions.

For a small model most of the work is the output layer, and most of the memory its [P, V] logits.
The weight of each position is known before the forward pass, so a chunk's gradient can be made
while its logits stand in memory, and they are gone before the next chunk: no [P, V] tensor is ever
whole, and nothing is computed again in the backward pass. (Liger's fused linear losses, Hsu et
al. 2024, arXiv 2410.10989, do the same on GPUs.) How a divergence gets its gradient in a
chunk's logits is in `gradients`.

Shapes: P positions, K of them in a term, C in a chunk, V vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2kd_ray.distill.divergences import Divergence, forward
from l2kd_ray.distill.gradients import gradient, of_groups
from l2kd_ray.distill.groups import Groups
from l2kd_ray.distill.top_k import MostLikely

CHUNK_ELEMENTS = 2**24
"""Elements of a chunk's logits: large enough for the matrix products, small against a batch's
logits. A device that is given its work in kernels takes `LARGER` times as many, in fewer."""
LARGER = 8


@dataclass(frozen=True)
class OutputLayer:
    """An output layer: weight [V, d], bias [V]. `half` takes its products in bfloat16."""

    weight: Tensor
    bias: Tensor | None = None
    half: bool = False

    @classmethod
    def of(cls, layer: nn.Module, half: bool = False) -> OutputLayer:
        bias: Any = getattr(layer, "bias", None)
        weight: Any = layer.weight
        return cls(weight, bias, half)


@dataclass(frozen=True)
class Knowledge:
    """A teacher's last hidden states [K, d] at K positions, and its output layer.

    `groups`: how positions of its own tokenizer meet the student's; None if they are the same.
    """

    hidden: Tensor
    head: OutputLayer
    groups: Groups | None = None


@dataclass(frozen=True)
class Term:
    """Positions `where` [K] with one teacher, or with none.

    `labels`: False if cross-entropy has weight 0 at all of them, and need not be computed beside
    the teacher's divergence.
    """

    where: Tensor
    teacher: Knowledge | MostLikely | None = None
    labels: bool = True


@dataclass(frozen=True)
class Loss:
    """A loss, and what it is the sum of; only the first has a gradient."""

    total: Tensor
    labels: Tensor
    """[P]: the weighted cross-entropy at each position."""
    teachers: Tensor
    """The weighted divergence of each term."""


def linear_loss(
    hidden: Tensor,
    head: OutputLayer,
    target: Tensor,
    ce: Tensor,
    kd: Tensor,
    terms: Sequence[Term],
    temperature: float,
    divergence: Divergence = forward,
) -> Loss:
    """sum_p ce_p CE_p + kd_p D(student_p, teacher_p; T), of logits z = hidden W^T + b.

    hidden [P, d], target [P], ce and kd [P]; `terms` share out the positions. The gradient flows to
    hidden, weight and bias, never to a teacher. In z_p it is, with T^2 KL(teacher_p || student_p)
    for D, ce_p (softmax(z_p) - onehot) + kd_p T (softmax(z_p / T) - softmax(z_teacher / T)).
    Of a teacher with `groups`, D is `Groups.distance`, weighed at each group's first position.
    Raises: InputError where a divergence does not return a loss a position.
    """
    work = _Work(head.half, target, ce, kd, tuple(terms), temperature, divergence)
    found: tuple[Tensor, Tensor, Tensor] = _LinearLoss.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, work
    )
    return Loss(*found)


@dataclass(frozen=True)
class _Work:
    """Inputs of the fused loss that have no gradient."""

    half: bool
    target: Tensor
    ce: Tensor
    kd: Tensor
    terms: tuple[Term, ...]
    temperature: float
    divergence: Divergence


class _LinearLoss(torch.autograd.Function):
    """The gradients are made in the forward pass; the backward pass only hands them out."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            student = _Layer(weight, bias, work.half)
            grad_hidden = torch.zeros_like(hidden)
            _, trains_weight, trains_bias, _ = ctx.needs_input_grad
            grad_weight = torch.zeros_like(weight) if trains_weight else None
            grad_bias = torch.zeros_like(bias) if bias is not None and trains_bias else None
            loss = torch.zeros((), device=hidden.device, dtype=weight.dtype)
            labels, teachers = loss.new_zeros(len(work.target)), loss.new_zeros(len(work.terms))
            for term, where, grad, hard, soft in _chunks(hidden, student, work):
                labels[where] = hard.to(labels.dtype)
                teachers[term] += soft
                loss += soft + hard.sum()
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
                grad = grad.to(student.weight.dtype)
                grad_hidden[where] = (grad @ student.weight).to(hidden.dtype)
                if grad_weight is not None:
                    if grad.dtype == grad_weight.dtype:
                        grad_weight.addmm_(grad.T, hidden[where])
                    else:
                        grad_weight += grad.T @ hidden[where].to(grad.dtype)
        # Saved, not an attribute: torch lets go of them as the backward pass hands them out, so
        # that the weight's becomes `weight.grad` and is not copied.
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(labels, teachers)
        return loss, labels, teachers

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        scale, *_ = grad_outputs
        grads = ctx.saved_tensors
        for grad in grads:
            if grad is not None:
                grad.data.mul_(scale)  # in place; `data` also where the graph is retained
        return (*grads, None)


class _Layer:
    """An output layer for one call: its weight is cast once, its logits are float32 or more."""

    def __init__(self, weight: Tensor, bias: Tensor | None, half: bool) -> None:
        self.weight = weight.bfloat16() if half else weight
        self.bias, self.dtype = bias, weight.dtype

    def logits(self, hidden: Tensor) -> Tensor:
        logits = (hidden.to(self.weight.dtype) @ self.weight.T).to(self.dtype)
        return logits if self.bias is None else logits.add_(self.bias)


def _chunks(
    hidden: Tensor, student: _Layer, work: _Work
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """Yield the number of each chunk's term, its positions [C], their logits' gradient
    [C, V], their cross-entropies [C], and their divergence."""
    size = chunk_size(student.weight)
    for number, term in enumerate(work.terms):
        teacher_logits = _logits_of(term.teacher, work.half)
        for part, theirs, groups in _parts(term, size):
            where = term.where[part]
            both = student.logits(hidden[where]), teacher_logits(theirs)
            yield number, where, *_chunk(*both, where, work, term.labels, groups)


def chunk_size(weight: Tensor) -> int:
    """The number of positions of a chunk, for an output layer of this weight [V, d]."""
    larger = 1 if weight.device.type == "cpu" else LARGER
    return max(1, larger * CHUNK_ELEMENTS // len(weight))


def _parts(term: Term, size: int) -> Iterator[tuple[slice, slice, Groups | None]]:
    """The student's positions of each chunk, the teacher's, and the groups that they form."""
    if isinstance(term.teacher, Knowledge) and term.teacher.groups is not None:
        yield from term.teacher.groups.parts(size)
        return
    for start in range(0, len(term.where), size):
        part = slice(start, start + size)
        yield part, part, None


def _logits_of(
    known: Knowledge | MostLikely | None, half: bool
) -> Callable[[slice], Tensor | MostLikely | None]:
    """A teacher's logits [C, V] of a chunk, or the most likely of them."""
    if known is None:
        return lambda part: None
    if isinstance(known, MostLikely):
        return known.__getitem__
    hidden, layer = known.hidden, _Layer(known.head.weight, known.head.bias, half)
    return lambda part: layer.logits(hidden[part])


def _chunk(
    logits: Tensor,
    teacher: Tensor | MostLikely | None,
    where: Tensor,
    work: _Work,
    labels: bool,
    groups: Groups | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient in a chunk's logits [C, V], its cross-entropies [C], and its divergence.

    Overwrites both logits.
    """
    ce, kd = work.ce[where], work.kd[where]
    if teacher is None:
        return *_cross_entropy(logits, work.target[where], ce), logits.new_zeros(())
    hard = _cross_entropy(logits.clone(), work.target[where], ce) if labels else None
    if groups is not None and isinstance(teacher, Tensor):
        grad, soft = of_groups(logits, teacher, kd, work.temperature, groups, work.target[where])
    else:
        grad, soft = gradient(logits, teacher, kd, work.temperature, work.divergence)
    if hard is None:
        return grad, logits.new_zeros(len(where)), soft
    return grad.add_(hard[0]), hard[1], soft


def _cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(logits, -1, out=logits)
    loss = -(log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1) * weight)
    grad = log_p.exp_().mul_(weight.unsqueeze(-1))
    grad.scatter_add_(-1, target.unsqueeze(-1), -weight.unsqueeze(-1))
    return grad, loss
