"""Domain corruption (Meta-KD, Pan et al., ACL 2021): features with the text's domain removed.

    h_d = tanh((h + E_D[z]) W + b),   domain logits  h_d V + c

for a text of domain z, trained against *false* domains so that h_d keeps what domains share.
Averaged over permutations, a false domain carries no information but the batch's domain
frequencies: the loss asks for domain logits that are alike for all texts, and a head that ignores h
reaches the optimum as well.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DomainCorruption(nn.Module):
    """The transform of text features h [B, d]: E_D [K, d], W [d, d], V [d, K] for K domains."""

    def __init__(self, domains: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(domains, width)
        self.transform = nn.Linear(width, width)
        self.classifier = nn.Linear(width, domains)

    def forward(self, h: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        """The transferable features h_d [B, d], and the domain logits [B, K]."""
        feature = torch.tanh(self.transform(h + self.embedding(domain)))
        return feature, self.classifier(feature)


def false_domains(domain: Tensor, random: np.random.Generator) -> Tensor:
    """[B]: the batch's domains, permuted; some may keep their position."""
    return domain[torch.from_numpy(random.permutation(len(domain))).to(domain.device)]


def corruption_loss(logits: Tensor, false_domain: Tensor) -> Tensor:
    """[B]: cross-entropy of the domain logits [B, K] with false domains [B]."""
    return F.cross_entropy(logits, false_domain, reduction="none")
