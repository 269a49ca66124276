"""Two methods compared on several streams of tasks: in how many they differ, and by how much.

A stream is a study with tasks, orders, seeds and data of its own. The streams are fixed: a number
holds for these and for no others. They are not independent, as they may share seeds, tasks and the
draw of orders.

In how many streams a method is shown to end nearer to multi-task is the estimate k of Dror et al.
(2017) by Bonferroni's p of a partial conjunction, which holds under any dependence. With one-sided
p_(1) <= ... <= p_(N), "it ends nearer in at least u of N streams" has

    p_{u/N} = max over v <= u of (N - v + 1) p_(v)

These are Holm's adjusted values, so k is the number of streams that Holm's procedure (1979) finds:
one column of p says both how many there are and which.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from l2kd_ray.analysis.design import Cells, cells
from l2kd_ray.analysis.estimate import LEVEL, Moments, simultaneous
from l2kd_ray.analysis.looks import Reading
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import known_spread, moments
from l2kd_ray.analysis.note import NoInterval, Note, Undefined
from l2kd_ray.analysis.paired import holm, paired
from l2kd_ray.analysis.scope import Scope
from l2kd_ray.analysis.shares import GAP

MethodPair = tuple[str, str]
"""Two methods; a difference is the gap of the first minus that of the second."""
_NONE: Mapping[str, object] = {
    **dict.fromkeys(("difference", "low", "high", "p"), np.nan),
    "note": Note(undefined=Undefined.NO_FINISHED_ORDER),
}


@dataclass(frozen=True)
class Comparison:
    """Pairs of methods over several streams."""

    pairs: pd.DataFrame
    """One row for each pair: method, against, n_streams; nearer and further (the numbers of streams
    in which `method` is shown to end nearer to multi-task, and further from it); difference (mean
    over the streams), low, high, p, note. All pairs hold together (Bonferroni)."""
    streams: pd.DataFrame
    """One row for each pair and stream: method, against, stream, setting, against/setting;
    difference, low, high and p of this stream alone; n_orders, n_seeds, note; p_adjusted
    (`replicated`) and whether a difference of this sign is shown."""

    def to_json(self) -> dict[str, Any]:
        frames = {"pairs": self.pairs, "streams": self.streams}
        return {
            name: json.loads(
                frame.astype({"note": str}).to_json(orient="records", double_precision=15)
            )
            for name, frame in frames.items()
        }


def common_pairs(streams: Sequence[Scope]) -> list[MethodPair]:
    """All pairs of the methods that every stream has, in the sequence of the first one."""
    first, *others = [dict(stream.arms) for stream in streams]
    return list(combinations([name for name in first if all(name in o for o in others)], 2))


def compare_streams(streams: Mapping[str, Scope], pairs: Sequence[MethodPair]) -> Comparison:
    """Pairs of methods over named streams; a stream that is read at a look has the look's level."""
    means, each = [], []
    for pair in pairs:
        tables = {name: _difference(stream, pair) for name, stream in streams.items()}
        rows = pd.DataFrame([_row(name, streams[name], pair, tables[name]) for name in tables])
        rows["p_adjusted"] = replicated(rows["difference"], rows["p"], len(pairs))
        rows["shown"] = rows["p_adjusted"] < 1 - LEVEL
        shown = rows["difference"][rows["shown"]]
        names = {"method": pair[0], "against": pair[1]}
        counts = {"nearer": int((shown < 0).sum()), "further": int((shown > 0).sum())}
        mean = _mean(list(streams.values()), list(tables.values()), len(pairs))
        means.append({**names, "n_streams": len(rows), **counts, **mean})
        each.append(rows.assign(**names))
    return Comparison(pd.DataFrame(means), pd.concat(each, ignore_index=True))


def replicated(differences: ArrayLike, p: ArrayLike, pairs: int = 1) -> FloatArray:
    """Holm's p of each stream for a difference of the sign that it has, from two-sided p.

    The one-sided p is p / 2 where the sign fits and counts as 1 else; both directions are tested,
    and Bonferroni's 2 for that cancels the half. A stream without p counts as one that shows
    nothing. A difference is shown where this is below 0.05: over all streams, directions and
    `pairs`, the chance of any false one is at most 5 %.
    """
    sign = np.sign(np.asarray(differences, dtype=float))
    of_one = np.nan_to_num(np.asarray(p, dtype=float), nan=1.0)
    adjusted = np.ones_like(of_one)
    for direction in (-1, 1):
        fits = sign == direction
        adjusted[fits] = holm(np.where(fits, of_one, 1.0).tolist())[fits]
    found: FloatArray = np.minimum(pairs * adjusted, 1.0)
    return found


def mean_over_streams(tables: Sequence[Cells], populations: Sequence[int]) -> Moments:
    """The mean of the differences of N streams, and its variance.

    Seeds: a seed's share of the mean is the sum of its terms in all streams that it ran in. Shares
    are independent, and identically distributed over seeds that ran in the same streams. So the
    variance is a sum over groups of such seeds, each size x variance of its shares. With the same
    seeds everywhere that is Student's over the seeds' means; with seeds of their own, the sum of
    the streams' variances / N^2. The degrees of freedom are the harmonic mean of the groups',
    weighted by variance: about the quantile of Cochran & Cox (1950). Satterthwaite's is too small
    where a few seeds vary more than many. NaN and 0 where a group is one seed.

    Orders: streams of equally many tasks run the same draw of orders, so that their order parts may
    go together. Their standard errors are added, an upper bound under any dependence.
    """
    share: dict[str, float] = defaultdict(float)
    ran_in: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for stream, table in enumerate(tables):
        for seed, mean in zip(table.train, table.by_seed.mean(axis=0), strict=True):
            share[seed] += float(mean) / (len(table.train) * len(tables))
            ran_in[seed] += (stream,)
    groups = [
        [share[s] for s in ran_in if ran_in[s] == of] for of in dict.fromkeys(ran_in.values())
    ]
    each = [moments(t.by_seed, of) for t, of in zip(tables, populations, strict=True)]
    errors = np.sqrt([float(one.order) for one in each])
    order_df = min((one.order_df for one in each if float(one.order) != 0), default=0)
    between, seed_df = _between_seeds(groups)
    if any(np.isnan(one.seed) for one in each):
        between = np.nan
    return Moments(
        np.asarray(sum(share.values())),
        np.asarray((errors.sum() / len(each)) ** 2),
        np.asarray(between),
        order_df,
        seed_df,
    )


def _between_seeds(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The variance of the sum of all shares, and its degrees of freedom."""
    if min(map(len, groups)) == 1:
        return np.nan, 0.0
    free = np.array([len(group) - 1.0 for group in groups])
    parts = known_spread((free + 1) * [np.var(group, ddof=1) for group in groups])
    return float(parts.sum()), float(parts.sum() / (parts / free).sum())


def _mean(streams: Sequence[Scope], tables: Sequence[Cells], pairs: int) -> dict[str, object]:
    """The columns of the mean of one of so many pairs.

    Streams may be read at looks of levels 1 - a_i; the mean then has 1 - 0.05 prod(a_i / 0.05),
    which adds up to 95 % over all combinations of their looks (Bonferroni).
    """
    if not all(len(table.orders) for table in tables):
        return {**_NONE}
    spent = prod((1 - stream.level) / (1 - LEVEL) for stream in streams)
    look = LEVEL if spent == 1 else 1 - (1 - LEVEL) * spent
    level = simultaneous(look, pairs) or look
    populations = [s.design.population(len(t.orders)) for s, t in zip(streams, tables, strict=True)]
    found = mean_over_streams(tables, populations)
    why = NoInterval.ONE_ORDER if np.isnan(found.order) else None
    why = NoInterval.LONE_SEED if found.seed_df < 1 else why
    mean = found.estimate(Reading(0, look).note(Note(no_interval=why)), level)
    p = Reading(0, level).adjusted(found.p)
    return {"difference": mean.value, "low": mean.low, "high": mean.high, "p": p, "note": mean.note}


def _difference(stream: Scope, pair: MethodPair) -> Cells:
    """The gap of the first method minus that of the second, on the orders that have every cell."""
    one, other = (
        cells(stream.rows((name, dict(stream.arms)[name])), GAP, stream.orders, stream.design.seeds)
        for name in pair
    )
    return replace(one, values=one.values - other.values).whole


def _row(name: str, stream: Scope, pair: MethodPair, difference: Cells) -> dict[str, object]:
    """The columns of one stream, those of `compare_methods` for a pair by itself."""
    table, orders, settings = difference.by_seed, len(difference.orders), dict(stream.arms)
    known = {
        "stream": name,
        "setting": settings[pair[0]],
        "against/setting": settings[pair[1]],
        "n_orders": orders,
        "n_seeds": len(difference.train),
    }
    if not orders:
        return {**known, **_NONE}
    left_out = len(stream.orders) - orders
    note = stream.reading.note(Note(reach=stream.design.reach(orders, left_out), left_out=left_out))
    population = stream.design.population(orders)
    found = paired(table, np.zeros_like(table), population, note, stream.level)
    return {
        **known,
        "difference": found.difference.value,
        "low": found.difference.low,
        "high": found.difference.high,
        "p": stream.reading.adjusted(found.p),
        "note": found.difference.note,
    }
