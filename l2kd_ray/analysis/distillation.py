"""The gain of distillation: students with teachers against those without."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from l2kd_ray.analysis.design import ArmId, Instance, arms_of
from l2kd_ray.analysis.paired import compare_methods
from l2kd_ray.analysis.scope import Scope
from l2kd_ray.analysis.shares import BASELINE

Published = Mapping[str, Mapping[str, Any]]
"""By arm, the published values of some settings, by dotted name."""


def gains(
    scope: Scope,
    arms: pd.DataFrame,
    every: pd.DataFrame,
    taught: Collection[str],
    published: Published,
    failed: Collection[Instance] = (),
    *,
    stopping: bool = False,
) -> pd.DataFrame:
    """Arms with teachers, at the selected and at the published setting, against the control.

    The control is LAMOL, or the only arm without teachers; no row where there is neither.

    Args:
        arms: the selected rows of `compare`.
        every: the rows of all settings of `compare`.
        taught: the methods with teachers.
        published: see `Published`; used where the search is over such settings alone.

    Returns:
        The rows of `compare_methods`, `difference` negative where distillation narrows the gap;
        selected, published (bool): which of its settings the row is of.
    """
    control = None if arms.empty else _control(arms, taught)
    if control is None:
        return pd.DataFrame()
    own = arms[arms["method"].isin(taught)]
    chosen: dict[ArmId, tuple[bool, bool]] = {}
    for arm in arms_of(own):
        method, setting = arm
        wanted = published.get(method, {})
        tried = every.loc[every["method"] == method, "setting"]
        theirs = next((one for one in tried if _agrees(one, wanted)), None)
        chosen[arm] = True, setting == theirs
        if theirs is not None and theirs != setting:
            chosen[method, theirs] = False, True
    pairs = [(arm, control) for arm in chosen]
    found = compare_methods(
        scope.results, [control, *chosen], scope.design, failed, stopping=stopping, pairs=pairs
    )
    found["selected"] = [selected for selected, _ in chosen.values()]
    found["published"] = [theirs for _, theirs in chosen.values()]
    return found


def _control(arms: pd.DataFrame, taught: Collection[str]) -> ArmId | None:
    free = arms[~arms["method"].isin(taught)]
    named = free[free["method"] == BASELINE]
    rows = named if len(named) else free
    return arms_of(rows)[0] if len(rows) == 1 else None


def _agrees(setting: str, published: Mapping[str, Any]) -> bool:
    """True if a searched setting (JSON) names published settings alone, and has their values."""
    values = json.loads(setting)
    return bool(values) and values.items() <= published.items()
