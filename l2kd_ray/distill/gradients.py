"""A divergence's gradient in the student's logits, made while a chunk of them stands in memory.

Those of forward and of reverse KL are written out, in half the time and memory; any other is
autograd's, within the chunk alone.

Shapes: C positions of a chunk, k tokens kept of a teacher's, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from l2kd_ray.distill.divergences import Divergence, forward, reverse
from l2kd_ray.distill.groups import Groups
from l2kd_ray.distill.top_k import MostLikely
from l2kd_ray.errors import InputError

_TINY = 1e-12
"""The least mass of the student's other tokens: what divides must not be 0."""


def gradient(
    student: Tensor,
    teacher: Tensor | MostLikely,
    weight: Tensor,
    temperature: float,
    divergence: Divergence = forward,
) -> tuple[Tensor, Tensor]:
    """The gradient of sum_p weight_p D_p in the student's logits [C, V], and the sum itself.

    Overwrites both logits. Where only a teacher's most likely tokens are known, D is taken over
    these and one class of all others. Raises: InputError where D is no loss a position.
    """
    if divergence is forward and isinstance(teacher, MostLikely):
        return _forward_kl_of_classes(student, teacher, weight, temperature)
    if divergence in _CLOSED and not isinstance(teacher, MostLikely):
        return _CLOSED[divergence](student, teacher, weight, temperature)
    return by_autograd(student, teacher, weight, temperature, divergence)


def by_autograd(
    student: Tensor,
    teacher: Tensor | MostLikely,
    weight: Tensor,
    temperature: float,
    divergence: Divergence,
) -> tuple[Tensor, Tensor]:
    """As `gradient`, for any divergence."""

    def weighted(student: Tensor) -> Tensor:
        if isinstance(teacher, MostLikely):
            own, other = teacher.classes(student, temperature)
        else:
            own, other = student, teacher.detach()
        each = divergence(own, other, temperature)
        if each.shape != weight.shape or not each.requires_grad:
            raise InputError(
                "a divergence returns one loss a position, as a function of the student's logits",
                key="kd.divergence",
                got=f"shape {list(each.shape)} from logits {list(own.shape)}, "
                f"requires_grad {each.requires_grad}",
                expected=f"shape {list(weight.shape)}, requires_grad True",
                fix="sum over the vocabulary (dim -1), not over the positions; detach the teacher "
                "alone",
            )
        return (each * weight).sum()

    return _recorded(student, weighted)


def of_groups(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    temperature: float,
    groups: Groups,
    target: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `gradient`, of `Groups.distance` weighed at each group's first position."""
    first = groups.own[:-1]
    return _recorded(
        student,
        lambda own: (groups.distance(own, teacher, target, temperature) * weight[first]).sum(),
    )


def _recorded(student: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The gradient of a loss in the student's logits by autograd, and the loss."""
    student = student.detach().requires_grad_()
    with torch.enable_grad():  # the caller is a forward pass that records nothing
        found = loss(student)
    (grad,) = torch.autograd.grad(found, student)
    return grad, found.detach()


def _forward_kl(
    student: Tensor, teacher: Tensor, weight: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """sum_p weight_p T^2 KL(teacher_p || student_p): the gradient is weight T (p_s - p_t)."""
    log_s = torch.log_softmax(student.div_(temperature), -1, out=student)
    log_t = torch.log_softmax(teacher.div_(temperature), -1, out=teacher)
    p_t = log_t.exp()
    divergence = torch.linalg.vecdot(p_t, log_t.sub_(log_s))
    loss = (divergence * weight).sum() * temperature**2
    grad = log_s.exp_().sub_(p_t).mul_((weight * temperature).unsqueeze(-1))
    return grad, loss


def _reverse_kl(
    student: Tensor, teacher: Tensor, weight: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """sum_p weight_p T^2 KL(student_p || teacher_p): the gradient is weight T p_s (r - KL) of the
    log-ratios r = log p_s - log p_t, whose mean under p_s the KL is."""
    log_s = torch.log_softmax(student.div_(temperature), -1, out=student)
    log_t = torch.log_softmax(teacher.div_(temperature), -1, out=teacher)
    ratio = torch.sub(log_s, log_t, out=log_t)
    p_s = log_s.exp_()
    divergence = torch.linalg.vecdot(p_s, ratio)
    loss = (divergence * weight).sum() * temperature**2
    grad = ratio.sub_(divergence.unsqueeze(-1)).mul_(p_s)
    return grad.mul_((weight * temperature).unsqueeze(-1)), loss


_CLOSED: Mapping[Divergence, Callable[..., tuple[Tensor, Tensor]]] = {
    forward: _forward_kl,
    reverse: _reverse_kl,
}


def _forward_kl_of_classes(
    student: Tensor, teacher: MostLikely, weight: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The same over k + 1 classes. With s the student's softmax at T, r the other tokens' mass and
    p the teacher's: the gradient is weight T (s_i - p_i) for a kept token, weight T s_i (1 - p_r /
    s_r) for another."""
    s = torch.softmax(student.div_(temperature), -1, out=student)
    kept = s.gather(-1, teacher.tokens)
    others = s.scatter_(-1, teacher.tokens, 0.0)
    # Not 1 less the kept mass, of which rounding leaves nothing where the student is sure.
    rest = others.sum(-1, keepdim=True).clamp(min=_TINY)
    log_p, log_r = teacher.log_p(temperature)
    each = (log_p.exp() * (log_p - kept.clamp(min=_TINY).log())).sum(-1)
    each += (log_r.exp() * (log_r - rest.log())).squeeze(-1)
    grad = others.mul_(1 - log_r.exp() / rest).scatter_(-1, teacher.tokens, kept - log_p.exp())
    return grad.mul_((weight * temperature).unsqueeze(-1)), (each * weight).sum() * temperature**2


def bias(
    chunks: Iterable[tuple[Tensor, Tensor, MostLikely]],
    temperature: float,
    divergence: Divergence = forward,
) -> Mapping[str, float]:
    """How teaching by the most likely tokens alone changes the gradient in the student's logits.

    chunks: the student's logits [C, V], the teacher's, and what is kept of them, some positions at
    a time. Returns: `mass`, the share of the teacher's probability at this temperature that is on
    the kept tokens; `error`, the norm of the gradient's error over that of the exact gradient (of
    forward KL: softmax of student / T less softmax of teacher / T); `cosine`, between the two.
    """
    count, sums = 0, torch.zeros(5, dtype=torch.double)
    for student, teacher, kept in chunks:
        p = torch.softmax(teacher / temperature, -1)
        ones = student.new_full((len(student),), 1 / temperature)
        if divergence is forward:
            exact = torch.softmax(student / temperature, -1) - p
        else:
            exact, _ = by_autograd(student, teacher, ones, temperature, divergence)
        biased, _ = gradient(student.clone(), kept, ones, temperature, divergence)
        mass, error = p.gather(-1, kept.tokens).sum(), (biased - exact).square().sum()
        products = (one.flatten() @ exact.flatten() for one in (exact, biased))
        sums += torch.stack([mass, error, *products, biased.square().sum()]).cpu()
        count += len(student)
    mass, error, size, product, other = sums
    return {
        "mass": float(mass / count),
        "error": float((error / size).sqrt()),
        "cosine": float(product / (size * other).sqrt()),
    }
