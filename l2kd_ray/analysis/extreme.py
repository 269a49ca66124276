"""The search for the worst, or the best, order: what to try next, and what the tried ones show.

Which orders are tried depends on what was found, so that they are no sample of anything: no mean
reads them. What is known of the orders that were not tried comes from the ones drawn at random, at
which the search starts, and only for scores as they are, of these seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Literal

import numpy as np
import pandas as pd

from l2kd_ray.analysis.design import Design, cells
from l2kd_ray.analysis.estimate import LEVEL, simultaneous
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import moments
from l2kd_ray.analysis.precedence import MOST_TASKS, features, fit
from l2kd_ray.analysis.shares import GAP
from l2kd_ray.analysis.worst import orders_beyond_worst
from l2kd_ray.names import SEPARATOR

Goal = Literal["worst", "best"]
_DECIMALS = 6
"""To which predictions are told apart, so that rounding on another machine proposes no others."""


def predict(
    tried: Sequence[Sequence[str]], values: FloatArray, candidates: Sequence[Sequence[str]]
) -> FloatArray:
    """The value of each candidate, from those of the orders tried, of which NaN is not known.

    Predicted with the ridge of `precedence.fit`; with fewer than three known values all are equal.
    So are orders that the model does not tell apart.
    """
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < 3:
        return np.zeros(len(candidates))
    tasks, y = sorted(candidates[0]), values[known]
    x = features([tried[int(k)] for k in known], tasks)
    effects = fit(x, y).smoother @ y
    found = y.mean() + (features(candidates, tasks) - x.mean(axis=0)) @ effects
    rounded: FloatArray = found.round(_DECIMALS)
    return rounded


@dataclass(frozen=True)
class Predicted:
    """The most extreme of all n! orders by the model of `predict`, fitted to the tried ones."""

    order: str
    dev: float
    """Its predicted gap on dev."""
    tried: bool


@dataclass(frozen=True)
class OrderSearch:
    """The orders that a search has tried, and what they say about those that it has not."""

    goal: Goal
    method: str
    budget: int
    drawn: int
    """Orders tried that were drawn at random before the search."""
    possible: int
    """n!, of n tasks."""
    orders: pd.DataFrame
    """One row for each order tried (complete on all seeds, on dev and on test), the most extreme on
    dev first: order, proposed (bool), dev, gap (of test), more (gap minus the mean gap of the drawn
    orders); the last two with low and high, at `level`; in points."""
    level: float
    """The level of each interval: those of all n! orders hold together at 95 % (Bonferroni). Any
    of them could have been proposed, so that fewer would not do."""
    beyond: int | None
    """Upper bound at 95 % of the number of orders more extreme than the first, by their gap on dev
    with these seeds; None while a drawn order has no score."""
    predicted: Predicted | None
    """None where all orders were tried or none is told from another, and above `MOST_TASKS`."""


def order_search(
    test: pd.DataFrame, dev: pd.DataFrame, method: str, design: Design, goal: Goal, budget: int
) -> OrderSearch | None:
    """The findings of a search for an order of one method; None before its first order.

    `test` and `dev` are `results` of the orders drawn (`design`) and of those proposed. The first
    order is picked on dev. Its interval on test is Student's over seeds.

    More than D orders beyond the worst of the k drawn have a probability of at most 5 %
    (`worst.orders_beyond_worst`), and no drawn order is beyond the first.
    """
    test, dev = (rows[(rows["method"] == method) & rows["complete"]] for rows in (test, dev))
    every = list(dict.fromkeys([*design.orders, *sorted(set(test["order"]))]))
    on_test, on_dev = (cells(rows, GAP, every, design.seeds).whole for rows in (test, dev))
    tried = [order for order in on_test.orders if order in set(on_dev.orders)]
    if not tried:
        return None
    gaps, dev_gaps = (
        found.by_seed[[found.orders.index(order) for order in tried]] for found in (on_test, on_dev)
    )
    drawn = np.array([order in design.orders for order in tried])
    possible = design.possible
    level = simultaneous(LEVEL, possible) or LEVEL
    means = dev_gaps.mean(axis=1)
    frame = pd.DataFrame({"order": tried, "proposed": ~drawn, "dev": means})
    base = gaps[drawn].mean(axis=0) if drawn.any() else np.full(gaps.shape[1], np.nan)
    for name, table in (("gap", gaps), ("more", gaps - base)):
        half = moments(table[:, None, :], 1).half_width(level)
        frame[name] = table.mean(axis=1)
        frame[f"{name}/low"], frame[f"{name}/high"] = frame[name] - half, frame[name] + half
    sign = 1 if goal == "worst" else -1
    first = np.argsort(-sign * means, kind="stable")
    beyond = None
    if drawn.sum() == len(design.orders):
        beyond = orders_beyond_worst(int(drawn.sum()), design.tasks)
        beyond = min(beyond, possible - len(tried))
    return OrderSearch(
        goal,
        method,
        budget,
        int(drawn.sum()),
        possible,
        frame.iloc[first].reset_index(drop=True),
        level,
        beyond,
        _most_extreme([order.split(SEPARATOR) for order in tried], sign * means, sign),
    )


def _most_extreme(
    tried: Sequence[Sequence[str]], values: FloatArray, sign: int
) -> Predicted | None:
    tasks = sorted(tried[0])
    if len(tasks) > MOST_TASKS or len(tried) == factorial(len(tasks)):
        return None
    every = list(permutations(tasks))
    predicted = predict(tried, values, every)
    if not np.ptp(predicted):
        return None
    best = int(predicted.argmax())
    ran = every[best] in {tuple(order) for order in tried}
    return Predicted(SEPARATOR.join(every[best]), sign * float(predicted[best]), ran)
