"""Divergences between a teacher's and a student's distributions over the next token.

    divergence(student [C, V], teacher [C, V], temperature) -> loss [C]

`student` and `teacher` are logits at C positions; the loss may be read at any scale, and the
gradient flows to the student alone. A plug-in has the same signature, and `options=` besides where
it declares any (`door.options`). It sees float32 logits, whatever the models compute in, and so
few positions at once that it may make several tensors [C, V].

Imported without torch, for a study names a divergence: tensors' own methods do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from l2kd_ray.distill.cross_entropy import structural_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

Divergence: TypeAlias = "Callable[[Tensor, Tensor, float], Tensor]"


def forward(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """[C]: T^2 KL(p_teacher || p_student) of softmax(logits / T) (Hinton et al. 2015).

    It is T^2 (H(p_t, p_s) - H(p_t)). `gradients` has its gradient in closed form.
    """
    log_s = (student / temperature).log_softmax(-1)
    log_t = (teacher / temperature).log_softmax(-1)
    return temperature**2 * structural_cross_entropy((log_t.exp(),), (log_s - log_t,))


DIVERGENCES: Mapping[str, Divergence] = {"forward": forward}
"""The built-in divergences, by the names that `kd.divergence` takes."""
