"""Examples of a reader, without the counts of its other rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from l2kd_ray.tasks import Example
from l2kd_ray.tasks.examples import Row


def read(
    reader: Callable[[str, Mapping[str, str]], Iterable[Row]],
    location: str,
    options: Mapping[str, str] | None = None,
) -> list[Example]:
    return [row for row in reader(location, options or {}) if isinstance(row, Example)]
