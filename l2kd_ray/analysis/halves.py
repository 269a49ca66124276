"""Selection on one half of the instances, the report on the other: `search.select_on`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from l2kd_ray.analysis.design import Design
from l2kd_ray.analysis.trials import train_seed


@dataclass(frozen=True)
class Halves:
    """Two designs that share no order, no seed, or neither, depending on what was halved."""

    select: Design
    report: Design

    @property
    def shares_seeds(self) -> bool:
        """True if a training seed is in both: what it brought a setting is picked and reported."""
        first, second = ({*map(train_seed, one.seeds)} for one in (self.select, self.report))
        return not first.isdisjoint(second)


def halves(design: Design, *, orders: bool = True, seeds: bool = True) -> Halves:
    """Split a study's orders and seeds: every second one, in the sequence in which they are run.

    A study that grows keeps its halves, and a half of randomly drawn orders is randomly drawn. The
    report has the half with the first order, which is the larger one of an odd number. Crossed
    replay seeds go with their training seed.

    Raises:
        ValueError: there are fewer than two orders, or training seeds, to halve.
    """
    train = list(dict.fromkeys(map(train_seed, design.seeds)))
    if orders and len(design.orders) < 2:
        raise ValueError(f"select_on.orders: half of {len(design.orders)} order; expected two")
    if seeds and len(train) < 2:
        raise ValueError(f"select_on.seeds: half of {len(train)} training seed; expected two")

    def half(start: int) -> Design:
        kept = set(train[start::2]) if seeds else set(train)
        return design.part(
            design.orders[start::2] if orders else design.orders,
            tuple(seed for seed in design.seeds if train_seed(seed) in kept),
        )

    return Halves(select=half(1), report=half(0))


def within(rows: pd.DataFrame, design: Design) -> pd.DataFrame:
    """The rows of `results` whose order and seed belong to the design; references by seed alone."""
    train = {train_seed(seed) for seed in design.seeds}
    reference = (rows["order"] == "") & rows["seed"].map(train_seed).isin(train)
    own = rows["order"].isin(design.orders) & rows["seed"].isin(design.seeds)
    return rows[reference | own]


@dataclass(frozen=True)
class Optimism:
    """Mean scores of a selected setting, in points: when selected, and on the other half."""

    selected: float
    """Dev score on the half that it was selected on."""
    held_out: float
    """Dev score on the other half; NaN where that was not scored."""
    reported: float
    """Test score on the other half."""
    luck: float
    """Dev score of all the method's settings on the selecting half minus that on the other."""
    same_seeds: bool
    """True if training seeds are in both halves (`Halves.shares_seeds`)."""

    @property
    def total(self) -> float:
        """Selected minus reported; includes the difference between the dev and test splits."""
        return self.selected - self.reported

    @property
    def of_selection(self) -> float:
        """Selected minus held out (both dev) minus the luck of the halves: the winner's curse."""
        return self.selected - self.held_out - self.luck


def optimism(
    dev: pd.DataFrame, test: pd.DataFrame, method: str, setting: str, split: Halves
) -> Optimism:
    """The optimism of a method's selected setting, of `results` on dev and on test.

    Means of ACC over complete trials (orders within a seed first). The luck of the
    halves is estimated from all settings that both halves have.
    """
    first = _means(within(dev, split.select), method)
    second = _means(within(dev, split.report), method)
    reported = _means(within(test, split.report), method).get(setting, np.nan)
    shared = first.index.intersection(second.index)
    luck = float((first[shared] - second[shared]).mean()) if len(shared) > 1 else 0.0
    return Optimism(
        float(first.get(setting, np.nan)),
        float(second.get(setting, np.nan)),
        float(reported),
        luck,
        split.shares_seeds,
    )


def _means(rows: pd.DataFrame, method: str) -> pd.Series:
    own = rows[(rows["method"] == method) & rows["complete"]]
    by_seed = own.groupby(["setting", own["seed"].map(train_seed)])["cl/avg"].mean()
    return by_seed.groupby("setting").mean()
