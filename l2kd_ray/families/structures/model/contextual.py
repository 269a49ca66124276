"""Word vectors in context: a BiLSTM or a Transformer over the vectors of a sentence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from l2kd_ray.distill.structured.structure import valid_positions


class BiLSTMEncoder(nn.Module):
    """A BiLSTM with `size` states in each direction (Graves and Schmidhuber 2005)."""

    def __init__(self, width: int, size: int, layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(
            width, size, layers, dropout=between, bidirectional=True, batch_first=True
        )
        self.width = 2 * size

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            vectors, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=vectors.shape[1]
        )
        return states


class Transformer(nn.Module):
    """Pre-norm Transformer layers of width `size` (Vaswani et al. 2017), sinusoidal positions."""

    def __init__(self, width: int, size: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        # Positions need an even size (sines and cosines), attention a multiple of `heads`.
        if size % (2 * heads):
            raise ValueError(f"hidden is {size}, and must be a multiple of 2 * heads = {2 * heads}")
        self.project = nn.Linear(width, size)
        layer = nn.TransformerEncoderLayer(
            size, heads, 4 * size, dropout, batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(size)
        self.encoder = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)
        self.width = size

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.project(vectors)
        hidden = hidden + _positions(hidden.shape[1], self.width).to(hidden)
        padding = ~valid_positions(lengths, hidden.shape[1])
        states: Tensor = self.encoder(hidden, src_key_padding_mask=padding)
        return states


class Unchanged(nn.Module):
    """No body, for features in context such as those of a pretrained encoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        return vectors


def _positions(n: int, size: int) -> Tensor:
    """[n, size]: sines, then cosines, of wavelengths from 2 pi to 10,000 times that."""
    rates = 10_000.0 ** -(torch.arange(0, size, 2) / size)
    angles = torch.arange(n)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)
