"""The effect of the task order: spreads over orders, and the mean over the orders that ran.

The independent replicate is the training seed: the trials of one seed share its teachers and its
multi-task bound, so their orders are no independent draws. Means are therefore taken over the
orders of a seed first and over seeds second, and an interval rests on the spread between seeds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from l2kd_ray.analysis.anova import components, mean_products
from l2kd_ray.analysis.design import ArmId, Design, cells, mean_over
from l2kd_ray.analysis.estimate import LEVEL, Estimate
from l2kd_ray.analysis.note import Caveat, NoInterval, Note, Undefined
from l2kd_ray.analysis.trials import train_seed
from l2kd_ray.analysis.worst import cvar, orders_beyond_worst, quantile_bound


def seed_means(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Mean of each column over the orders (and replay seeds) of each training seed."""
    return rows.groupby(rows["seed"].map(train_seed))[list(columns)].mean()


def implied_design(rows: pd.DataFrame) -> Design:
    """The design inferred from the rows alone: all orders, or a list of those that ran."""
    orders, seeds = (tuple(sorted(set(rows[name]))) for name in ("order", "seed"))
    design = Design("list", orders, seeds)
    return Design("all", orders, seeds) if len(orders) == design.possible else design


def mean_gap(
    rows: pd.DataFrame,
    column: str = "gap/abs",
    design: Design | None = None,
    level: float | None = LEVEL,
) -> Estimate:
    """Mean of `column` over orders, then seeds, with its interval (`design.mean_over`).

    `rows` are complete rows of `results` of one method and setting. Without a design the interval
    holds for the orders that ran (listed in `note` if they are not all n!) and needs every seed
    to have run the same ones.
    """
    rows = rows.dropna(subset=[column])
    if rows.empty:
        return Estimate(note=Note(undefined=Undefined.NO_COMPLETE_TRIAL))
    rows = rows.assign(complete=True)
    if design is not None:
        return mean_over(rows, design, design.orders, column, level)
    runs = rows.groupby("seed")["order"].agg(lambda orders: " ".join(sorted(orders)))
    if runs.nunique() > 1:
        value = float(seed_means(rows, [column])[column].mean())
        alone = rows["seed"].map(train_seed).nunique() == 1
        why = NoInterval.ONE_SEED if alone else NoInterval.SEEDS_DIFFER
        return Estimate(value, note=Note(no_interval=why))
    design = implied_design(rows)
    return mean_over(rows, design, design.orders, column, level)


def over_orders(
    results: pd.DataFrame,
    design: Design | None = None,
    arms: Collection[ArmId] | None = None,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Robustness to the task order: one row for each method and setting.

    The gap in points has mean, std (ddof 1), `std_order` (the same with the noise that is left of
    the seeds taken off, `anova`), best, worst and its order, CVaR of the worst 20 %; each order is
    averaged over its seeds first, so that seed noise does not pass for an effect of order. The
    final scores have `opd/<task>` = max - min over orders of R[n, j] (Yoon et al. 2020), aopd their
    mean and mopd their maximum. Complete trials only; NaN where undefined.

    A spread grows with the number of orders and shrinks with that of seeds, so those of `arms`
    (default: all) are over the orders that every one of them has complete on every seed; where
    there are none, over each arm's own instances, and `note` is `Caveat.NOT_COMPARABLE`.

    Where orders were drawn at random, the largest seen is not the worst there is: at most `beyond`
    (a share of all n! orders) are worse, and the worst 20 % begin below `bound20`, both at `level`
    (`worst`), for the mean over these seeds.
    """
    score_columns = [name for name in results.columns if name.startswith("score/")]
    lifelong = results[results["complete"] & (results["order"] != "")]
    if lifelong["gap/abs"].notna().any():
        lifelong = lifelong[lifelong["gap/abs"].notna()]
    if arms is not None:
        keys = pd.MultiIndex.from_tuples(list(arms), names=["method", "setting"])
        lifelong = lifelong[pd.MultiIndex.from_frame(lifelong[["method", "setting"]]).isin(keys)]
    groups = dict(iter(lifelong.groupby(["method", "setting"], sort=False)))
    seeds = len(design.seeds) if design else lifelong["seed"].nunique()
    whole = lifelong.groupby("order")["gap/abs"].transform("size") == len(groups) * seeds
    apart = not whole.any()
    rows = []
    for (method, setting), group in groups.items():
        own = group if apart else group[whole[group.index]]
        spread = _spread(own, score_columns, None if apart else design, level)
        note = Caveat.NOT_COMPARABLE if apart and len(groups) > 1 else None
        rows.append({"method": method, "setting": setting, **spread, "note": note})
    return pd.DataFrame(rows)


def _spread(
    rows: pd.DataFrame, score_columns: Sequence[str], design: Design | None, level: float
) -> dict[str, object]:
    by_order = rows.groupby("order")[["gap/abs", *score_columns]].mean()
    gaps = by_order["gap/abs"].dropna()
    spread = by_order[score_columns].max() - by_order[score_columns].min()
    if len(by_order) < 2:
        spread[:] = np.nan
    values = gaps.to_numpy(dtype=float)
    beyond, bound = np.nan, np.nan
    # Without an order that failed, what is left is no such sample.
    drawn = design is not None and set(by_order.index) == {*design.orders[: len(by_order)]}
    if design is not None and design.sampled and drawn and len(values):
        beyond = orders_beyond_worst(len(values), design.tasks, level) / design.possible
        bound = quantile_bound(values, design.tasks, level=level)
    return {
        "n_orders": len(by_order),
        "n_seeds": rows["seed"].map(train_seed).nunique(),
        "mean": gaps.mean(),
        "std": gaps.std(ddof=1),
        "std_order": _std_of_orders(rows, design),
        "best": gaps.min(),
        "worst": gaps.max(),
        "worst_order": gaps.idxmax() if len(gaps) else "",
        "cvar20": cvar(values),
        "beyond": beyond,
        "bound20": bound,
        "aopd": spread.mean(),
        "mopd": spread.max(),
        **{f"opd/{name.split('/')[1]}": spread[name] for name in score_columns},
    }


def _std_of_orders(rows: pd.DataFrame, design: Design | None) -> float:
    """Root of the order component; NaN where a cell is missing or there is one order or seed."""
    if rows.empty or rows["gap/abs"].isna().any():
        return np.nan
    found = implied_design(rows)
    table = cells(rows, "gap/abs", found.orders, found.seeds).by_seed
    if min(table.shape) < 2 or np.isnan(table).any():
        return np.nan
    population = design.population(len(table)) if design else found.population(len(table))
    value = components(mean_products(table, table), table.shape, population)[(0,)]
    return float(np.sqrt(max(float(value), 0.0)))
