"""How often the intervals of `l2kd_ray.analysis` hold the truth, on studies whose truth is known.

    python benchmarks/coverage.py [part ...] [--repeats N]

A made-up study has, for each seed, noise at every node of the trie of orders, inherited and damped
by all that follow; noise of every task's teacher, passed on to every student; noise of the
multi-task run; and, common to all seeds, effects of which task comes before which, and of the
order as such. Every figure is a share of 4,000 such studies (fewer for what is fitted one by one).
The part `hard` has worlds that intervals fail in: one task that is hard when it is last, order
effects that differ between methods, heavy tails, seeds that collapse, and rare hard orders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2kd_ray.analysis import (
    Cells,
    ExampleGaps,
    assisted,
    decompose,
    effects,
    example_variance,
    extremes,
    moments,
    paired,
    planned_looks,
    race,
    ratio,
    sign_flip,
)
from l2kd_ray.analysis.estimate import LEVEL, simultaneous
from l2kd_ray.analysis.examples import with_examples
from l2kd_ray.analysis.extreme import predict
from l2kd_ray.analysis.looks import alphas
from l2kd_ray.analysis.precedence import features
from l2kd_ray.analysis.streams import mean_over_streams, replicated
from l2kd_ray.analysis.worst import orders_beyond_worst
from l2kd_ray.study.orders import orders_of

REPEATS = 4000
AT_ONCE = 250
_DRAWS = 1000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Standard deviations, in points, of what makes a gap; `orders` is between all n! orders."""

    name: str
    orders: float
    """Of the truth: of which task comes before which, and of the order as such, which is skewed."""
    node: float
    teacher: float
    multitask: float
    precedence: float = 0.5
    """Its share of the variance between orders."""
    keep: float = 0.8
    """What a student inherits of its parent's noise."""
    tails: float = np.inf
    """Degrees of freedom of the noise, Student's t of the same standard deviation."""
    last: float = 0.0
    """Points that one task costs when it is last, against the mean order."""
    rare: float = 0.0
    """Points that one order in twelve costs."""
    collapse: float = 0.0
    """Points that one seed in ten loses."""


WORLDS = (
    World("orders matter most", orders=3.0, node=0.5, teacher=0.5, multitask=0.3),
    World("precedence matters most", 3.0, node=0.5, teacher=0.5, multitask=0.3, precedence=0.95),
    World("all alike", orders=1.0, node=0.7, teacher=0.7, multitask=0.7),
    World("seeds matter most", orders=0.5, node=0.5, teacher=1.0, multitask=1.0),
    World("noise of stages only", orders=0.2, node=1.0, teacher=0.0, multitask=0.0),
)
_PLAIN = World("plain", orders=1.0, node=0.7, teacher=0.7, multitask=0.7)
HARD = (
    _PLAIN,
    replace(_PLAIN, name="a hard last task", last=10.0),
    replace(_PLAIN, name="rare hard orders", rare=10.0),
    replace(_PLAIN, name="heavy tails (t3)", tails=3.0),
    replace(_PLAIN, name="collapsing seeds", collapse=10.0),
)


@dataclass(frozen=True)
class Trie:
    """The orders of n tasks, and the node that each passes at each depth."""

    tasks: tuple[str, ...]
    orders: tuple[tuple[str, ...], ...]
    names: list[str]
    """The orders as `a>b>c`."""
    nodes: tuple[NDArray[np.intp], ...]
    x: Array
    drawn: NDArray[np.intp]
    """`[draws, orders]`: the sequences that `orders: all` gives with many data seeds."""

    @staticmethod
    def of(n: int) -> Trie:
        tasks = tuple("abcdefgh"[:n])
        orders = tuple(permutations(tasks))
        nodes = []
        for depth in range(1, n + 1):
            number: dict[tuple[str, ...], int] = {}
            nodes.append(
                np.array([number.setdefault(o[:depth], len(number)) for o in orders], dtype=np.intp)
            )
        index = {order: k for k, order in enumerate(orders)}
        drawn = [[index[o] for o in orders_of(tasks, "all", seed)] for seed in range(_DRAWS)]
        names = [">".join(order) for order in orders]
        return Trie(tasks, orders, names, tuple(nodes), features(orders, tasks), np.array(drawn))

    def truth(self, world: World, stream: np.random.Generator, studies: int) -> Array:
        """`[studies, orders]`: gaps free of noise, their mean over all orders 0."""
        precedence = stream.normal(size=(studies, self.x.shape[1])) @ self.x.T
        own = stream.exponential(size=(studies, len(self.orders)))  # skew: some orders are bad
        weights = sqrt(world.precedence), sqrt(1 - world.precedence)
        found = world.orders * (weights[0] * _standard(precedence) + weights[1] * _standard(own))
        last = self.x[:, -len(self.tasks)]  # of the first task: 1 - 1/n where it is last, else -1/n
        rare = stream.permuted(np.tile(np.arange(len(last)) < len(last) / 12, (studies, 1)), axis=1)
        found += world.last * last + world.rare * (rare - rare.mean(axis=1, keepdims=True))
        return found

    def noise(self, world: World, stream: np.random.Generator, studies: int, seeds: int) -> Array:
        """`[studies, orders, seeds]`: of a student's mean score and of the bound, by seed."""
        depth = len(self.tasks)

        def draw(*size: int) -> Array:
            if np.isinf(world.tails):
                return stream.normal(size=size)
            scale = sqrt((world.tails - 2) / world.tails)
            return scale * stream.standard_t(world.tails, size=size)

        found = world.multitask * draw(studies, 1, seeds)
        found += world.collapse * ((stream.random((studies, 1, seeds)) < 0.1) - 0.1)
        teachers = world.teacher * draw(studies, depth, seeds)
        column = {task: k for k, task in enumerate(self.tasks)}
        student = np.zeros((studies, len(self.orders), seeds))
        for level, node in enumerate(self.nodes):
            new = world.node * draw(studies, node.max() + 1, seeds)
            learned = [column[order[level]] for order in self.orders]
            student = world.keep * student + new[:, node] + teachers[:, learned] / depth
        return found - student

    def again(
        self, world: World, stream: np.random.Generator, drawn: NDArray[np.intp], seeds: int
    ) -> Array:
        """Another method's gaps, independent, in the drawn sequence of orders."""
        gaps = self.truth(world, stream, len(drawn))[:, :, None]
        gaps = gaps + self.noise(world, stream, len(drawn), seeds)
        return np.take_along_axis(gaps, drawn[:, :, None], axis=1)


def _standard(values: Array) -> Array:
    centred = values - values.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    return centred / np.where(spread > 0, spread, 1.0)


def studies(
    trie: Trie, world: World, seeds: int, repeats: int
) -> Iterator[tuple[Array, NDArray[np.intp], Array]]:
    """Batches of (gaps `[studies, orders, seeds]`, drawn sequence of orders, truth by order).

    The gaps are in the sequence in which orders are drawn; the true mean over all orders is 0.
    """
    stream = np.random.default_rng([len(trie.tasks), seeds, (*WORLDS, *HARD).index(world)])
    for start in range(0, repeats, AT_ONCE):
        count = min(AT_ONCE, repeats - start)
        truth = trie.truth(world, stream, count)
        gaps = truth[:, :, None] + trie.noise(world, stream, count, seeds)
        drawn = trie.drawn[stream.integers(len(trie.drawn), size=count)]
        yield np.take_along_axis(gaps, drawn[:, :, None], axis=1), drawn, truth


def plans(
    designs: Iterable[tuple[int, int]], numbers_of_seeds: Iterable[int]
) -> Iterator[tuple[Trie, World, int, int, str]]:
    """Trie, world, seeds and orders that run, of every plan; and its words in a row.

    `designs`: tasks, and orders that run.
    """
    for n, ran in designs:
        trie = Trie.of(n)
        for world, seeds in product(WORLDS, numbers_of_seeds):
            where = f"{ran} of {len(trie.orders)} orders, {seeds} seeds, {world.name}"
            yield trie, world, seeds, ran, where


def one_by_one(
    trie: Trie, world: World, seeds: int, repeats: int
) -> Iterator[tuple[Array, list[str], Array]]:
    """The studies of `studies` each by itself: gaps, names of the orders, and the truth by the
    trie's orders."""
    for gaps, sequence, truth in studies(trie, world, seeds, repeats):
        for table, chosen, exact in zip(gaps, sequence, truth, strict=True):
            yield table, [trie.names[k] for k in chosen], exact


def intervals(repeats: int) -> Iterator[dict[str, Any]]:
    """95 % intervals of the mean gap over all n! orders; and p below 0.05 where nothing differs."""
    designs = (3, 6), (4, 24), (4, 6), (5, 120), (5, 10), (5, 40)
    for trie, world, seeds, drawn, where in plans(designs, (2, 3, 5, 10)):
        held = []
        for gaps, _, _ in studies(trie, world, seeds, repeats):
            found = moments(gaps[:, :drawn], len(trie.orders))
            held.append(np.abs(found.mean) <= found.half_width())
        yield share("intervals", where, np.concatenate(held))


DESIGNS = ((3, 6), (4, 24), (4, 6), (4, 12), (5, 10), (5, 20), (5, 60))
"""Tasks, and orders that are planned."""


def hard(repeats: int) -> Iterator[dict[str, Any]]:
    """Per world and design: coverage of the mean gap, at the end and at all looks; size; power.

    Size: p < 0.05 of two methods whose gaps are equal over all orders, with order effects of their
    own; seeds of one alone collapse. Power: of the difference that `detectable` names from the mean
    variance. Winner: the simultaneous interval of the smallest of eight equal gaps.
    """
    for n, drawn in DESIGNS:
        trie = Trie.of(n)
        for world in HARD:
            for seeds in (2, 3, 5, 10):
                where = f"{drawn} of {len(trie.orders)} orders, {seeds} seeds, {world.name}"
                for what, values in _hard_of(trie, world, seeds, drawn, repeats).items():
                    yield share("hard", f"{what}, {where}", np.concatenate(values))


def _hard_of(
    trie: Trie, world: World, seeds: int, drawn: int, repeats: int
) -> dict[str, list[NDArray[np.bool_]]]:
    """Whether each statement holds in each study, in batches."""
    population, plan = len(trie.orders), planned_looks(drawn)
    found: dict[str, list[NDArray[np.bool_]]] = {}
    stream = np.random.default_rng([len(trie.tasks), seeds, drawn, HARD.index(world)])
    sound, distance = replace(world, collapse=0.0), None
    for gaps, sequence, _ in studies(trie, world, seeds, repeats):
        mine = moments(gaps[:, :drawn], population)
        others = [trie.again(world, stream, sequence, seeds)[:, :drawn] for _ in range(7)]
        eight = [mine, *(moments(other, population) for other in others)]
        means = np.stack([one.mean for one in eight])
        half = np.stack([one.half_width(1 - 0.05 / len(eight)) for one in eight])
        at = means.argmin(axis=0), np.arange(len(gaps))
        rival = trie.again(sound, stream, sequence, seeds)[:, :drawn]
        pair = moments(gaps[:, :drawn] - rival, population)
        if distance is None:
            parts = np.asarray(pair.order.mean()), np.asarray(pair.seed.mean())
            distance = replace(pair, order=parts[0], seed=parts[1]).detectable()
        now = {
            "mean": np.abs(mine.mean) <= mine.half_width(),
            "winner": np.abs(means[at]) <= half[at],
            "size": np.abs(pair.mean) > pair.half_width(),
            "power": np.abs(pair.mean + distance) > pair.half_width(),
        }
        if len(plan) > 1:
            looked = [moments(gaps[:, :k], population) for k in plan]
            levels = zip(looked, alphas(plan), strict=True)
            now["looks"] = np.all([np.abs(m.mean) <= m.half_width(1 - a) for m, a in levels], 0)
        for what, values in now.items():
            found.setdefault(what, []).append(values)
    return found


def data_draws(repeats: int) -> Iterator[dict[str, Any]]:
    """The interval of the mean gap over seeds and draws of training data, by design of the study.

    A draw moves all gaps of its trainings by a normal number whose std is given; a seed's mean has
    a std of 0.9. Each seed draws its own, or all train on one draw, or every seed trains on each of
    three draws.
    """
    trie, world = Trie.of(3), _PLAIN
    for seeds, std in product((2, 3, 5, 10), (0.5, 1.0, 2.0)):
        stream = np.random.default_rng(seeds)
        held: dict[str, list[NDArray[np.bool_]]] = {}
        for gaps, _, _ in studies(trie, world, seeds, repeats):
            own, one, three = (
                std * stream.normal(size=(len(gaps), 1, draws)) for draws in (seeds, 1, 3)
            )
            common = three.mean(axis=2, keepdims=True)
            for name, moved in (("its own draw", own), ("one draw", one), ("3 crossed", common)):
                found = moments(gaps + moved, len(trie.orders))
                held.setdefault(name, []).append(np.abs(found.mean) <= found.half_width())
        for name, values in held.items():
            yield share("data", f"{name}, std {std:g}, {seeds} seeds", np.concatenate(values))


def selection(repeats: int) -> Iterator[dict[str, Any]]:
    """The gap of the best of equal settings on dev: its own interval, and by how much it is low.

    Dev and test scores are of the same models; each has noise of its own test examples.
    """
    trie, world, seeds = Trie.of(3), _PLAIN, 5
    for settings in (2, 4, 8, 16):
        stream, held, low = np.random.default_rng(settings), [], []
        for gaps, sequence, _ in studies(trie, world, seeds, repeats):
            every = [
                gaps,
                *(trie.again(world, stream, sequence, seeds) for _ in range(settings - 1)),
            ]
            models = np.stack(every)
            dev, test = (models + 0.3 * stream.normal(size=models.shape) for _ in range(2))
            at = dev.mean(axis=(2, 3)).argmin(axis=0), np.arange(len(gaps))
            found = moments(test[at], len(trie.orders))
            held.append(np.abs(found.mean) <= found.half_width())
            low.append(-found.mean)
        where = f"best of {settings} settings, 6 of 6 orders, {seeds} seeds"
        yield share("selection", f"holds, {where}", np.concatenate(held))
        spread = np.concatenate(low)
        yield _row(
            "selection", f"understated, {where}", (spread.mean(),) * 3, len(spread), "points"
        )


def comparisons(repeats: int) -> Iterator[dict[str, Any]]:
    """The share of another's gap that is closed (Fieller); and how often p < 0.05 for equals.

    Two methods of one study: the same truth over orders but for a factor, noise of their own.
    """
    for trie, world, seeds, drawn, where in plans(((3, 6), (4, 24), (5, 20)), (3, 10)):
        held, wrong, flipped = [], [], []
        stream = np.random.default_rng([len(trie.tasks), seeds])
        for gaps, sequence, truth in studies(trie, world, seeds, repeats // 8):
            noise = trie.noise(world, stream, len(gaps), seeds)
            rival = np.take_along_axis(truth[:, :, None] + noise, sequence[:, :, None], axis=1)
            for one, other in zip(gaps[:, :drawn], rival[:, :drawn], strict=True):
                closed = ratio(0.5 * one + 4, other + 10, len(trie.orders))
                held.append(closed.low <= 0.4 <= closed.high)
                found = paired(one, other, len(trie.orders))
                wrong.append(found.p < 0.05)
                flipped.append(sign_flip((one - other).mean(axis=0)) < 0.05)
        yield share("comparisons", f"gap closed, {where}", np.array(held))
        yield share("comparisons", f"p < 0.05 for equals, {where}", np.array(wrong))
        yield share("comparisons", f"sign-flip for equals, {where}", np.array(flipped))


def looks(repeats: int) -> Iterator[dict[str, Any]]:
    """Intervals at every planned look at once; and the one that `half_width: eps` stops at."""
    for trie, world, seeds, planned, where in plans(((4, 24), (5, 120), (5, 60)), (3, 5, 10)):
        plan = planned_looks(planned)
        held: list[list[Array]] = []
        naive, widths = [], []
        for gaps, _, _ in studies(trie, world, seeds, repeats):
            found = [moments(gaps[:, :k], len(trie.orders)) for k in plan]
            half = [m.half_width(1 - a) for m, a in zip(found, alphas(plan), strict=True)]
            held.append([np.abs(m.mean) <= h for m, h in zip(found, half, strict=True)])
            naive.append(np.all([np.abs(m.mean) <= m.half_width() for m in found], axis=0))
            widths.append(np.stack(half))
        by_look = np.concatenate([np.stack(batch) for batch in held], axis=1)
        half_widths = np.concatenate(widths, axis=1)
        yield share("looks", f"all {len(plan)} looks, {where}", by_look.all(axis=0))
        yield share("looks", f"all looks read at 95 % each, {where}", np.concatenate(naive))
        eps = np.median(half_widths[-2])  # about half of the studies stop before the end
        stopped = np.where(half_widths.min(axis=0) <= eps, (half_widths <= eps).argmax(axis=0), -1)
        at_stop = by_look[stopped, np.arange(by_look.shape[1])]
        yield share("looks", f"stopped at eps, {where}", at_stop)


def assisted_mean(repeats: int) -> Iterator[dict[str, Any]]:
    """The model-assisted mean: its coverage, and its width over that of the plain mean."""
    designs = (4, 14), (5, 21), (5, 40)
    for trie, world, seeds, drawn, where in plans(designs, (2, 3, 5, 10)):
        held, ratios = [], []
        for table, names, _ in one_by_one(trie, world, seeds, repeats // 4):
            plain = moments(table[:drawn], len(trie.orders)).half_width()
            found = assisted(table[:drawn], names[:drawn], len(trie.orders))
            half = float(found.half_width())
            held.append(abs(float(found.mean)) <= half)
            ratios.append(half / float(plain))
        yield share("assisted", f"holds, {where}", np.array(held))
        yield row("assisted", f"width / plain width, {where}", np.array(ratios), "x")


def parts(repeats: int) -> Iterator[dict[str, Any]]:
    """Intervals of the standard deviations of order, seed and order x seed."""
    for trie, world, seeds, drawn, where in plans(((3, 6), (4, 24), (5, 20)), (3, 10)):
        truth = _true_parts(trie, world)
        held: dict[str, list[bool]] = {name: [] for name in truth}
        for table, _, exact in one_by_one(trie, world, seeds, repeats // 16):
            cells = Cells(table[:drawn], ("",) * drawn, ("",) * seeds)
            found = decompose(cells, len(trie.orders)).set_index("component")
            wanted = {**truth, "order": float(exact.std(ddof=1))}
            for name, value in wanted.items():
                low, high = found.loc[name, "low"], found.loc[name, "high"]
                held[name].append(bool(low <= value <= high))
        for name, values in held.items():
            yield share("components", f"{name}, {where}", np.array(values))


def _true_parts(trie: Trie, world: World) -> dict[str, float]:
    """Standard deviations of a seed's mean over all orders and of what is left, from many seeds."""
    noise = trie.noise(world, np.random.default_rng(0), 1, 4000)[0]
    of_seed = noise.mean(axis=0)
    left = noise - of_seed
    return {
        "order": np.nan,
        "seed": float(of_seed.std()),
        "order x seed": sqrt(float((left**2).sum(axis=0).mean()) / (len(left) - 1)),
    }


def best_and_worst(repeats: int) -> Iterator[dict[str, Any]]:
    """The interval of the order that is predicted to be worst, against that order's true gap."""
    designs = (3, 6), (4, 24), (4, 14), (5, 120), (5, 30)
    for trie, world, seeds, drawn, where in plans(designs, (3, 10)):
        held = []
        for table, names, exact in one_by_one(trie, world, seeds, repeats // 32):
            found = extremes(table[:drawn], names[:drawn])
            for one in found.to_dict("records"):
                value = exact[trie.names.index(one["order"])]
                held.append(bool(one["low"] <= value <= one["high"]))
        yield share("extremes", where, np.array(held))


def searches(repeats: int) -> Iterator[dict[str, Any]]:
    """A search for the worst order: whether it finds it, and what holds of the one it finds.

    Dev and test scores are taken to be the same, which is the worst for the interval of a pick.
    """
    drawn_of = {(4, 12): 4, (5, 20): 10, (5, 30): 15, (6, 48): 24}
    for trie, world, seeds, budget, where in plans(drawn_of, (3, 10)):
        possible, n = len(trie.orders), len(trie.tasks)
        drawn = drawn_of[n, budget]
        beyond = orders_beyond_worst(drawn, n)
        found, held, fewer, bounded = [], [], [], []
        for gaps, sequence, truth in studies(trie, world, seeds, repeats // 32):
            for table, chosen, exact in zip(gaps, sequence, truth, strict=True):
                mean, orders = table.mean(axis=1), [trie.orders[k] for k in chosen]
                tried = list(range(drawn))
                while len(tried) < budget:
                    guess = predict([orders[k] for k in tried], mean[tried], orders)
                    guess[tried] = -np.inf
                    next_ones = np.argsort(-guess, kind="stable")
                    tried += next_ones[: min(n, budget - len(tried))].tolist()
                worst = max(tried, key=mean.__getitem__)
                of_worst = moments(table[worst : worst + 1], 1)
                error = abs(float(of_worst.mean) - exact[chosen[worst]])
                found.append(mean[worst] == mean.max())
                bounded.append((mean > mean[worst]).sum() <= beyond)
                for within, many in ((held, possible), (fewer, budget)):
                    level = simultaneous(LEVEL, many) or LEVEL
                    within.append(error <= float(of_worst.half_width(level)))
        yield share("searches", f"found, {where}", np.array(found))
        yield share("searches", f"interval, {where}", np.array(held))
        yield share("searches", f"by the tried alone, {where}", np.array(fewer))
        yield share("searches", f"beyond, {where}", np.array(bounded))


def order_effects(repeats: int) -> Iterator[dict[str, Any]]:
    """The intervals of effects of precedence, against the truth over all orders."""
    designs = (3, 6), (4, 24), (4, 14), (5, 120), (5, 30)
    for trie, world, seeds, drawn, where in plans(designs, (3, 10)):
        held = []
        for table, names, exact in one_by_one(trie, world, seeds, repeats // 32):
            found = effects(table[:drawn], names[:drawn])
            value = effects(exact[:, None], trie.names)["value"][: len(found)]
            told = found["value"].notna()
            within = found["low"].le(value) & found["high"].ge(value)
            held += within[told].tolist()
        yield share("effects", where, np.array(held))


def seeds_and_examples(repeats: int) -> Iterator[dict[str, Any]]:
    """The interval over seeds and test examples, and that over seeds alone; three tasks."""
    stream = np.random.default_rng(0)
    for seeds, clusters, each in product((3, 5, 10), (10, 32), (1, 3)):
        for of_seed, of_example, of_both in ((1, 20, 0), (1, 20, 30), (3, 20, 20), (0.2, 5, 30)):
            held: dict[str, list[bool]] = {"seeds and examples": [], "seeds alone": []}
            index = np.repeat(np.arange(clusters), each)
            for _ in range(repeats // 4):
                seed = of_seed * stream.normal(size=(seeds, 1))
                tasks = {}
                for task in "abc":
                    own = stream.normal(size=clusters)[index] + stream.normal(size=len(index))
                    both = of_both * stream.normal(size=(seeds, len(index)))
                    gaps = seed + of_example * own / sqrt(2) + both
                    tasks[task] = ExampleGaps(gaps, index.tolist())
                means = np.mean([task.gaps.mean(axis=1) for task in tasks.values()], axis=0)
                alone = moments(means[None], 1)
                wider = with_examples(alone, *example_variance(tasks))
                off = abs(float(alone.mean))
                held["seeds and examples"].append(off <= wider.half_width)
                held["seeds alone"].append(off <= float(alone.half_width()))
            std = f"std {of_seed}, {of_example}, {of_both}"
            where = f"{seeds} seeds, {clusters} clusters of {each}, {std}"
            for name, values in held.items():
                yield share("examples", f"{name}, {where}", np.array(values))


def races(repeats: int) -> Iterator[dict[str, Any]]:
    """How often a race keeps the setting that is best over all blocks, and what it saves."""
    for n, settings, apart in ((4, 4, 0.0), (4, 4, 1.0), (4, 12, 1.0), (5, 12, 1.0)):
        trie, stream = Trie.of(n), np.random.default_rng([n, settings])
        kept, saved, blocks = [], [], len(trie.orders)
        for _ in range(repeats // 4):
            level = apart * stream.normal(size=(settings, 1))
            common = trie.truth(WORLDS[0], stream, 1)
            own = 0.3 * trie.truth(WORLDS[0], stream, settings)
            own += trie.noise(WORLDS[1], stream, settings, 3).mean(axis=2)
            scores = level + common + own
            dropped = race(scores, blocks)
            runs = sum(dropped.values()) + blocks * (settings - len(dropped))
            kept.append(int(scores.mean(axis=1).argmax()) not in dropped)
            saved.append(1 - runs / (settings * blocks))
        where = f"{settings} settings {apart:g} points apart, {blocks} orders"
        yield share("races", f"the best is kept, {where}", np.array(kept))
        yield row("races", f"blocks saved, {where}", 100 * np.array(saved), "%")


def streams(repeats: int) -> Iterator[dict[str, Any]]:
    """The mean difference over four streams, and in how many of them a difference is shown.

    Two streams have a difference of two points and two have none. The noise of a seed is of all
    streams (`together`) or changes its sign from one to the next; the draw of orders is one for all
    streams, as their effects are. The last stream is three times as noisy as the first.
    """
    of_stream = np.array([-2.0, -2.0, 0.0, 0.0])
    noisy = np.array([1.0, 1.0, 2.0, 3.0])
    plans = {
        "the same 3 seeds": [range(3)] * 4,
        "the same 10 seeds": [range(10)] * 4,
        "3 seeds each": [range(3 * k, 3 * k + 3) for k in range(4)],
        "3 to 10 seeds each": [range(20 * k, 20 * k + n) for k, n in enumerate((10, 5, 5, 3))],
        "5 seeds, 8 in half": [range(5), range(8)] * 2,
    }
    for (plan, seeds), (ran, every), (kind, sign) in product(
        plans.items(), ((2, 2), (6, 24)), {"together": 1, "apart": -1}.items()
    ):
        stream, held, more = np.random.default_rng(0), [], []
        for _ in range(repeats // 4):
            common = stream.normal(size=every)
            drawn = stream.choice(every, ran, replace=False)
            of_seed = stream.normal(size=1 + max(map(max, seeds)))
            tables, p = [], []
            for k, own in enumerate(seeds):
                order = common + 0.5 * stream.normal(size=every)
                noise = sign**k * of_seed[list(own)] + 0.5 * stream.normal(size=(ran, len(own)))
                values = of_stream[k] + (order - order.mean())[drawn, None] + noisy[k] * noise
                names = tuple(map(str, own))
                tables.append(Cells(values, ("",) * ran, names))
                p.append(paired(values, 0 * values, every).p)
            found = mean_over_streams(tables, [every] * 4).estimate()
            held.append(found.low <= of_stream.mean() <= found.high)
            means = np.array([table.values.mean() for table in tables])
            shown = replicated(means, p) < 0.05
            more.append((shown & (means < 0)).sum() > 2 or bool((shown & (means > 0)).any()))
        where = f"{plan}, {ran} of {every} orders, {kind}"
        yield share("streams", f"mean over streams, {where}", np.array(held))
        yield share("streams", f"more streams than differ are shown, {where}", np.array(more))


def share(part: str, what: str, held: NDArray[np.bool_]) -> dict[str, Any]:
    """A percentage with its own 95 % interval over the made-up studies (Wald)."""
    p, n = float(held.mean()), len(held)
    half = 1.96 * sqrt(p * (1 - p) / n)
    return _row(part, what, (100 * p, 100 * (p - half), 100 * (p + half)), n, "%")


def row(part: str, what: str, values: Array, unit: str) -> dict[str, Any]:
    """Median and middle half."""
    low, middle, high = (float(v) for v in np.quantile(values, [0.25, 0.5, 0.75]))
    return _row(part, what, (middle, low, high), len(values), unit)


def _row(
    part: str, what: str, numbers: tuple[float, float, float], n: int, unit: str
) -> dict[str, Any]:
    median, low, high = (round(number, 3) for number in numbers)
    found = {"part": part, "what": what, "median": median, "low": low, "high": high}
    print(f"{part:<10} {what:<78} {median:>8} {unit}", file=sys.stderr, flush=True)
    return {**found, "n": n, "unit": unit}


PARTS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {
    "intervals": intervals,
    "hard": hard,
    "data": data_draws,
    "selection": selection,
    "comparisons": comparisons,
    "looks": looks,
    "assisted": assisted_mean,
    "components": parts,
    "extremes": best_and_worst,
    "searches": searches,
    "effects": order_effects,
    "examples": seeds_and_examples,
    "races": races,
    "streams": streams,
}


def rows(names: list[str] | None = None, repeats: int = REPEATS) -> Iterator[dict[str, Any]]:
    """One dictionary a figure: part, what, median (the figure), low, high, n, unit."""
    for name in names or PARTS:
        yield from PARTS[name](repeats)


def main() -> None:
    from table import save

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", help=", ".join(PARTS))
    arguments.add_argument("--repeats", type=int, default=REPEATS)
    given = arguments.parse_args()
    save("coverage", list(rows(given.parts, given.repeats)))


if __name__ == "__main__":
    main()
