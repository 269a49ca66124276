"""The vocabulary of a pretrained or trained tokenizer."""

from __future__ import annotations

from typing import Any


def vocabulary_size(tokenizer: Any) -> int:
    """How many rows a model's embedding needs: ids may have gaps."""
    ids: dict[str, int] = tokenizer.get_vocab()
    return 1 + max(ids.values())
