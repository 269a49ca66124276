"""The descriptions of tasks that come with this package as YAML files."""

from __future__ import annotations

from importlib.resources import files
from typing import TypeVar

import yaml
from pydantic import TypeAdapter

T = TypeVar("T")


def read(name: str, of: type[T]) -> dict[str, T]:
    """The descriptions in a file, by the name of their task."""
    text = files("l2kd_ray.tasks").joinpath(name).read_text(encoding="utf-8")
    # libyaml's loader is ten times as fast, and not in every build of PyYAML.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return TypeAdapter(dict[str, of]).validate_python(yaml.load(text, loader))  # type: ignore[valid-type]
