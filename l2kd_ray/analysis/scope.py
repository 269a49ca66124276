"""The orders that sections on orders and seeds may read, and the frames that they show.

Every frame has one row or more for each selected method, named by method and setting.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from l2kd_ray.analysis.advice import Advice, advise
from l2kd_ray.analysis.assisted import assisted
from l2kd_ray.analysis.components import decompose
from l2kd_ray.analysis.design import ArmId, Cells, Design, Instance, cells, finished_orders, of_arm
from l2kd_ray.analysis.estimate import LEVEL
from l2kd_ray.analysis.looks import Reading, reading
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import moments
from l2kd_ray.analysis.orders import implied_design
from l2kd_ray.analysis.places import mean_by, task_rows
from l2kd_ray.analysis.precedence import enough_orders, precedence_map
from l2kd_ray.analysis.shares import GAP
from l2kd_ray.analysis.trials import ScoredTrial, train_seed

_PLACES = [
    *("task", "place", "gap", "gap/low", "gap/high", "score", "learned"),
    *("forgetting", "forgetting/low", "forgetting/high", "n_orders"),
]
_CLAIMS = ("low", "high", "p", "p_holm")
"""Last parts of the names of columns that claim something with a level."""


@dataclass(frozen=True)
class Scope:
    """The orders that every selected method has finished on every seed, as far as may be read."""

    design: Design
    arms: tuple[ArmId, ...]
    """The selected setting of each method, by gap."""
    orders: tuple[str, ...]
    reading: Reading
    results: pd.DataFrame

    @staticmethod
    def of(
        results: pd.DataFrame,
        arms: Sequence[ArmId],
        design: Design | None,
        failed: Collection[Instance] = (),
        *,
        stopping: bool = False,
    ) -> Scope:
        """Without a design, the orders that every method has complete stand for themselves."""
        design = design or _implied(results, arms)
        orders = finished_orders(results, arms, design, failed)
        now = Reading(0, None)
        if design.orders:
            now = reading(len(orders), len(design.orders), stopping=stopping)
        return Scope(design, tuple(arms), orders[: now.orders], now, results)

    @property
    def level(self) -> float:
        """Level of the intervals; that of a finished study where none may be shown yet."""
        return self.reading.level or LEVEL

    def rows(self, arm: ArmId) -> pd.DataFrame:
        """The complete trials of an arm that have a gap, whether or not they are used."""
        own = of_arm(self.results, arm)
        return own[own["complete"] & own[GAP].notna()]

    def cells(self, arm: ArmId, column: str = GAP) -> Cells:
        """The used orders of an arm that have every cell, so without those with a failed trial."""
        return cells(self.rows(arm), column, self.orders, self.design.seeds).whole

    def each(self, frame: Callable[[ArmId], pd.DataFrame]) -> pd.DataFrame:
        """The frames of all arms as one; without intervals and p before the first planned look."""
        found = []
        for arm in self.arms:
            own = frame(arm)
            if self.reading.level is None:
                own[[name for name in own if name.rpartition("/")[2] in _CLAIMS]] = np.nan
            own.insert(0, "method", arm[0])
            own.insert(1, "setting", arm[1])
            found.append(own)
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _implied(results: pd.DataFrame, arms: Sequence[ArmId]) -> Design:
    chosen = pd.MultiIndex.from_frame(results[["method", "setting"]]).isin(list(arms))
    rows = results[chosen & results["complete"] & results[GAP].notna()]
    wanted = len(arms) * rows["seed"].nunique()
    whole = rows[rows.groupby("order")["trial"].transform("size") == wanted]
    if len(whole):
        return implied_design(whole)
    return Design("list", (), tuple(sorted(set(rows["seed"]))))


def by_order(scope: Scope) -> pd.DataFrame:
    """The mean gap of every order that ran: order, gap, low, high, n_seeds.

    The interval is of the order's mean over seeds, by itself; none where a seed is missing, nor
    of an order beyond the ones that may be read yet.
    """

    def of(arm: ArmId) -> pd.DataFrame:
        rows = scope.rows(arm)
        seed = rows["seed"].map(train_seed)
        means = rows.groupby(["order", seed])[GAP].mean().groupby("order")
        frame = means.agg(["mean", "size"]).set_axis(["gap", "n_seeds"], axis=1)
        read = [order for order in scope.orders if order in frame.index]
        found = cells(rows, GAP, read, scope.design.seeds).whole
        by_seed = found.by_seed[:, None, :]  # each order a table of its own
        width = moments(by_seed, 1).half_width(scope.level) if by_seed.size else np.empty(0)
        half = pd.Series(width, index=found.orders, dtype=float).reindex(frame.index)
        frame["low"], frame["high"] = frame["gap"] - half, frame["gap"] + half
        return frame[["gap", "low", "high", "n_seeds"]].rename_axis("order").reset_index()

    return scope.each(of)


def by_seed(scope: Scope) -> pd.DataFrame:
    """The mean gap of every training seed over the used orders: seed, gap.

    The interval of a mean gap over all orders is Student's over these numbers.
    """

    def of(arm: ArmId) -> pd.DataFrame:
        found = scope.cells(arm)
        means = found.by_seed.mean(axis=0) if len(found.orders) else np.empty(0)
        return pd.DataFrame({"seed": found.train[: len(means)], "gap": means})

    return scope.each(of)


def variance(scope: Scope) -> pd.DataFrame:
    """`decompose` of every method."""

    def of(arm: ArmId) -> pd.DataFrame:
        found = scope.cells(arm)
        return decompose(found, scope.design.population(len(found.orders)), scope.level)

    return scope.each(of)


def advice(scope: Scope, arm: ArmId) -> Advice | None:
    """Advice on what to run next; None without variance components. Crossed seeds are averaged."""
    found = scope.cells(arm).averaged
    population = scope.design.population(len(found.orders))
    parts = decompose(found, population)
    if parts.empty:
        return None
    known = dict(zip(parts["component"], parts["variance"], strict=True))
    size = len(found.orders), len(found.train)
    references = scope.results.loc[scope.results["order"] == "", "method"].nunique()
    return advise(known, *size, population, len(scope.arms), references)


def assisted_means(scope: Scope) -> pd.DataFrame:
    """The mean over all n! orders with the precedence model's help: value, low, high.

    NaN where it would be the plain mean: few orders, all of them, a design that is no sample.
    """

    def of(arm: ArmId) -> pd.DataFrame:
        found = scope.cells(arm)
        k, possible = len(found.orders), scope.design.possible
        estimate = [np.nan] * 3
        if scope.design.sampled and enough_orders(k, scope.design.tasks, possible):
            known = assisted(found.by_seed, found.orders, possible).estimate(level=scope.level)
            estimate = [known.value, known.low, known.high]
        return pd.DataFrame([estimate], columns=["value", "low", "high"])

    return scope.each(of)


def precedence(scope: Scope, tasks: Sequence[str]) -> pd.DataFrame:
    """`precedence_map` of every method: the effects on each task's own gap."""

    def of(arm: ArmId) -> pd.DataFrame:
        tables = {task: scope.cells(arm, f"gap/{task}") for task in tasks}
        orders = next(iter(tables.values())).orders
        values = {task: table.by_seed for task, table in tables.items()}
        return precedence_map(values, orders, scope.level)

    return scope.each(of)


def over_table(
    scope: Scope, function: Callable[[FloatArray, Sequence[str], float], pd.DataFrame]
) -> pd.DataFrame:
    """`effects` on the mean gap, or its `extremes`, of every method."""

    def of(arm: ArmId) -> pd.DataFrame:
        found = scope.cells(arm)
        return function(found.by_seed, found.orders, scope.level)

    return scope.each(of)


def places(scope: Scope, trials: Iterable[ScoredTrial]) -> pd.DataFrame:
    """`mean_by` task, and by position, of every method; `place` is NA, or `task` "", over all."""
    if not scope.orders:
        return pd.DataFrame()
    shown = [trial for trial in trials if (trial.method, trial.setting) in scope.arms]
    rows = task_rows(shown, scope.results)
    rows["order"] = rows["order"].astype(object)  # read one by one, which is slow from Arrow

    def of(arm: ArmId) -> pd.DataFrame:
        own = of_arm(rows, arm)
        where = scope.design, scope.orders, scope.level
        parts = [mean_by(own, "task", *where), mean_by(own, "place", *where)]
        found = pd.concat(parts, ignore_index=True).reindex(columns=_PLACES)
        found["place"] = found["place"].astype("Int64")
        return found.assign(task=found["task"].fillna(""))

    return scope.each(of)
