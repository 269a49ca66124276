"""Outputs of a classifier for a batch of texts.

Shapes: B texts (or pairs) of n tokens, d width, C outputs of a task's head.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class States:
    """Outputs of a classifier's body; beside `text` and `mask` only the requested ones are set."""

    text: Tensor
    """[B, w]: what the heads read."""
    mask: Tensor
    """[B, n]: True on tokens."""
    hidden: list[Tensor] | None = None
    """[B, n, d] each, the embeddings first."""
    attentions: list[Tensor] | None = None
    """[B, heads, n, n] a layer, after the softmax."""
    feature: Tensor | None = None
    """h [B, d]: the masked mean of the last states without the first token (Meta-KD)."""


@dataclass(frozen=True, kw_only=True)
class Outputs(States):
    logits: Tensor
    """[B, C]."""


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """[B, d]: the mean over the tokens of states [B, n, d] but the first; of one token, that."""
    after = mask.clone()
    after[:, 0] &= ~mask[:, 1:].any(1)
    total = states.masked_fill(~after.unsqueeze(-1), 0.0).sum(1)
    return total / after.sum(1, keepdim=True)
