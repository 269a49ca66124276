"""The mean over all n! orders, with what the precedence model knows about those that did not run.

A difference estimator (Saerndal, Swensson & Wretman 1992, ch. 6): the model predicts every order,
and the orders that ran correct its mean. Cross-fitted (Wager et al. 2016): the model that predicts
an order has not seen it, so the estimate is unbiased over a simple random draw of orders whatever
the model is, and nearly so over the draw in blocks (docs/metrics.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from l2kd_ray.analysis.anova import mean_products
from l2kd_ray.analysis.estimate import Moments
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import BOTH, ORDER, known_spread, moments
from l2kd_ray.analysis.precedence import enough_orders, features, fit
from l2kd_ray.names import SEPARATOR

_FOLDS = 5


def assisted(table: FloatArray, orders: Sequence[str], population: int) -> Moments:
    """The mean of values `[k, S]` over all `population` orders, model-assisted.

    With T the orders a fold's model f has seen, k_h orders in the fold and N in all, a fold gives
    (sum_T y + sum_{not T} f + (N - |T|) mean_fold(y - f)) / N, and the folds are averaged. That is
    the plain mean where f is constant, or where all orders ran. The order part of the variance is
    that of the mean with cross-fitted residuals for values; the seed part is the spread of the
    seeds' own estimates. Falls back to the plain mean (`enough_orders`).

    `orders` must be in the sequence in which they were drawn: folds take every fifth of them.
    """
    tasks = sorted(orders[0].split(SEPARATOR))
    if not enough_orders(len(table), len(tasks), population):
        return moments(table, population)
    x = features([order.split(SEPARATOR) for order in orders], tasks)
    count, seeds = table.shape
    fold = np.arange(count) % _FOLDS
    residual = np.empty_like(table)
    by_seed = np.zeros(seeds)
    for h in range(_FOLDS):
        seen, held = fold != h, fold == h
        model = fit(x[seen], table[seen].mean(axis=1))
        slope = model.smoother @ table[seen]  # [features, seeds]
        level = table[seen].mean(axis=0) - x[seen].mean(axis=0) @ slope
        residual[held] = table[held] - x[held] @ slope
        unseen = population - seen.sum()
        ahead = unseen * level - x[seen].sum(axis=0) @ slope  # features sum to 0 over all orders
        wrong = (residual[held] - level).mean(axis=0)
        by_seed += (table[seen].sum(axis=0) + ahead + unseen * wrong) / population / _FOLDS
    squares = mean_products(residual, residual)
    order = (1 - count / population) * (squares[ORDER] - squares[BOTH]) / (count * seeds)
    variance = np.asarray(by_seed.var(ddof=1) / seeds if seeds > 1 else np.nan)
    return Moments(
        np.asarray(by_seed.mean()),
        np.maximum(order, 0),
        known_spread(variance),
        count - 1,
        seeds - 1,
    )
