"""Metrics of one score matrix.

`R` is an array `[n + 1, n]` of scores in points (0..100): `R[i, j]` is the score on the j-th task
of the order after learning its i-th; row 0 is the untrained model, column 0 the first task (the
formulas below count tasks from 1, as the papers do). What was not measured is NaN, and a metric
that needs a missing cell is NaN: nothing is averaged over what happens to be there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def final(R: FloatArray) -> FloatArray:
    """`R[n, :]`, shape `[n]`: the scores of the student that has learned every task."""
    last: FloatArray = R[-1]
    return last


def learned(R: FloatArray) -> FloatArray:
    """`R[j, j]`, shape `[n]`: the score on each task right after it was learned."""
    return np.diagonal(R[1:])


def average(R: FloatArray) -> float:
    """ACC = mean_j R[n, j] (Lopez-Paz & Ranzato 2017, eq. 2), in points."""
    return _mean(final(R))


def backward_transfer(R: FloatArray) -> float:
    """BWT = mean_{j<n} (R[n, j] - R[j, j]) (Lopez-Paz & Ranzato 2017, eq. 3), in points.

    Over n - 1 terms, as in the paper; its code divides by n. Negative is forgetting. NaN for n = 1.
    """
    return _mean((final(R) - learned(R))[:-1])


def forward_transfer(R: FloatArray) -> float:
    """FWT = mean_{j>1} (R[j-1, j] - b_j) (Lopez-Paz & Ranzato 2017, eq. 4), in points.

    b_j = R[0, j] is the untrained model. NaN for n = 1, and where b was not measured.
    """
    return _mean((np.diagonal(R[:-1]) - R[0])[1:])


def forgetting_max(R: FloatArray) -> float:
    """mean_{j<n} (max_{1<=i<n} R[i, j] - R[n, j]) (Chaudhry et al. 2018, eq. 3), in points.

    Cells before the task was learned (i < j) count where they were measured; those since then must
    all be there. NaN for n = 1.
    """
    before = R[1:-1, :-1]
    since_learned = np.tri(*before.shape) > 0
    if before.size == 0 or np.isnan(before[since_learned]).any():
        return np.nan
    return _mean(np.fmax.reduce(before) - final(R)[:-1])


def forgetting_first(R: FloatArray) -> float:
    """mean_{j<n} (R[j, j] - R[n, j]), in points: forgetting from the first peak, which is -BWT."""
    return -backward_transfer(R)


def intransigence(R: FloatArray, single: FloatArray) -> float:
    """mean_j (s_j - R[j, j]), in points: the score that learning in a stream costs each task.

    After Chaudhry et al. 2018, eq. 5, with s_j, shape `[n]`, the model trained on task j alone in
    place of their jointly trained one.
    """
    return _mean(single - learned(R))


def average_incremental(R: FloatArray) -> float:
    """mean_i mean_{j<=i} R[i, j] (Rebuffi et al. 2017, sec. 4), in points.

    The mean score on the tasks seen so far, averaged over the steps of the stream.
    """
    so_far = np.tri(R.shape[1])
    return _mean((np.where(so_far > 0, R[1:], 0.0)).sum(axis=1) / so_far.sum(axis=1))


def gap(R: FloatArray, multitask: FloatArray) -> FloatArray:
    """m_j - R[n, j], shape `[n]`, in points: how far below multi-task each task ends.

    The mean over tasks is `gap/abs` (the degradation that Sun et al. 2020 and Chuang et al. 2020
    report against their multi-task bound). Negative: above the bound.
    """
    return multitask - final(R)


def relative_gap(R: FloatArray, multitask: FloatArray) -> float:
    """mean_j gap_j / mean_j m_j, a fraction: a ratio of means, so no small m_j rules it."""
    bound = _mean(multitask)
    return _mean(gap(R, multitask)) / bound if bound else np.nan


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if values.size else np.nan
