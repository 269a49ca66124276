"""Divergences between a teacher's and a student's distributions over the next token.

    divergence(student [C, V], teacher [C, V], temperature) -> loss [C]

`student` and `teacher` are logits at C positions; the loss may be read at any scale, and the
gradient flows to the student alone. A plug-in has the same signature, and `options=` besides where
it declares any (`door.options`). It sees float32 logits, whatever the models compute in, and so
few positions at once that it may make several tensors [C, V].

With p = softmax(teacher / T), q = softmax(student / T), a built-in is T^2 times the formula in
`FORMULAS`. The factor keeps the gradient of a KL about as large at every temperature (Hinton et al.
2015); `objectives.SoftTargets` can leave it out.

Imported without torch, for a study names a divergence: tensors' own methods do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from l2kd_ray.distill.cross_entropy import inner

if TYPE_CHECKING:
    from torch import Tensor

Divergence: TypeAlias = "Callable[[Tensor, Tensor, float], Tensor]"


def forward(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """[C]: T^2 KL(p || q), which covers all of the teacher's mass (Hinton et al. 2015).

    It is T^2 (H(p, q) - H(p)). `gradients` has its gradient in closed form, and that of `reverse`.
    """
    log_q, log_p = _log_softmax(student, teacher, temperature)
    return temperature**2 * _kl(log_p, log_q)


def reverse(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """[C]: T^2 KL(q || p), which seeks the teacher's modes (Gu et al. 2024, MiniLLM)."""
    log_q, log_p = _log_softmax(student, teacher, temperature)
    return temperature**2 * _kl(log_q, log_p)


def jsd(student: Tensor, teacher: Tensor, temperature: float, *, beta: float, unit: bool) -> Tensor:
    """[C]: T^2 times the generalised Jensen-Shannon divergence (Agarwal et al. 2024, GKD).

    Raw, it vanishes as beta (1 - beta): a sweep over beta would sweep the size of the steps.
    `unit` divides by that, which tends to forward KL as beta -> 0 and to reverse KL as beta -> 1.
    """
    log_q, log_p = _log_softmax(student, teacher, temperature)
    log_m = _log_mixture(log_p, log_q, beta)
    raw = beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)
    return temperature**2 / (beta * (1 - beta) if unit else 1.0) * raw


def skew_forward(student: Tensor, teacher: Tensor, temperature: float, *, skew: float) -> Tensor:
    """[C]: T^2 KL(p || skew p + (1 - skew) q) (Ko et al. 2024, DistiLLM); forward KL at 0.

    The mixture is nowhere 0 where p is not, so the gradient is bounded where q vanishes.
    """
    log_q, log_p = _log_softmax(student, teacher, temperature)
    return temperature**2 * _kl(log_p, _log_mixture(log_p, log_q, skew))


def skew_reverse(student: Tensor, teacher: Tensor, temperature: float, *, skew: float) -> Tensor:
    """[C]: T^2 KL(q || (1 - skew) p + skew q) (Ko et al. 2024, DistiLLM); reverse KL at 0."""
    log_q, log_p = _log_softmax(student, teacher, temperature)
    return temperature**2 * _kl(log_q, _log_mixture(log_q, log_p, skew))


def tvd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """[C]: T^2 times the total variation distance, half the sum of |p - q|."""
    log_q, log_p = _log_softmax(student, teacher, temperature)
    return 0.5 * temperature**2 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def uld(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """[C]: T^2 sum |sort(p) - sort(q)|, Universal Logit Distillation (Boizard et al. 2024).

    It compares how sure two models are, not of what: 0 for any permutation of the vocabulary. The
    vocabularies may differ (`groups` has the positions of two tokenizers).
    """
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * sorted_distance(p, q)


def sorted_distance(p: Tensor, q: Tensor) -> Tensor:
    """[C]: sum |sort(p) - sort(q)| of [C, V] and [C, V'], the shorter one padded with zeros."""
    p, q = (one.sort(-1, descending=True).values for one in (p, q))
    both = min(p.shape[-1], q.shape[-1])
    shared = (p[:, :both] - q[:, :both]).abs().sum(-1)
    return shared + p[:, both:].sum(-1) + q[:, both:].sum(-1)


DIVERGENCES: Mapping[str, Callable[..., Tensor]] = {
    one.__name__: one for one in (forward, reverse, jsd, skew_forward, skew_reverse, tvd, uld)
}
"""The built-in divergences, by the names that `kd.divergence` takes."""
FORMULAS: Mapping[str, str] = {
    "forward": "KL(p || q)",
    "reverse": "KL(q || p)",
    "jsd": "beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q",
    "skew_forward": "KL(p || skew p + (1 - skew) q)",
    "skew_reverse": "KL(q || (1 - skew) p + skew q)",
    "tvd": "1/2 sum |p - q|",
    "uld": "sum |sort(p) - sort(q)|",
}
"""Their formulas without the factor T^2; p is the teacher's distribution, q the student's."""


def _log_softmax(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """[C]: KL(a || b); what a excludes is not read."""
    return inner((log_a.exp(),), (log_a - log_b,))


def _log_mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log(share a + (1 - share) b), for 0 < share < 1."""
    return (log_a + math.log(share)).logaddexp(log_b + math.log1p(-share))
