"""What the order of the tasks does, and how sure a mean over orders is.

The independent replicate is the training seed: the trials of one seed share its teachers and its
multi-task bound, so their orders are no independent draws. Means are therefore taken over the
orders of a seed first and over seeds second, and an interval rests on the spread between seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, factorial, sqrt

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.trials import train_seed

LEVEL = 0.95
WORST_SHARE = 0.2


@dataclass(frozen=True)
class Estimate:
    """A number of the study with its interval; NaN is undefined, and `note` says why, or of what
    it is an estimate."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    note: str = ""

    @property
    def bounded(self) -> bool:
        return not np.isnan(self.low)


def seed_means(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Mean of each column over the orders (and replay seeds) of each training seed."""
    return rows.groupby(rows["seed"].map(train_seed))[list(columns)].mean()


def mean_gap(rows: pd.DataFrame, column: str = "gap/abs") -> Estimate:
    """Mean of `column` over orders, then seeds, with Student's t interval on S - 1 degrees.

    `rows` are complete rows of `results` of one method and setting. The interval holds for the
    orders that ran (`note` says so where they are not all n!) and needs every seed to have run the
    same ones.
    """
    rows = rows.dropna(subset=[column])
    if rows.empty:
        return Estimate(note="no trial is complete with its multi-task score")
    means = seed_means(rows, [column])[column].to_numpy(dtype=float)
    value = float(means.mean())
    if len(means) == 1:
        return Estimate(value, note="one seed: no interval")
    runs = rows.groupby("seed")["order"].agg(lambda orders: " ".join(sorted(orders)))
    if runs.nunique() > 1:
        return Estimate(value, note="unfinished: the seeds have run different orders, no interval")
    half = float(stdtrit(len(means) - 1, (1 + LEVEL) / 2)) * means.std(ddof=1) / sqrt(len(means))
    return Estimate(value, value - half, value + half, orders_note(rows["order"]))


def orders_note(orders: pd.Series) -> str:
    """Which population of orders a mean speaks for, as text; empty where there is no order."""
    ran = sorted(set(orders) - {""})
    if not ran:
        return ""
    possible = factorial(ran[0].count(">") + 1)
    return f"all {possible} orders" if len(ran) == possible else f"{len(ran)} of {possible} orders"


def cvar(values: FloatArray, share: float = WORST_SHARE) -> float:
    """Mean of the worst (largest) `share` of the values, the last one counted in part.

    Conditional value at risk of equally likely outcomes (Rockafellar & Uryasev 2002): of 6 orders
    at 20 % the worst counts whole and the next one fifth.
    """
    if not 0 < share <= 1:
        raise ValueError(f"cvar: share is {share}; expected a fraction above 0 and up to 1")
    worst_first = np.sort(values)[::-1]
    mass = share * len(values)
    counted = ceil(mass)
    weights = np.clip(mass - np.arange(counted), 0, 1)
    return float(np.average(worst_first[:counted], weights=weights)) if counted else np.nan


def over_orders(results: pd.DataFrame) -> pd.DataFrame:
    """How robust each (method, setting) is to the order: one row each.

    Of the gap in points, each order's averaged over its seeds first so that seed noise does not
    pass for an effect of order: mean, std (ddof 1), best, worst and its order, CVaR of the worst
    20 %. Of the final scores: `opd/<task>` = max - min over orders of R[n, j] (Yoon et al. 2020),
    aopd their mean and mopd their maximum. Complete trials only; NaN where undefined.
    """
    score_columns = [name for name in results.columns if name.startswith("score/")]
    lifelong = results[results["complete"] & (results["order"] != "")]
    rows = []
    for (method, setting), group in lifelong.groupby(["method", "setting"], sort=False):
        by_order = group.groupby("order")[["gap/abs", *score_columns]].mean()
        gaps = by_order["gap/abs"].dropna()
        spread = by_order[score_columns].max() - by_order[score_columns].min()
        if len(by_order) < 2:
            spread[:] = np.nan
        rows.append(
            {
                "method": method,
                "setting": setting,
                "n_orders": len(by_order),
                "mean": gaps.mean(),
                "std": gaps.std(ddof=1),
                "best": gaps.min(),
                "worst": gaps.max(),
                "worst_order": gaps.idxmax() if len(gaps) else "",
                "cvar20": cvar(gaps.to_numpy(dtype=float)),
                "aopd": spread.mean(),
                "mopd": spread.max(),
                **{f"opd/{name.split('/')[1]}": spread[name] for name in score_columns},
            }
        )
    return pd.DataFrame(rows)
