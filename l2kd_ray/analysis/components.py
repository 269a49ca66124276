"""The variance of the gap, split into order, seed and order x seed.

Settings and methods are fixed effects: each method and setting is split by itself. A repeated trial
is bit for bit the same, so order x seed is the residual. Under crossed seeds, training,
replay and data seeds have their own components and interactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np
import pandas as pd
from scipy.special import chdtri, chndtr, fdtri, ndtri

from l2kd_ray.analysis.anova import (
    Factors,
    components,
    contrasts,
    degrees,
    mean_products,
    subsets,
)
from l2kd_ray.analysis.design import Cells
from l2kd_ray.analysis.estimate import LEVEL
from l2kd_ray.analysis.matrix import FloatArray

_FAR = 1e4
"""Beyond it the root of a noncentral chi-square is as good as normal, and its sum is slow."""


def decompose(found: Cells, population: int, level: float = LEVEL) -> pd.DataFrame:
    """One row a component: component, variance, std, low and high (of the std), share, df.

    The components are of an order's mean over seeds, a seed's mean over all orders, and what is
    left (`anova`; Cornfield & Tukey 1956), in squared points; std is the root, in points; share is
    of the sum of those above 0. Intervals: modified large-sample (Ting, Burdick, Graybill,
    Jeyaratnam & Lu 1990), for independent normal effects; of `order` where all orders ran, and so
    are no sample, from the noncentral chi-square (Steiger 2004); with fewer degrees of freedom for
    the residual where orders share stages (`residual_df`). Where the estimate is below 0, std and
    low are 0 and high is the one-sided bound of the same level. There is no interval where it would
    rest on a residual of unknown degrees of freedom or of no spread at all, and none where it would
    hold 0 alone. Orders with a missing cell are left out.

    Returns:
        No rows where fewer than two orders or two seeds are left.
    """
    crossed = found.crossed if len(found.train) > 1 else ()
    table = found.whole.values if crossed else found.whole.by_seed
    columns = ["component", "variance", "std", "low", "high", "share", "df"]
    if len(table) < 2 or table.shape[1] < 2:
        return pd.DataFrame(columns=columns)
    names = _names(crossed)
    squares = mean_products(table, table, table.ndim)
    values = components(squares, table.shape, population)
    free: dict[Factors, float] = {effect: degrees(table.shape, effect) for effect in names}
    if not crossed:
        free[0, 1] = residual_df(table)
    combinations = contrasts(table.shape, population)
    above_zero = float(sum(max(float(value), 0.0) for value in values.values()))
    rows = []
    for effect, name in names.items():
        value = float(values[effect])
        asked = 2 * level - 1 if value < 0 else level
        if effect == (0,) and len(table) == population and not crossed:
            low, high = fixed_orders(table, asked)
        else:
            low, high = large_sample(combinations[effect], squares, free, asked)
        std, least, most = (sqrt(max(v, 0.0)) for v in (value, low, high))  # NaN stays
        if value < 0:
            least, most = (0.0, most) if most > 0 else (np.nan, np.nan)
        share = max(value, 0.0) / above_zero if above_zero else np.nan
        rows.append((name, value, std, least, most, share, free[effect]))
    return pd.DataFrame(rows, columns=columns)


def _names(crossed: Sequence[str]) -> dict[Factors, str]:
    """The name of every component, such as "order x training seed"."""
    factors = ["order", *(f"{name} seed" for name in ("training", *crossed))]
    if not crossed:
        factors[1] = "seed"
    return {
        effect: " x ".join(factors[axis] for axis in effect).replace(" seed x", " x")
        for effect in subsets(len(factors))
    }


def large_sample(
    combination: Mapping[Factors, float],
    squares: Mapping[Factors, FloatArray],
    free: Mapping[Factors, float],
    level: float = LEVEL,
) -> tuple[float, float]:
    """Interval of a linear combination of independent mean squares, some with negative weight.

    Modified large-sample (Ting et al. 1990; Burdick & Graybill 1992, section 3.2), without the
    small terms among mean squares of one sign. Exact for a single mean square.
    """
    tail = (1 - level) / 2
    parts = [(c * float(squares[a]), free[a]) for a, c in combination.items()]
    plus = [(value, df) for value, df in parts if value > 0]
    minus = [(-value, df) for value, df in parts if value < 0]
    middle = sum(value for value, _ in parts)
    below = sum((_g(df, tail) * value) ** 2 for value, df in plus)
    below += sum((_h(df, tail) * value) ** 2 for value, df in minus)
    above = sum((_h(df, tail) * value) ** 2 for value, df in plus)
    above += sum((_g(df, tail) * value) ** 2 for value, df in minus)
    for value, df in plus:
        for other, other_df in minus:
            upper = float(fdtri(df, other_df, 1 - tail))
            lower = float(fdtri(df, other_df, tail))
            g, h, g_of, h_of = _g(df, tail), _h(df, tail), _g(other_df, tail), _h(other_df, tail)
            below += value * other * ((upper - 1) ** 2 - (g * upper) ** 2 - h_of**2) / upper
            above += value * other * ((1 - lower) ** 2 - (h * lower) ** 2 - g_of**2) / lower
    return middle - sqrt(max(below, 0.0)), middle + sqrt(max(above, 0.0))


def _g(df: float, tail: float) -> float:
    """1 - 1 / F(1 - tail; df, infinity)."""
    return 1 - df / float(chdtri(df, tail))


def _h(df: float, tail: float) -> float:
    """1 / F(tail; df, infinity) - 1."""
    return df / float(chdtri(df, 1 - tail)) - 1


def residual_df(table: FloatArray) -> float:
    """Degrees of freedom of order x seed, of which orders that share stages have fewer.

    With C the covariance over orders of a seed's residuals, the residual mean square varies as one
    of (S - 1) tr(C)^2 / tr(C^2) degrees (Box 1954), between S - 1 and (S - 1)(k - 1). The two are
    estimated without bias from the sample's (Bai & Saranadasa 1996).

    Returns:
        NaN with two seeds, of which they cannot be estimated, and where there is no spread.
    """
    orders, seeds = table.shape
    most, least = float((orders - 1) * (seeds - 1)), float(seeds - 1)
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    gram = residual.T @ residual
    square, quartic = float(np.trace(gram)) ** 2, float((gram**2).sum())
    if seeds < 3 or quartic <= (1e-12 * float((table**2).sum())) ** 2:
        return np.nan
    of_square = (quartic - square / least) / ((least + 2) * (least - 1))
    whole = square / least**2 - 2 * of_square / least
    if of_square <= 0:
        return most
    return min(max(least * whole / of_square, least), most)


def fixed_orders(table: FloatArray, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the variance over the orders of a table `[N, S]` that has all of them.

    The order effects a_o are then no sample: d MS_O / sigma^2 is noncentral chi-square with
    lambda = d S sum_o a_o^2 / ((N - 1) sigma^2) on d degrees, N - 1 of them or, where orders share
    stages, fewer in the proportion of `residual_df`; sigma^2 is estimated by MS_OS. The interval is
    that of lambda (Steiger 2004), brought back to the variance (ddof 1).

    Returns:
        NaN where `residual_df` is.
    """
    squares = mean_products(table, table)
    between, residual = float(squares[(0,)]), float(squares[(0, 1)])
    seeds = table.shape[1]
    df, tail = residual_df(table) / (seeds - 1), (1 - level) / 2
    if np.isnan(df):
        return np.nan, np.nan
    low, high = (_noncentrality(df * between / residual, df, p) for p in (1 - tail, tail))
    return low * residual / (seeds * df), high * residual / (seeds * df)


def _noncentrality(value: float, df: float, p: float) -> float:
    """The lambda at which a noncentral chi-square is below `value` with probability p; else 0."""
    if value > _FAR:
        return max((sqrt(value) - float(ndtri(p))) ** 2 - (df - 1), 0.0)
    low, high = 0.0, value + 10.0
    while chndtr(value, df, high) > p:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chndtr(value, df, middle) > p else (low, middle)
    return low
