"""How much of some examples did not fit into a model: stages count it among their scores."""

from __future__ import annotations

from collections.abc import Iterable

PREFIX = "cut/"


def cut_scores(contexts: Iterable[int], answers: Iterable[int] = ()) -> dict[str, float]:
    """The number of examples that are cut, and of the tokens (or words) that they lose.

    Args:
        contexts: the tokens by which each example's input is too long; 0 or less if it fits.
        answers: the same of each example's answer.
    """
    counts: dict[str, float] = {}
    for part, excess in (("context", contexts), ("answer", answers)):
        lost = [int(n) for n in excess if n > 0]
        counts |= {f"{PREFIX}{part}s": len(lost), f"{PREFIX}{part}_tokens": sum(lost)}
    return counts
