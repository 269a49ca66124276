"""What goes into a classifier, and what it may be asked for."""

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


def check_wanted(wanted: frozenset[str], offered: frozenset[str] = WANTED) -> None:
    """Raises: ValueError where a body cannot say what is wanted."""
    if not wanted <= offered:
        raise ValueError(f"wanted is {sorted(wanted)}; there is {sorted(offered)}")


def check_texts(texts: Texts) -> bool:
    """Whether the texts are pairs. Raises: ValueError where some are and some are not."""
    (number,) = sizes if len(sizes := {len(parts) for parts in texts}) == 1 else (0,)
    if number not in (1, 2):
        raise ValueError(f"a batch holds texts or pairs, not entries of {sorted(sizes)} texts")
    return number == 2
