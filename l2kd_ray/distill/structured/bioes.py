"""BIOES tags and the labelled spans they spell: one legal tag sequence for each set of spans.

With R types there are 4R + 1 tags: 0 is O, and tag 1 + 4 r + k is B, I, E or S of type r.
"""

from __future__ import annotations

BEGIN, INSIDE, END, SINGLE_WORD = range(4)


def tag_names(types: list[str]) -> list[str]:
    """The tags in order: O, B-first, I-first, E-first, S-first, B-second ..."""
    return ["O", *(f"{prefix}-{name}" for name in types for prefix in "BIES")]
