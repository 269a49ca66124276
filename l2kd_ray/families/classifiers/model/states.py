"""The inputs of a classifier, and the names of the states that it can return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Texts = Sequence[tuple[str, ...]]
"""A batch of single texts (tuples of one) or of pairs (tuples of two)."""
_WANTED = frozenset({"hidden", "attentions", "feature"})


@dataclass(frozen=True)
class TokenizedTexts:
    """A padded batch of tokenized texts; the body that made the tensors knows their names."""

    tensors: Mapping[str, Tensor]

    def to(self, device: str) -> TokenizedTexts:
        return TokenizedTexts({name: tensor.to(device) for name, tensor in self.tensors.items()})


def check_wanted(wanted: frozenset[str], offered: frozenset[str] = _WANTED) -> None:
    """Raises ValueError if `wanted` holds anything that a body does not offer."""
    if not wanted <= offered:
        raise ValueError(f"wanted is {sorted(wanted)}; this body offers {sorted(offered)}")


def check_texts(texts: Texts) -> bool:
    """True if the texts are pairs. Raises: ValueError for a mixture of pairs and single texts."""
    sizes = {len(parts) for parts in texts}
    if sizes not in ({1}, {2}):
        raise ValueError(f"a batch holds texts or pairs, not entries of {sorted(sizes)} texts")
    return sizes == {2}
