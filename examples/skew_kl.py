"""A divergence from outside the package: skewed Kullback-Leibler.

    D(p, q) = T^2 KL(p || alpha p + (1 - alpha) q),    p the teacher's, q the student's at T

(Lee 2001, "On the effectiveness of the skew divergence for statistical language analysis"; for
distillation of language models Ko et al. 2024, DistiLLM, arXiv 2402.03898, with alpha = 0.1.) The
mixture is nowhere 0 where p is not, so the gradient stays bounded where the student's probability
vanishes. In a study file:

    kd: {divergence: ./examples/skew_kl.py:skew_kl}
    skew_kl: {alpha: 0.1}
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from l2kd_ray.door import options
from l2kd_ray.section import Section


class SkewOptions(Section):
    alpha: float = Field(0.1, gt=0, lt=1)
    """Share of the teacher in the mixture; towards 0 this is forward KL."""


@options(SkewOptions)
def skew_kl(student: Tensor, teacher: Tensor, temperature: float, options: SkewOptions) -> Tensor:
    """[C]: a loss a position, of logits [C, V]."""
    log_q = (student / temperature).log_softmax(-1)
    log_p = (teacher / temperature).log_softmax(-1)
    mixture = torch.logaddexp(log_p + math.log(options.alpha), log_q + math.log(1 - options.alpha))
    return temperature**2 * (log_p.exp() * (log_p - mixture)).sum(-1)
