"""The maxout head of the bi-attentive classifier (McCann et al. 2017; Goodfellow et al. 2013)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class Maxout(nn.Module):
    """Three layers of widths w / 2, w / 4 and C; each unit is the largest of `pool` linear ones.

    As AllenNLP's: dropout between the layers, and no batch normalisation, by which an example's
    logits would depend on the batch (and on how it is split among workers).
    """

    def __init__(self, width: int, outputs: int, pool: int, dropout: float) -> None:
        super().__init__()
        widths = (width, width // 2, width // 4, outputs)
        self.layers = nn.ModuleList(
            nn.Linear(inner, pool * outer) for inner, outer in pairwise(widths)
        )
        self.pool, self.dropout = pool, nn.Dropout(dropout)

    def forward(self, text: Tensor) -> Tensor:
        """The logits [B, C] of text vectors [B, w]."""
        for number, layer in enumerate(self.layers):
            units = layer(self.dropout(text) if number else text)
            text = units.unflatten(-1, (-1, self.pool)).amax(-1)
        return text
