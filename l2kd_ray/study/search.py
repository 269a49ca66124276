"""The settings that a study tries: points of its grid, and seeded draws from its ranges."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from itertools import product
from typing import Any

import numpy as np

from l2kd_ray.study.schema import StudyConfig
from l2kd_ray.study.sections import Grid, Range

Setting = Mapping[str, Any]


def setting_id(setting: Setting) -> str:
    """The form of a setting in the result files: JSON with sorted keys, `{}` for none."""
    return json.dumps(dict(setting), sort_keys=True)


def without(setting: Setting, keys: Collection[str]) -> Setting:
    """The setting with some of its keys left at the study's own values."""
    return {key: value for key, value in setting.items() if key not in keys}


def settings_of(config: StudyConfig, keys: Collection[str] | None = None) -> list[Setting]:
    """All settings of a grid or random search of some keys (default: all that are searched); one
    empty setting if nothing is searched.

    The `num_samples` draws of the ranges are the same at every point of the grid, so that points of
    the grid are compared on equal draws.
    """
    search = {k: space for k, space in config.search.items() if keys is None or k in keys}
    grids = {key: space for key, space in search.items() if isinstance(space, Grid)}
    ranges = {key: space for key, space in search.items() if isinstance(space, Range)}
    points = [
        dict(zip(grids, values, strict=True))
        for values in product(*(space.grid for space in grids.values()))
    ]
    count = config.tune.num_samples if ranges else 1
    draws = [
        {key: _draw(space, _stream(config.tune.seed, key, number)) for key, space in ranges.items()}
        for number in range(count)
    ]
    return [{**point, **draw} for draw in draws for point in points]


def _stream(seed: int, key: str, number: int) -> np.random.Generator:
    """The random stream of a key's name and a draw's number: other keys do not change it."""
    return np.random.default_rng([seed, number, *key.encode()])


def _draw(space: Range, stream: np.random.Generator) -> Any:
    if space.uniform is not None:
        return float(stream.uniform(*space.uniform))
    if space.loguniform is not None:
        low, high = np.log(space.loguniform)
        return float(np.exp(stream.uniform(low, high)))
    if space.randint is not None:
        return int(stream.integers(*space.randint))
    choices = space.choice or ()
    return choices[int(stream.integers(len(choices)))]
