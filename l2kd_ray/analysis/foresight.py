"""The precision that a planned study will have, from a pilot or from given variances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from l2kd_ray.analysis.advice import expected
from l2kd_ray.analysis.components import decompose
from l2kd_ray.analysis.design import ArmId, Cells, Design
from l2kd_ray.analysis.estimate import LEVEL, Moments, simultaneous
from l2kd_ray.analysis.scope import Scope
from l2kd_ray.analysis.trials import train_seed

_COMPONENTS = {"order": "order", "seed": "seed", "both": "order x seed"}
GIVEN = tuple(_COMPONENTS)
"""The standard deviations that `foresee_given` takes."""


@dataclass(frozen=True)
class Foresight:
    """Expected precision of a design, in points; the widest of its methods, or pairs of them."""

    half_width: float
    """Half the width of the interval of a method's mean gap."""
    detectable: float
    """Difference of two methods that is told from 0 with 80 % power, all pairs together; NaN for
    one method."""
    pilot: tuple[int, int] | None
    """Orders and seeds of the pilot; None where the variances were given."""


def foresee_given(stds: Mapping[str, float], methods: int, design: Design) -> Foresight:
    """The expected precision of `design` for standard deviations `order`, `seed` and `both` (order
    x seed) of a gap, in points; those not named are 0. Differences of methods are taken to have the
    same: less where a seed or an order moves all methods alike.

    NaN for one seed.
    """
    variances = {_COMPONENTS[name]: std**2 for name, std in stds.items()}
    found = _expected(dict.fromkeys(_COMPONENTS.values(), 0.0) | variances, design)
    pairs = methods * (methods - 1) // 2
    detectable = found.detectable(simultaneous(LEVEL, pairs) or LEVEL) if pairs else np.nan
    return Foresight(float(found.half_width()), detectable, None)


def foresee(results: pd.DataFrame, arms: Sequence[ArmId], design: Design) -> Foresight | None:
    """The expected precision of `design`, from the orders that all arms have on every seed.

    None with fewer than two orders or seeds, of which the variance cannot be split. The pilot's own
    variances are estimates, so that a pilot of two or three seeds foretells roughly.
    """
    scope = Scope.of(results, arms, None)
    cells = [scope.cells(arm) for arm in arms]
    alone = [_moments(one, design) for one in cells]
    size = cells[0].values.shape if cells else (0, 0)
    if min(size[:2]) < 2 or any(one is None for one in alone):
        return None
    pairs = list(combinations(cells, 2))
    apart = [_moments(replace(a, values=a.values - b.values), design) for a, b in pairs]
    level = simultaneous(LEVEL, len(pairs)) or LEVEL
    return Foresight(
        max(float(one.half_width()) for one in alone if one),
        max((one.detectable(level) for one in apart if one), default=np.nan),
        size[:2],
    )


def _moments(found: Cells, design: Design) -> Moments | None:
    """The expected variance of the mean over the design, of the components of `found`."""
    parts = decompose(found.averaged, max(design.possible, len(found.orders)))
    if parts.empty:
        return None
    return _expected(dict(zip(parts["component"], parts["variance"], strict=True)), design)


def _expected(variances: Mapping[str, float], design: Design) -> Moments:
    planned, seeds = len(design.orders), len(set(map(train_seed, design.seeds)))
    return expected(variances, planned, seeds, design.population(planned))
