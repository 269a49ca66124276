"""Configs of transformers models from the fields of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

UNLIMITED = 2**20
"""Length in tokens of what an architecture without a limit reads."""
_PADDED_POSITIONS = (
    "roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "longformer", "data2vec-text", "ibert",
    "luke", "roberta-prelayernorm", "xmod",
)  # fmt: skip
"""Types of model whose positions are counted from the padding token's id + 1."""


def position_limit(config: Any) -> int | None:
    """The longest sequence that a config allows, in tokens; None if it states no limit."""
    text = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    limits = (getattr(text, name, None) for name in names)
    limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    if limit is not None and text.model_type in _PADDED_POSITIONS:
        limit -= text.pad_token_id + 1
    if limit is not None and text.model_type == "mpnet":
        limit -= 2  # counted from 2, whatever the padding token's id is
    return limit


def config_of(arch: str, fields: Mapping[str, Any], known: Iterable[str], kind: str) -> Any:
    """The transformers config of `arch`, which must be one of `known` (architectures of a `kind`).

    Raises: ValueError: unknown architecture, or a field that its config does not have.
    """
    from transformers import AutoConfig

    names = list(known)
    if arch not in names:
        near = ", ".join(get_close_matches(arch, names, n=3)) or ", ".join(names[:3])
        raise ValueError(f"no such {kind} architecture: {arch}; did you mean one of {near}?")
    default = AutoConfig.for_model(arch)
    for name in fields:
        if name not in default.attribute_map and not hasattr(default, name):
            raise ValueError(f"the config of {arch} has no field {name}")
    return AutoConfig.for_model(arch, **fields)
