"""Precedence effects: the gap as a function of which task comes before which.

An effect is a difference of means over all n! orders: those with a before b less the others, those
with a last (or first) less all. Where all orders ran it is taken from them as it is, with no model.

Where they are a sample, a model fills in those that did not run. It is additive in pairs and in the
last task,

    y(o) = mu + sum_{a<b} beta_ab x_ab(o) + sum_t gamma_t x_t(o) + misfit(o),

with x_ab = 1/2 where a comes before b and -1/2 where after, and x_t = [t is last] - 1/n. Over all
n! orders every feature has mean 0, so mu is the mean over all orders. Effects are of the fit by
least squares, which shrinks nothing: the fit to all n! orders has the differences of means itself,
whatever the misfit. What the orders that ran cannot tell, by the null space of their features, has
no value.

Predictions of orders that did not run are by ridge (Hoerl & Kennard 1970); the penalty is the ratio
of variances that restricted maximum likelihood gives (REML, Patterson & Thompson 1971), so that a
fit is the best linear unbiased predictor (Robinson 1991) under normal coefficients. For `extremes`
an order that ran keeps the part of its own mean that the seeds' noise leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import factorial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from l2kd_ray.analysis.estimate import LEVEL, Estimate, Moments
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import known_spread
from l2kd_ray.analysis.note import Named
from l2kd_ray.analysis.paired import holm
from l2kd_ray.names import SEPARATOR

MOST_TASKS = 8
"""Up to here all n! orders are looked through for the best and the worst."""
ORDERS_A_FEATURE = 1.5
"""With fewer orders the model is not used: below it intervals cover too little."""
_PENALTIES = np.concatenate([np.logspace(-3, 5, 65), [np.inf]])


def features(orders: Sequence[Sequence[str]], tasks: Sequence[str]) -> FloatArray:
    """`[orders, n (n - 1) / 2 + n]`: the pairs of `tasks` in turn, then the last task."""
    index = {task: k for k, task in enumerate(tasks)}
    n = len(tasks)
    sequence = np.array([[index[task] for task in order] for order in orders])
    position = np.argsort(sequence, axis=1)
    pairs = [(position[:, a] < position[:, b]) - 0.5 for a, b in combinations(range(n), 2)]
    last = [(sequence[:, -1] == task) - 1 / n for task in range(n)]
    found: FloatArray = np.stack([*pairs, *last], axis=1)
    return found


def feature_count(tasks: int) -> int:
    """Free coefficients of the model: pairs, and n - 1 for the last task."""
    return tasks * (tasks - 1) // 2 + tasks - 1


def enough_orders(orders: int, tasks: int, population: int) -> bool:
    """True if a sample of orders is large enough for the model, whatever the scores are."""
    return ORDERS_A_FEATURE * feature_count(tasks) <= orders < population


@dataclass(frozen=True)
class Ridge:
    """A fit by `fit`: linear in the values, so that seeds can be fitted one by one."""

    smoother: FloatArray
    """`[features, orders]`: coefficients = smoother @ values."""
    penalty: float
    """Infinite: the features explain nothing, all coefficients are 0."""
    noise: float
    """Variance of an order's value around the features."""


def fit(x: FloatArray, y: FloatArray, copies: int = 1) -> Ridge:
    """Ridge of values `[orders]` on features, with a free mean and the penalty of REML.

    `y` may be `[orders, m]`: m columns of one distribution, of which `copies` are independent.
    """
    centred, value = x - x.mean(axis=0), np.atleast_2d((y - y.mean(axis=0)).T).T
    u, d, vt = np.linalg.svd(centred, full_matrices=False)
    z = ((u.T @ value) ** 2).sum(axis=1)
    whole = float((value**2).sum())
    free = copies * (len(y) - 1)
    weight = 1 + d**2 / _PENALTIES[:, None]  # variance of z over the noise, a row a penalty
    sums = (z / weight).sum(axis=1) + max(whole - float(z.sum()), 0.0)
    noise = np.maximum(sums / free, 1e-12 * max(whole, 1e-300))
    best = int(np.argmin(copies * np.log(weight).sum(axis=1) + free * np.log(noise)))
    penalty = float(_PENALTIES[best])
    shrunk = d / (d**2 + penalty) if np.isfinite(penalty) else np.zeros_like(d)
    return Ridge((vt.T * shrunk) @ u.T, penalty, float(noise[best]))


class Effect(Named):
    """The two groups of orders whose means an effect compares."""

    BEFORE = "before"
    """Orders with `task` before `other`, less those with it after."""
    LAST = "last"
    """Orders with `task` last, less all."""
    FIRST = "first"
    """Orders with `task` first, less all."""


class Untold(Named):
    """A reason why the orders that ran do not tell an effect."""

    ONE_GROUP = "only one of the two groups of orders ran"
    CONFOUNDED = "other effects change with it in the orders that ran"


def population_effects(tasks: int) -> FloatArray:
    """`[pairs + n, features]`: the effects (pairs, last) as combinations of the coefficients.

    An effect is the covariance of its feature with the value over all orders, over the variance
    1/4 of a pair's feature or, of a last task, over 1/n.
    """
    pairs = list(combinations(range(tasks), 2))
    sign = np.zeros((len(pairs), tasks))
    for row, (a, b) in enumerate(pairs):
        sign[row, a], sign[row, b] = 1.0, -1.0
    of_pairs = (sign @ sign.T + np.eye(len(pairs))) / 12
    crossed = -sign / (2 * tasks)
    of_last = np.eye(tasks) / tasks - 1 / tasks**2
    return np.block([[4 * of_pairs, 4 * crossed], [tasks * crossed.T, tasks * of_last]])


def estimable(x: FloatArray, wanted: FloatArray) -> NDArray[np.bool_]:
    """True for each row of `wanted`, a combination of coefficients, that the orders identify.

    `x` are the features of the orders that ran. A combination is identified where it is orthogonal
    to the null space of the centred features: no change of the coefficients that leaves every value
    as it is changes it.
    """
    _, d, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=True)
    null = vt[int((d > 1e-9).sum()) :]
    found: NDArray[np.bool_] = np.abs(wanted @ null.T).max(axis=1, initial=0) < 1e-9
    return found


def effects(table: FloatArray, orders: Sequence[str], level: float = LEVEL) -> pd.DataFrame:
    """The effects of precedence on values `[orders, seeds]`, one row each.

    Where all n! orders ran, differences of their means, with Student's t over seeds: exact, no
    model. Else those of the model fitted to the orders that ran, by least squares; the interval
    also has its misfit on those that did not: (1 - k / n!) times the residual mean square, which
    holds the seeds' noise of an order too, so that it is rather too wide. Without the effects of
    being first, for which the model has no term.

    Returns:
        effect (`Effect`), task, other ("" but for pairs, which are sorted by name), value, low,
        high (NaN for one seed, and where no order is left to tell the misfit), p of no effect, note
        (`Untold`, with NaN, or None). No rows below three orders.
    """
    columns = ["effect", "task", "other", "value", "low", "high", "p", "note"]
    tasks = sorted(orders[0].split(SEPARATOR)) if orders else []
    if len(table) < 3:
        return pd.DataFrame(columns=columns)
    n, possible = len(tasks), factorial(len(tasks))
    every = [order.split(SEPARATOR) for order in orders]
    x = features(every, tasks)
    pairs = list(combinations(tasks, 2))
    names = [(Effect.BEFORE, a, b) for a, b in pairs] + [(Effect.LAST, t, "") for t in tasks]
    if len(table) == possible:
        first = np.array([[order[0] == task for task in tasks] for order in every]) - 1 / n
        names += [(Effect.FIRST, task, "") for task in tasks]
        scale = np.array([4.0] * len(pairs) + [float(n)] * 2 * n)
        linear = scale[:, None] * np.hstack([x, first]).T / possible
        misfit, told, free = np.zeros(len(names)), np.full(len(names), True), 0
    else:
        wanted, centred = population_effects(n), x - x.mean(axis=0)
        told = estimable(x, wanted)
        solver = np.linalg.pinv(centred, rcond=1e-9)
        linear, mean = wanted @ solver, table.mean(axis=1)
        free = len(table) - 1 - int(np.linalg.matrix_rank(centred))
        residual = mean - mean.mean() - centred @ (solver @ mean)
        noise = float((residual**2).sum()) / free if free else np.nan
        misfit = (1 - len(table) / possible) * noise * (linear**2).sum(axis=1)
    by_seed = linear @ table
    seeds = table.shape[1]
    spread = np.full(len(by_seed), np.nan)
    if seeds > 1:
        spread = known_spread(by_seed.var(axis=1, ddof=1) / seeds)
    one_group = np.ptp(x, axis=0) == 0
    rows = []
    for k, name in enumerate(names):
        if not told[k]:
            why = Untold.ONE_GROUP if one_group[k] else Untold.CONFOUNDED
            rows.append((*name, *[np.nan] * 4, why))
            continue
        found = Moments(by_seed[k].mean(), misfit[k], spread[k], free, seeds - 1)
        one = found.estimate(level=level)
        rows.append((*name, one.value, one.low, one.high, found.p, None))
    return pd.DataFrame(rows, columns=columns)


def precedence_map(
    tables: dict[str, FloatArray], orders: Sequence[str], level: float = LEVEL
) -> pd.DataFrame:
    """Effect of each other task on each task's own gap `[orders, seeds]`.

    Returns:
        One row an ordered pair: earlier, task, value (points that the gap of `task` is wider when
        `earlier` comes before it than after it), low, high, p, and p_holm, which is corrected for
        all rows of the map (Holm 1979); note as in `effects`. And one a task with `earlier` empty:
        the effect on its gap of being last.
    """
    rows = []
    for task, table in tables.items():
        for row in effects(table, orders, level).to_dict("records"):
            numbers = (row["value"], row["low"], row["high"])
            rest = (row["p"], row["note"])
            if row["effect"] is Effect.LAST and row["task"] == task:
                rows.append(("", task, *numbers, *rest))
            elif row["other"] == task:
                rows.append((row["task"], task, *numbers, *rest))
            elif row["effect"] is Effect.BEFORE and row["task"] == task:
                turned = (-row["value"], -row["high"], -row["low"])
                rows.append((row["other"], task, *turned, *rest))
    names = ["earlier", "task", "value", "low", "high", "p", "note"]
    found = pd.DataFrame(rows, columns=names)
    found["p_holm"] = holm(found["p"].to_numpy(dtype=float))
    return found


def extremes(table: FloatArray, orders: Sequence[str], level: float = LEVEL) -> pd.DataFrame:
    """The orders of the smallest and the largest predicted value, of all n!, with intervals.

    The predictor is the best linear one under the model: of an order that ran, its own mean drawn
    towards the features' as far as the noise of its seeds asks; of any other, the features' alone.
    An extreme is picked for its luck too (the winner's curse). `crossed` is free of it: each seed's
    prediction for the order that the *other* seeds pick, averaged. The interval holds two: that of
    the picked order's value and that of `crossed`, each from the spread of its predictions over
    seeds and what the model expects to be wrong by.

    Returns:
        Rows best and worst: which, order, value, crossed, low, high, ran (bool). None above
        `MOST_TASKS` tasks, below three seeds, and where there are not `enough_orders`.
    """
    columns = ["which", "order", "value", "crossed", "low", "high", "ran"]
    tasks = sorted(orders[0].split(SEPARATOR)) if orders else []
    count, seeds = table.shape
    population = factorial(len(tasks))
    few = count < population and not enough_orders(count, len(tasks), population)
    if len(tasks) > MOST_TASKS or few or seeds < 3 or count < 3:
        return pd.DataFrame(columns=columns)
    every = list(permutations(tasks))
    index = {order: k for k, order in enumerate(every)}
    ran = np.array([index[tuple(order.split(SEPARATOR))] for order in orders])
    x = features(every, tasks)
    every_seed = _Predictor.of(x, ran, table)
    others = [_Predictor.of(x, ran, np.delete(table, s, axis=1)) for s in range(seeds)]
    free = count - 1 if count == population else max(count - 1 - feature_count(len(tasks)), 1)

    def predicted(values: FloatArray, wrong: float) -> Estimate:
        """The mean of one prediction a seed; `wrong` is the model's own part of the variance."""
        parts = np.asarray(wrong), np.asarray(values.var(ddof=1) / seeds)
        return Moments(np.asarray(values.mean()), *parts, free, seeds - 1).estimate(level=level)

    rows = []
    for which, sign in (("best", -1.0), ("worst", 1.0)):
        chosen = every_seed.most(sign)
        own = predicted(every_seed.weights(chosen) @ table, every_seed.wrong(chosen))
        picked = [one.most(sign) for one in others]
        pairs = list(zip(others, picked, strict=True))
        left_out = np.array([one.weights(at) @ table[:, s] for s, (one, at) in enumerate(pairs)])
        crossed = predicted(left_out, float(np.mean([one.wrong(at) for one, at in pairs])))
        low, high = min(own.low, crossed.low), max(own.high, crossed.high)
        name = SEPARATOR.join(every[chosen])
        rows.append((which, name, own.value, crossed.value, low, high, bool(chosen in ran)))
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class _Predictor:
    """Kriging of an order's mean over seeds, with covariance `tau2 x x' + misfit [same order]`.

    The seeds' noise has a covariance of the same form, as a seed has precedence effects of its own.
    Its part is estimated from order x seed and taken off what the orders' means show.
    """

    x: FloatArray
    """Features of all orders."""
    ran: NDArray[np.intp]
    mean: FloatArray
    """Mean over seeds of each order that ran."""
    tau2: float
    misfit: float
    solver: FloatArray
    """`[k, k]`: inverse covariance of the observed means."""

    @staticmethod
    def of(x: FloatArray, ran: NDArray[np.intp], table: FloatArray) -> _Predictor:
        mean, seeds, seen = table.mean(axis=1), table.shape[1], x[ran]
        total, own = fit(seen, mean), fit(seen, table - mean[:, None], seeds - 1)
        signal = total.noise / total.penalty  # 0 for an infinite penalty
        tau2 = max(signal - own.noise / own.penalty / seeds, 0.0)
        misfit = max(total.noise - own.noise / seeds, 0.0)
        covariance = signal * (seen @ seen.T) + max(total.noise, 1e-12) * np.eye(len(seen))
        return _Predictor(x, ran, mean, tau2, misfit, np.asarray(np.linalg.inv(covariance)))

    def most(self, sign: float) -> int:
        """The order of the largest (-1: smallest) prediction of all."""
        ones = np.ones(len(self.ran))
        middle = float(ones @ self.solver @ self.mean / (ones @ self.solver @ ones))
        pull = self.solver @ (self.mean - middle)
        values = self.tau2 * (self.x @ (self.x[self.ran].T @ pull))
        values[self.ran] += self.misfit * pull
        return int((sign * values).argmax())

    def weights(self, order: int) -> FloatArray:
        """`[k]`: the observed values that an order's prediction is a sum of; they sum to 1."""
        ones = np.ones(len(self.ran))
        simple = self._cross(order) @ self.solver
        middle = self.solver @ ones / (ones @ self.solver @ ones)
        found: FloatArray = simple + (1 - simple @ ones) * middle
        return found

    def wrong(self, order: int) -> float:
        """Expected squared error of the prediction without the noise of seeds."""
        w, seen = self.weights(order), self.x[self.ran]
        signal = self.tau2 * float(((w @ seen) ** 2).sum()) + self.misfit * float(w @ w)
        own = self.tau2 * float((self.x[order] ** 2).sum()) + self.misfit
        return max(own - 2 * float(w @ self._cross(order)) + signal, 0.0)

    def _cross(self, order: int) -> FloatArray:
        same = self.ran == order
        found: FloatArray = self.tau2 * (self.x[self.ran] @ self.x[order]) + self.misfit * same
        return found
