"""Analysis of variance of a balanced crossed table: mean squares and variance components.

A table has a value for every combination of its factors: `[..., orders, seeds]`, or
`[..., orders, training seeds, replay seeds]`; leading axes are many tables at once. Orders are a
sample of a finite population (all n! of them), seeds of an infinite one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from l2kd_ray.analysis.matrix import FloatArray

Factors = tuple[int, ...]
"""The axes of a table (0: orders) that a mean square or a component belongs to."""


def subsets(factors: int) -> list[Factors]:
    """All effects of `factors` crossed factors: main effects first, the residual last."""
    return [found for size in range(1, factors + 1) for found in combinations(range(factors), size)]


def mean_products(x: FloatArray, y: FloatArray, factors: int = 2) -> dict[Factors, FloatArray]:
    """Mean squares (x is y) or mean products of every effect of tables `[..., levels]`.

    The effect of A is what remains of a table when it is averaged over the factors outside A and
    centred over those in A; its mean product is the sum of products over prod_{i in A} (n_i - 1)
    degrees of freedom. NaN where there are none.
    """
    found = {}
    axes = range(-factors, 0)
    for effect in subsets(factors):
        parts = []
        for values in (x,) if x is y else (x, y):
            part = values
            for factor, axis in enumerate(axes):
                mean = part.mean(axis=axis, keepdims=True)
                part = part - mean if factor in effect else mean
            parts.append(part)
        repeats = np.prod([x.shape[axis] for f, axis in enumerate(axes) if f not in effect])
        df = degrees(x.shape[-factors:], effect)
        total = (parts[0] * parts[-1]).sum(axis=tuple(axes))
        found[effect] = repeats * total / df if df else np.full_like(total, np.nan)
    return found


def degrees(levels: Sequence[int], effect: Factors) -> int:
    """Degrees of freedom of an effect's mean square."""
    return int(np.prod([levels[factor] - 1 for factor in effect]))


def expected(levels: Sequence[int], population: int) -> dict[Factors, dict[Factors, float]]:
    """Coefficient of each variance component in the expectation of each mean square.

    E[MS_A] = sum_{B >= A} prod_{i in B - A} (1 - f_i) prod_{i not in B} n_i sigma_B^2, with f_i
    the share of a factor's population that ran: orders / population for orders, 0 for seeds
    (Cornfield & Tukey 1956). A component of seeds is then the variance of their means over *all*
    orders, and not of a sample's.
    """
    unseen = [1 - levels[0] / population] + [1.0] * (len(levels) - 1)
    effects = subsets(len(levels))
    return {
        a: {
            b: float(
                np.prod([unseen[i] for i in set(b) - set(a)])
                * np.prod([n for i, n in enumerate(levels) if i not in b])
            )
            for b in effects
            if set(a) <= set(b)
        }
        for a in effects
    }


def contrasts(levels: Sequence[int], population: int) -> dict[Factors, dict[Factors, float]]:
    """The linear combination of mean squares that is unbiased for each component."""
    effects = subsets(len(levels))
    counts = expected(levels, population)
    matrix = np.array([[counts[a].get(b, 0.0) for b in effects] for a in effects])
    inverse = np.linalg.inv(matrix)
    return {
        b: {a: float(inverse[i, j]) for j, a in enumerate(effects) if abs(inverse[i, j]) > 1e-12}
        for i, b in enumerate(effects)
    }


def components(
    squares: Mapping[Factors, FloatArray], levels: Sequence[int], population: int
) -> dict[Factors, FloatArray]:
    """The variance components, not truncated: an estimate below 0 means a component near 0."""
    return {
        effect: np.sum([c * squares[a] for a, c in combination.items()], axis=0)
        for effect, combination in contrasts(levels, population).items()
    }
