"""Racing: settings run on common blocks of instances, and those that cannot win are dropped.

A block is an order with all its seeds; blocks run in the drawn sequence, and a setting's score on
one is its mean dev score over the block's seeds. The question is which setting would have the best
mean if every block were run, so the blocks done are a sample drawn without replacement and nothing
has to be assumed of the seeds that they share. Racing drops *settings*; a single order is never
dropped where the mean over orders is the target, for what is left would be the easy orders.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from scipy.special import stdtrit

from l2kd_ray.analysis.looks import alphas, planned_looks
from l2kd_ray.analysis.matrix import FloatArray


def race(scores: FloatArray, blocks: int) -> dict[int, int]:
    """The settings to drop, given dev scores `[settings, blocks so far]` (higher: better).

    At each planned look (`looks.planned_looks`) a setting is dropped where its paired difference to
    the leader is below 0 by Student's t for a mean of a sample drawn without replacement,
    d < -t sqrt((1 - f) s_d^2 / k), at the look's alpha over the number of rivals. So the setting
    that is best over all blocks is dropped at any look with probability at most 0.05 (Bonferroni
    over looks and rivals; t on k - 1 degrees). After the last block only the leader is left.

    Args:
        scores: NaN where a setting has not run; what is dropped need not run on. A look is taken
            when every kept setting has all its blocks.
        blocks: how many there are in all.

    Returns:
        By row index, the number of blocks at which each dropped setting was given up.
    """
    settings = len(scores)
    if settings < 1 or scores.ndim != 2 or scores.shape[1] > blocks:
        raise ValueError(
            f"race: scores have shape {scores.shape}; expected [settings, at most {blocks} blocks]"
        )
    kept, dropped = list(range(settings)), dict[int, int]()
    looks = planned_looks(blocks)
    for k, alpha in zip(looks, alphas(looks), strict=True):
        if k > scores.shape[1] or np.isnan(scores[kept, :k]).any():
            break
        means = scores[kept, :k].mean(axis=1)
        leader = kept[int(means.argmax())]
        t = float(stdtrit(k - 1, 1 - alpha / max(settings - 1, 1))) if k > 1 else np.inf
        for rival in [setting for setting in kept if setting != leader]:
            difference = scores[rival, :k] - scores[leader, :k]
            error = sqrt((1 - k / blocks) * difference.var(ddof=1) / k) if k < blocks else 0.0
            if k == blocks or (error > 0 and difference.mean() < -t * error):
                dropped[rival] = k
                kept.remove(rival)
    return dropped
