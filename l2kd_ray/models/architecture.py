"""Model configs from a study's fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


def config_of(arch: str, fields: Mapping[str, Any], known: Iterable[str], kind: str) -> Any:
    """The transformers config of an architecture, one of `known`, which all are of a `kind`.

    Raises: ValueError: no such architecture, or a field that its config has not.
    """
    from transformers import AutoConfig

    names = list(known)
    if arch not in names:
        near = ", ".join(get_close_matches(arch, names, n=3)) or ", ".join(names[:3])
        raise ValueError(f"no such {kind} architecture; there is {near}")
    default = AutoConfig.for_model(arch)
    for name in fields:
        if name not in default.attribute_map and not hasattr(default, name):
            raise ValueError(f"a {arch} config has no field {name}")
    return AutoConfig.for_model(arch, **fields)
