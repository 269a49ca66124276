"""The frames that a report is drawn from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from l2kd_ray.analysis.compare import compare, shown_arms, shown_rows
from l2kd_ray.analysis.design import ArmId, Design, Instance, arms_of, without_score
from l2kd_ray.analysis.distillation import Published, gains
from l2kd_ray.analysis.halves import Halves, Optimism, optimism, within
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.orders import over_orders
from l2kd_ray.analysis.paired import compare_methods
from l2kd_ray.analysis.precedence import effects, extremes
from l2kd_ray.analysis.scope import (
    Scope,
    by_order,
    over_table,
    places,
    precedence,
    variance,
)
from l2kd_ray.analysis.teachers import teachers_of
from l2kd_ray.analysis.trials import (
    RESULT_METRICS,
    ScoredTrial,
    result_rows,
    results,
    tasks_of,
    trials,
)


@dataclass(frozen=True)
class Findings:
    """All results of a study's scores; the frames are also the report's CSV files."""

    scores: pd.DataFrame
    trials: tuple[ScoredTrial, ...]
    results: pd.DataFrame
    gap: pd.DataFrame
    """`compare`: one row for each method and setting, by gap, references last."""
    orders: pd.DataFrame
    """`over_orders`: one row for each shown method and setting."""
    comparisons: pd.DataFrame
    """`compare_methods`: one row for each pair of selected methods."""
    gains: pd.DataFrame
    """`distillation.gains`: what teachers gain, against the control without any."""
    scope: Scope
    by_order: pd.DataFrame
    variance: pd.DataFrame
    precedence: pd.DataFrame
    effects: pd.DataFrame
    extremes: pd.DataFrame
    places: pd.DataFrame
    optimism: Mapping[str, Optimism]
    """By method, where settings were selected on one half and are reported on the other."""
    designed: bool
    """True if the study's design is known, and not only the trials that have run."""

    @property
    def tasks(self) -> list[str]:
        gaps = [name for name in self.results.columns if name.startswith("gap/")]
        return [name.removeprefix("gap/") for name in gaps if name not in RESULT_METRICS]

    @cached_property
    def arms(self) -> pd.DataFrame:
        """The `shown_rows` of `gap`, numbered from 0."""
        return shown_rows(self.gap).reset_index(drop=True)

    @property
    def teachers(self) -> pd.DataFrame:
        """The teachers of `arms` (`teachers_of`); no row where no arm has any."""
        return teachers_of(self.scores, self.arms)

    @property
    def selected_of(self) -> dict[str, int]:
        """The number of settings that each method's selected one was picked from, by the scores of
        the seeds that are reported; none where others picked it."""
        if self.optimism and not any(one.same_seeds for one in self.optimism.values()):
            return {}
        lifelong = self.gap[~self.gap["reference"]]
        return {str(name): len(own) for name, own in lifelong.groupby("method", sort=False)}

    @property
    def references(self) -> pd.DataFrame:
        return self.gap[self.gap["reference"]]

    @property
    def chosen(self) -> pd.DataFrame:
        """Complete results of methods with a selected setting: one setting a method, by gap."""
        rows = self.arms[self.arms["selected"]]
        done = self.scope.results[self.scope.results["complete"]]
        return rows[["method", "setting"]].merge(done, on=["method", "setting"])

    @property
    def used(self) -> pd.DataFrame:
        """The rows of `chosen` that the means of `gap` are over."""
        rows, scope = self.chosen, self.scope
        if not (self.designed and scope.orders):
            return rows
        kept = rows[rows["order"].isin(scope.orders)]
        of_order = kept.groupby(["method", "order"])["seed"]
        return kept[of_order.transform("size") == len(scope.design.seeds)]

    @property
    def half_way(self) -> bool:
        """True if an order of the design is not finished for all methods and seeds; without a
        design, if a shown trial that has begun still lacks a final score."""
        if self.designed:
            return len(self.scope.orders) < len(self.scope.design.orders)
        arms = self.arms
        return bool(
            (arms["n_complete"] < arms["n_trials"]).any() or arms["n_complete"].nunique() > 1
        )

    @property
    def trace(self) -> pd.DataFrame:
        """The stage keys behind every score: one row for each cell of every score matrix."""
        by = ["method", "setting", "order", "seed", "trial", "split", "i", "j"]
        return self.scores[[*by, "task", "metric", "score", "key", "model", "teacher"]].sort_values(
            by, ignore_index=True
        )

    def mean_matrices(self, rows: pd.DataFrame) -> dict[str, FloatArray]:
        """Mean score matrix `[n + 1, n]` of each method over the trials of `rows`, by position."""
        matrices = {trial.trial: trial.R for trial in self.trials}
        return {
            str(method): np.mean([matrices[trial] for trial in own["trial"]], axis=0)
            for method, own in rows.groupby("method", sort=False)
        }


def find(
    scores: pd.DataFrame,
    searched: Sequence[str] = (),
    design: Design | None = None,
    failed: Collection[Instance] = (),
    *,
    stopping: bool = False,
    split: Halves | None = None,
    published: Published | None = None,
) -> Findings:
    """Every analysis of the scores; `design`, `failed` and `stopping` as in `compare`.

    `split`: both halves where settings were selected on one half; the other half is the design.
    `published`: the settings of the methods' papers, by arm.

    Raises:
        ValueError: `scores` is empty or is not the long form of R.
    """
    design = split.report if split else design
    every = trials(scores)
    failed = {*failed, *without_score(scores)}
    test = result_rows(every, scores, searched)
    dev = results(scores, searched, split="dev")
    gap = compare(test, dev, design, failed, stopping=stopping)
    inside = within(test, design) if design else test
    begun = set(inside["method"])
    arms = [arm for arm in _selected(gap) if arm[0] in begun]
    scope = Scope.of(inside, arms, design, failed, stopping=stopping)
    whole = inside[inside["order"].isin(scope.orders)] if scope.orders else inside
    return Findings(
        scores,
        tuple(every),
        test,
        gap,
        orders=over_orders(
            whole, design if scope.reading.level else None, shown_arms(gap), scope.level
        ),
        comparisons=compare_methods(inside, scope.arms, scope.design, failed, stopping=stopping),
        gains=gains(
            scope,
            shown_rows(gap),
            gap,
            sorted(set(scores.loc[scores["teacher"] != "", "method"])),
            published or {},
            failed,
            stopping=stopping,
        ),
        scope=scope,
        by_order=by_order(scope),
        variance=variance(scope),
        precedence=precedence(scope, tasks_of(scores)),
        effects=over_table(scope, effects),
        extremes=over_table(scope, extremes),
        places=places(scope, every),
        optimism=_optimism(dev, test, gap, split) if split else {},
        designed=design is not None,
    )


def _optimism(
    dev: pd.DataFrame, test: pd.DataFrame, gap: pd.DataFrame, split: Halves
) -> dict[str, Optimism]:
    several = gap["method"].duplicated(keep=False)
    return {
        method: optimism(dev, test, method, setting, split)
        for method, setting in _selected(gap[several])
    }


def _selected(gap: pd.DataFrame) -> list[ArmId]:
    return arms_of(gap[gap["selected"] & ~gap["reference"]])
