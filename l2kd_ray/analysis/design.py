"""The orders and seeds that a study plans to run, and which orders its means hold for.

`all` and `random` run a prefix of one seeded permutation of the orders, so that the finished orders
are a random sample of all n! orders at any time. `williams` is no sample: inference from it to the
other orders rests on a model. A list of orders holds for those orders only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import factorial
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from l2kd_ray.analysis.estimate import LEVEL, Estimate
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.mean import moments
from l2kd_ray.analysis.note import NoInterval, Note, OrderPopulation, Reach, Undefined
from l2kd_ray.analysis.trials import SEEDS, bound_seed, seed_parts, train_seed
from l2kd_ray.names import MULTITASK, SEPARATOR

DesignKind = Literal["all", "random", "williams", "list"]
ArmId = tuple[str, str]
"""A method and its setting, as `results` names them."""


class Instance(NamedTuple):
    """A trial by its names, as in `results`; identifies trials that have failed."""

    method: str
    setting: str
    order: str
    seed: str


def arms_of(table: pd.DataFrame) -> list[ArmId]:
    """The method and setting of each row."""
    return list(zip(table["method"], table["setting"], strict=True))


def of_arm(table: pd.DataFrame, arm: ArmId) -> pd.DataFrame:
    """The rows of one method and setting."""
    return table[(table["method"] == arm[0]) & (table["setting"] == arm[1])]


@dataclass(frozen=True)
class Design:
    """The orders and seeds of a study, in the order in which they are run."""

    kind: DesignKind
    orders: tuple[str, ...]
    """Orders such as `a>b>c`; for `all` and `random`, a prefix of a seeded permutation."""
    seeds: tuple[str, ...]
    """Seeds such as `531`, or `531r7` where training and replay seeds are crossed."""

    @property
    def orderless(self) -> bool:
        """True if the methods learn their tasks in no order, so that only seeds differ."""
        return self.orders == ("",)

    @property
    def tasks(self) -> int:
        return self.orders[0].count(SEPARATOR) + 1 if self.orders else 0

    @property
    def possible(self) -> int:
        """n!, of n tasks."""
        return factorial(self.tasks) if self.orders else 0

    @property
    def sampled(self) -> bool:
        return self.kind in ("all", "random")

    def population(self, orders: int) -> int:
        """Size of the population of orders that a mean over `orders` of them holds for."""
        return orders if self.kind == "list" else self.possible

    def reach(self, orders: int, left_out: int = 0) -> Reach:
        """The population that a mean over `orders` finished orders holds for.

        `left_out`: orders on which a trial failed. What is left is then no random sample of all.
        """
        kind = OrderPopulation.LISTED
        if self.orderless:
            kind = OrderPopulation.NONE
        elif orders == self.possible:
            kind = OrderPopulation.ALL
        elif left_out and self.kind != "list":
            kind = OrderPopulation.UNFAILED
        elif self.sampled:
            kind = OrderPopulation.RANDOM
        elif self.kind == "williams":
            kind = OrderPopulation.WILLIAMS
        return Reach(kind, orders, self.possible)

    def part(self, orders: Sequence[str], seeds: Sequence[str]) -> Design:
        """The same design with some of its orders and seeds; a part of `all` is `random`."""
        kind: DesignKind = (
            "random" if self.kind == "all" and len(orders) < self.possible else self.kind
        )
        if self.kind == "williams" and len(orders) < len(self.orders):
            kind = "list"  # a part of the square is not balanced
        return Design(kind, tuple(orders), tuple(seeds))


@dataclass(frozen=True)
class Cells:
    """One number of every instance, `[orders, training seeds, *crossed]`; NaN is missing."""

    values: FloatArray
    orders: tuple[str, ...]
    train: tuple[str, ...]
    crossed: tuple[str, ...] = ()
    """The seeds that are crossed with the training seed, each an axis: `replay`, `data`."""

    @property
    def whole(self) -> Cells:
        """The orders with every cell."""
        axes = tuple(range(1, self.values.ndim))
        kept = np.flatnonzero(~np.isnan(self.values).any(axis=axes))
        names = tuple(self.orders[int(k)] for k in kept)
        return replace(self, values=self.values[kept], orders=names)

    @property
    def by_seed(self) -> FloatArray:
        """`[orders, training seeds]`: crossed seeds averaged, NaN where one is missing."""
        mean: FloatArray = self.values.mean(axis=tuple(range(2, self.values.ndim)))
        return mean

    @property
    def averaged(self) -> Cells:
        """`by_seed` as cells of seeds that are not crossed."""
        return replace(self, values=self.by_seed, crossed=())


def cells(rows: pd.DataFrame, column: str, orders: Sequence[str], seeds: Sequence[str]) -> Cells:
    """One column of the rows of one method and setting, at these orders and seeds.

    Raises:
        ValueError: two rows are of one instance.
    """
    if rows.duplicated(["order", "seed"]).any():
        raise ValueError("cells: two rows of one (order, seed); expected one method and setting")
    parts = {seed: seed_parts(seed) for seed in seeds}
    levels = {name: tuple(dict.fromkeys(own[name] for own in parts.values())) for name in SEEDS}
    crossed = tuple(name for name in SEEDS[1:] if _is_crossed(name, parts.values()))
    axes = ("train", *crossed)
    row_of = {order: k for k, order in enumerate(orders)}
    column_of = {
        seed: tuple(levels[name].index(own[name]) for name in axes) for seed, own in parts.items()
    }
    values = np.full((len(orders), *(len(levels[name]) for name in axes)), np.nan)
    numbers = rows[column].to_numpy(dtype=float)
    for order, seed, number in zip(rows["order"], rows["seed"], numbers, strict=True):
        if order in row_of and seed in column_of:
            values[(row_of[order], *column_of[seed])] = number
    return Cells(values, tuple(orders), levels["train"], crossed)


def crossed_seeds(seeds: Sequence[str]) -> dict[str, int]:
    """The seeds that are crossed with the training seed (`replay`, `data`), each with its count."""
    parts = [seed_parts(seed) for seed in seeds]
    return {
        name: len({own[name] for own in parts}) for name in SEEDS[1:] if _is_crossed(name, parts)
    }


def _is_crossed(name: str, parts: Collection[Mapping[str, str]]) -> bool:
    """True if a training seed has several seeds of this name."""
    return len({(own["train"], own[name]) for own in parts}) > len({own["train"] for own in parts})


def without_score(scores: pd.DataFrame) -> list[Instance]:
    """The trials of the long form of R whose final test score is NaN: they ended, and will not
    have another."""
    last = scores["order"].str.count(SEPARATOR) + 1 == scores["i"]
    chosen = last & (scores["order"] != "") & (scores["split"] == "test") & scores["score"].isna()
    names = scores.loc[chosen, list(Instance._fields)].drop_duplicates()
    return [Instance(*map(str, row)) for row in names.itertuples(index=False)]


def finished_orders(
    results: pd.DataFrame,
    arms: Collection[ArmId],
    design: Design,
    failed: Collection[Instance] = (),
) -> tuple[str, ...]:
    """The longest prefix of the design's orders that every arm has finished on every seed.

    A trial is finished if it has its gap or has failed for good. The orders used must not depend on
    which trials happen to be fast, so a trial beyond this prefix is not used. A Williams design is
    used only when it is whole.
    """
    done = results[results["complete"] & results["gap/abs"].notna()]
    known = {*zip(*(done[name] for name in Instance._fields), strict=True), *failed}
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
    """Mean of `column` over the design's population of orders, from its finished `orders`.

    `rows` belong to one method and setting. Orders on which a trial has failed are left out and
    counted in the note (`scored_zero` counts them as 0 instead). Without a finished order, the mean
    of all complete trials, noted as descriptive. No interval at level None.
    """
    found = cells(rows, column, orders, design.seeds).whole
    table = found.by_seed
    if not len(table):
        return _descriptive(rows, design, column)
    if len(found.train) == 1:
        return Estimate(float(table.mean()), note=Note(no_interval=NoInterval.ONE_SEED))
    left_out = len(orders) - len(table)
    note = Note(reach=design.reach(len(table), left_out), left_out=left_out)
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
    """The rows of one method and setting, plus a row with scores of 0 for each failed trial.

    The gap of a student that scores 0 is the multi-task score of its `bound_seed`, which the
    `multitask` rows of `references` (`results`) have; other columns are NaN.
    """
    bounds = references[references["method"] == MULTITASK]
    bound = dict(zip(bounds["seed"].map(bound_seed), bounds["cl/avg"], strict=True))
    more = [
        {**one._asdict(), column: bound.get(bound_seed(one.seed), np.nan), "complete": True}
        for one in failed
    ]
    return pd.concat([rows, pd.DataFrame(more)], ignore_index=True) if more else rows
