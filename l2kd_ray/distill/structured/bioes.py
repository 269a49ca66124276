"""BIOES tags and the labelled spans they spell: one legal tag sequence for each set of spans.

With R types there are 4R + 1 tags: 0 is O, and tag 1 + 4 r + k is B, I, E or S of type r.
"""

from __future__ import annotations

import torch
from torch import Tensor

BEGIN, INSIDE, END, SINGLE_WORD = range(4)


def tag_names(types: list[str]) -> list[str]:
    """The tags in order: O, B-first, I-first, E-first, S-first, B-second ..."""
    return ["O", *(f"{prefix}-{name}" for name in types for prefix in "BIES")]


def constraints(types: int) -> tuple[Tensor, Tensor, Tensor]:
    """(transitions [L, L], start [L], end [L]): 0 where BIOES allows it, -inf elsewhere."""
    tag = torch.arange(4 * types + 1) - 1
    outside = tag < 0
    kind, part = tag.div(4, rounding_mode="floor"), tag.remainder(4)
    opens = ~outside & ((part == BEGIN) | (part == INSIDE))  # the span goes on after this tag
    continues = ~outside & ((part == INSIDE) | (part == END))  # it began before this tag
    same = opens[:, None] & continues & (kind[:, None] == kind)
    legal = same | (~opens[:, None] & ~continues)
    return _log(legal), _log(~continues), _log(~opens)


def _log(legal: Tensor) -> Tensor:
    return torch.where(legal, 0.0, -torch.inf)
