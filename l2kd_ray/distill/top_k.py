"""The k tokens a teacher finds most likely, and one class for all the others.

Smaller than hidden states where the teacher is wide, and no output layer of the teacher is needed.
But it is biased, the more so the softer the teacher: what it says among the other tokens is lost,
and how much of its mass they have at a temperature is only estimated. `gradients.bias` says by how
much.

Shapes: K positions, k tokens kept, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MostLikely:
    """tokens [K, k], their logits [K, k], log-sum-exp of the other logits [K]; how many others."""

    tokens: Tensor
    logits: Tensor
    rest: Tensor
    others: int

    @classmethod
    def of(cls, logits: Tensor, k: int) -> MostLikely:
        """Select from a teacher's logits [K, V]; k is below V."""
        best = logits.topk(k, dim=-1)
        rest = logits.scatter(-1, best.indices, -torch.inf).logsumexp(-1)
        return cls(best.indices, best.values, rest, logits.shape[-1] - k)

    def __getitem__(self, part: slice) -> MostLikely:
        return MostLikely(self.tokens[part], self.logits[part], self.rest[part], self.others)

    def log_p(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the kept tokens [K, k] and of all others together [K, 1].

        The others' mass at a temperature is that of equally likely ones: exact at T = 1.
        """
        kept, each = self.logits / temperature, self.rest - math.log(self.others)
        rest = (each / temperature + math.log(self.others)).unsqueeze(-1)
        total = torch.cat([kept, rest], dim=-1).logsumexp(-1, keepdim=True)
        return kept - total, rest - total

    def classes(self, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Logits [K, k + 1] of student and teacher, for a divergence over the k + 1 classes.

        Their softmax at this temperature is the classes' distribution. student: logits [K, V].
        """
        log_s = (student / temperature).log_softmax(-1)
        others = log_s.scatter(-1, self.tokens, -torch.inf).logsumexp(-1, keepdim=True)
        own = torch.cat([log_s.gather(-1, self.tokens), others], dim=-1)
        return temperature * own, temperature * torch.cat(self.log_p(temperature), dim=-1)
