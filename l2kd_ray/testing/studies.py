"""Studies so small that a stage takes a fraction of a second: two generated tasks, two orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FRAME: Mapping[str, Any] = {
    "name": "tiny",
    "seeds": [531],
    "max_train": 16,
    "max_dev": 4,
    "max_test": 4,
    "wandb": {"mode": "disabled"},
}
_TRAIN = {"epochs": 2, "batch_size": 8, "lr": 5e-3}
_BERT = {
    "arch": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 200,
}
TINY: Mapping[str, Mapping[str, Any]] = {
    "language": {
        **_FRAME,
        "tasks": ["gen.rest", "gen.intent"],
        "student": {"arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96},
        "tokenizer": {"vocab_size": 400},
        "train": _TRAIN,
        "evaluate": {"max_new_tokens": 6},
    },
    "classifiers": {
        **_FRAME,
        "tasks": ["made.topics.a", "made.topics.b"],
        "student": {"arch": "bilstm", "embedding": 8, "hidden": 8},
        "teacher": _BERT,
        "train": {**_TRAIN, "max_length": 16},
    },
    "structures": {
        **_FRAME,
        "tasks": ["made.tags.a", "made.tags.b"],
        "student": {"arch": "bilstm", "hidden": 8, "word_size": 8, "character_size": 4},
        "train": _TRAIN,
    },
}
"""A study of each family without its methods."""


def tiny(family: str = "language", **changes: Any) -> dict[str, Any]:
    """A study file of a family as a mapping, with changes; None removes a key."""
    data = {**TINY[family], **changes}
    return {key: value for key, value in data.items() if value is not None}
