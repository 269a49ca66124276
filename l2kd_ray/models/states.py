"""What goes into a classifier and comes out of it.

Shapes: B texts (or pairs) of n tokens, d width, C outputs of a task's head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Texts = Sequence[tuple[str, ...]]
"""One text each, or two each."""
WANTED = frozenset({"hidden", "attentions", "feature"})


@dataclass(frozen=True)
class Inputs:
    """A batch of texts in tokens, padded; what the tensors are is their body's matter."""

    tensors: Mapping[str, Tensor]

    def to(self, device: str) -> Inputs:
        return Inputs({name: tensor.to(device) for name, tensor in self.tensors.items()})


@dataclass(frozen=True, kw_only=True)
class States:
    """What a body says of a batch; beside `text` and `mask` only what was wanted."""

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


def check_wanted(wanted: frozenset[str], offered: frozenset[str] = WANTED) -> None:
    """Raises: ValueError where a body cannot say what is wanted."""
    if not wanted <= offered:
        raise ValueError(f"wanted is {sorted(wanted)}; there is {sorted(offered)}")


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """[B, d]: the mean over the tokens of states [B, n, d] but the first; of one token, that."""
    after = mask.clone()
    after[:, 0] &= ~mask[:, 1:].any(1)
    total = states.masked_fill(~after.unsqueeze(-1), 0.0).sum(1)
    return total / after.sum(1, keepdim=True)


def check_texts(texts: Texts) -> bool:
    """Whether the texts are pairs. Raises: ValueError where some are and some are not."""
    (number,) = sizes if len(sizes := {len(parts) for parts in texts}) == 1 else (0,)
    if number not in (1, 2):
        raise ValueError(f"a batch holds texts or pairs, not entries of {sorted(sizes)} texts")
    return number == 2
