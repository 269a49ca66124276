"""What a study set out to run, and how far inference from it reaches.

`all` and `random` run the orders of one seeded permutation from its beginning, so that however far
the study is, what it has is a random sample of all n! orders. `williams` is no sample: what it
says of the other orders rests on a model. A list of orders speaks for itself only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import factorial
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from l2kd_ray.analysis.estimate import LEVEL, Estimate
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import moments
from l2kd_ray.analysis.note import NoInterval, Note, Orders, Reach, Undefined
from l2kd_ray.analysis.trials import replay_seed, train_seed
from l2kd_ray.names import MULTITASK, SEPARATOR

Kind = Literal["all", "random", "williams", "list"]
Arm = tuple[str, str]
"""A method and its setting, as `results` names them."""


class Instance(NamedTuple):
    """A trial by its names, as `results` has them: what a failure is told by."""

    method: str
    setting: str
    order: str
    seed: str


@dataclass(frozen=True)
class Design:
    """The orders and seeds of a study, in the order in which they are run."""

    kind: Kind
    orders: tuple[str, ...]
    """As `a>b>c`. Of `all` and `random`: the beginning of a seeded permutation of all orders."""
    seeds: tuple[str, ...]
    """As `531`, and `531x7` where crossed."""

    @property
    def orderless(self) -> bool:
        """Whether the methods learn their tasks in no order: seeds are all there is."""
        return self.orders == ("",)

    @property
    def possible(self) -> int:
        """n!, of n tasks."""
        return factorial(self.orders[0].count(SEPARATOR) + 1) if self.orders else 0

    @property
    def sampled(self) -> bool:
        return self.kind in ("all", "random")

    def population(self, orders: int) -> int:
        """Of how many orders a mean over so many of them speaks."""
        return orders if self.kind == "list" else self.possible

    def reach(self, orders: int) -> Reach:
        """What a mean over so many orders speaks for."""
        kind = Orders.LISTED
        if self.orderless:
            kind = Orders.NONE
        elif orders == self.possible:
            kind = Orders.ALL
        elif self.sampled:
            kind = Orders.RANDOM
        elif self.kind == "williams":
            kind = Orders.WILLIAMS
        return Reach(kind, orders, self.possible)

    def part(self, orders: Sequence[str], seeds: Sequence[str]) -> Design:
        """The same design with some of its orders and seeds: of `all`, now a random part."""
        kind: Kind = "random" if self.kind == "all" and len(orders) < self.possible else self.kind
        if self.kind == "williams" and len(orders) < len(self.orders):
            kind = "list"  # a part of the square is not balanced
        return Design(kind, tuple(orders), tuple(seeds))


@dataclass(frozen=True)
class Cells:
    """One number of every instance, `[orders, training seeds, replay seeds]`; NaN is missing.

    Without crossed seeds a training seed has one replay seed, its own.
    """

    values: FloatArray
    orders: tuple[str, ...]
    train: tuple[str, ...]
    replay: tuple[str, ...]

    @property
    def whole(self) -> Cells:
        """The orders with every cell."""
        kept = np.flatnonzero(~np.isnan(self.values).any(axis=(1, 2)))
        names = tuple(self.orders[int(k)] for k in kept)
        return replace(self, values=self.values[kept], orders=names)

    @property
    def by_seed(self) -> FloatArray:
        """`[orders, training seeds]`: replay seeds averaged, NaN where one is missing."""
        mean: FloatArray = self.values.mean(axis=2)
        return mean


def cells(rows: pd.DataFrame, column: str, orders: Sequence[str], seeds: Sequence[str]) -> Cells:
    """`column` of the rows of one method and setting, at these orders and seeds.

    Raises:
        ValueError: two rows are of one instance.
    """
    if rows.duplicated(["order", "seed"]).any():
        raise ValueError("cells: two rows of one (order, seed); expected one method and setting")
    train = tuple(dict.fromkeys(map(train_seed, seeds)))
    crossed = len(seeds) > len(train)
    replay = tuple(dict.fromkeys(map(replay_seed, seeds))) if crossed else ("",)
    row_of = {order: k for k, order in enumerate(orders)}
    column_of = {
        seed: (train.index(train_seed(seed)), replay.index(replay_seed(seed)) if crossed else 0)
        for seed in seeds
    }
    values = np.full((len(orders), len(train), len(replay)), np.nan)
    numbers = rows[column].to_numpy(dtype=float)
    for order, seed, number in zip(rows["order"], rows["seed"], numbers, strict=True):
        if order in row_of and seed in column_of:
            values[(row_of[order], *column_of[seed])] = number
    return Cells(values, tuple(orders), train, replay)


def finished_orders(
    results: pd.DataFrame,
    arms: Collection[Arm],
    design: Design,
    failed: Collection[Instance] = (),
) -> tuple[str, ...]:
    """The longest beginning of the design's orders that every arm has finished on every seed.

    Finished is a trial with its gap, and one that has failed for good. What is used must not
    depend on which trials happen to be fast, so a trial beyond this prefix is not used, however
    many of its neighbours are done; a Williams design is used when it is whole.
    """
    done = results[results["complete"] & results["gap/abs"].notna()]
    names = ("method", "setting", "order", "seed")
    known = set(zip(*(done[name] for name in names), strict=True)) | {tuple(f) for f in failed}
    prefix: list[str] = []
    for order in design.orders:
        wanted = ((*arm, order, seed) for arm in arms for seed in design.seeds)
        if not all(instance in known for instance in wanted):
            break
        prefix.append(order)
    if design.kind == "williams" and len(prefix) < len(design.orders):
        return ()
    return tuple(prefix) if arms and design.seeds else ()


def mean_over(
    rows: pd.DataFrame,
    design: Design,
    orders: Sequence[str],
    column: str = "gap/abs",
    level: float | None = LEVEL,
) -> Estimate:
    """Mean of `column` over all orders that the design speaks for, from its finished `orders`.

    `rows` are of one method and setting. An order on which a trial has failed is left out, and the
    note says so: `scored_zero` is the figure beside. Without a finished order the mean of whatever
    is there, marked descriptive. No interval at level None.
    """
    found = cells(rows, column, orders, design.seeds).whole
    table = found.by_seed
    if not len(table):
        return _descriptive(rows, design, column)
    if len(found.train) == 1:
        return Estimate(float(table.mean()), note=Note(no_interval=NoInterval.ONE_SEED))
    note = Note(reach=design.reach(len(table)), left_out=len(orders) - len(table))
    if level is None:
        return Estimate(float(table.mean()), note=note)
    population = design.population(len(table))
    if len(table) == 1 and population > 1:
        note = replace(note, no_interval=NoInterval.ONE_ORDER)
    return moments(table, population).estimate(note, level)


def _descriptive(rows: pd.DataFrame, design: Design, column: str) -> Estimate:
    known = rows.dropna(subset=[column])
    known = known[known["complete"]]
    if known.empty:
        return Estimate(note=Note(undefined=Undefined.NO_COMPLETE_TRIAL))
    value = known.groupby(known["seed"].map(train_seed))[column].mean().mean()
    planned = len(design.orders) * len(design.seeds)
    return Estimate(float(value), note=Note(descriptive=(len(known), planned)))


def scored_zero(
    rows: pd.DataFrame, references: pd.DataFrame, failed: Collection[Instance], column: str
) -> pd.DataFrame:
    """`rows` of one method and setting with a row more for each failed trial, its scores all 0.

    The gap of a student that scores 0 is the multi-task score of its training seed, which the
    `multitask` rows of `references` (`results`) have; other columns are NaN.
    """
    bounds = references[references["method"] == MULTITASK]
    bound = dict(zip(bounds["seed"].map(train_seed), bounds["cl/avg"], strict=True))
    more = [
        {**one._asdict(), column: bound.get(train_seed(one.seed), np.nan), "complete": True}
        for one in failed
    ]
    return pd.concat([rows, pd.DataFrame(more)], ignore_index=True) if more else rows
