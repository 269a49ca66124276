"""What a study runs next, given what it has so far: looks and stops, races, selection on a half.

An agenda is a function of the study and the store alone. Asked again, in another process or next
week, it says the same; so nothing of it is kept, and `status` and the report ask it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from l2kd_ray.core.store import Store
from l2kd_ray.names import SEPARATOR
from l2kd_ray.study.orders import order_id
from l2kd_ray.study.schema import Arm, RandomOrders
from l2kd_ray.study.search import Setting, setting_id, settings_of
from l2kd_ray.study.study import Study
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.analysis import Design, Halves, Instance, Verdict


@dataclass
class Agenda:
    """The trials of a study in batches; after each batch the next one is asked for."""

    study: Study
    store: Store
    failed: set[str] = field(default_factory=set)
    """Keys of stages that have failed: their trials will not end. A sweep adds to it."""
    verdict: Verdict | None = None
    """What the stop rule said at the last look."""
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    """Settings that a race gave up, by arm, each with the number of orders it was given up at."""

    def batches(self) -> Iterator[list[Trial]]:
        """Each batch is to be finished (or to have failed) before the next one is drawn."""
        tune = self.study.config.tune
        if tune.select_on is not None:
            yield from self._halves()
        elif tune.scheduler == "race":
            yield from self._race()
        elif tune.stop.half_width is not None:
            yield from self._looks()
        else:
            yield self.study.trials()

    def trials(self) -> list[Trial]:
        """The trials that are known to be wanted, as far as the store decides it."""
        known: list[Trial] = []
        done = {*self.store.listing().finished, *self.failed}
        for batch in self.batches():
            known += batch
            if not all(cell.stage.key in done for trial in batch for cell in trial.cells):
                break
        return known

    def most(self) -> list[Trial]:
        """The trials that it can come to at most; a winner yet unknown is stood for by any."""
        every = self.study.trials()
        if self.study.config.tune.select_on is None:
            return every
        split, searched = halves_of(self.study), {arm.name for arm in self._searched()}
        any_setting = setting_id(settings_of(self.study.config)[0])
        return [
            trial
            for trial in every
            if trial.is_reference
            or (trial.method in searched and _is_in(trial, split.select))
            or (
                _is_in(trial, split.report)
                and (trial.method not in searched or setting_id(trial.setting) == any_setting)
            )
        ]

    @property
    def design(self) -> Design:
        """The orders and seeds of the study, in the sequence in which they are run."""
        return design_of(self.study)

    def selectable(self, scores: pd.DataFrame) -> pd.DataFrame:
        """The scores without the dev scores of settings that a race gave up: no selection, which
        reads dev alone, may bring them back. Asked after `trials`."""
        lost = {(arm, setting) for arm, settings in self.dropped.items() for setting in settings}
        pairs = zip(scores["method"], scores["setting"], strict=True)
        given_up = np.array([pair in lost for pair in pairs], dtype=bool)
        return scores[~(given_up & (scores["split"] == "dev").to_numpy())]

    # Looks

    def _looks(self) -> Iterator[list[Trial]]:
        """Orders up to each planned look; the rule is asked there and nowhere else."""
        from l2kd_ray.analysis import cells, finished_orders, planned_looks, results, stop_rule

        stop, design = self.study.config.tune.stop, self.design
        method = stop.method or self.study.config.arms[0].name
        every, begun = self.study.trials(), 0
        for look in planned_looks(len(design.orders)):
            chosen = set(design.orders[begun:look])
            yield [
                t
                for t in every
                if (_order(t) in chosen and not t.is_reference) or (begun == 0 and t.is_reference)
            ]
            begun = look
            scores = self.study.scores(self.store, every)
            if scores.empty:
                return
            rows = results(scores)
            arms = [(arm.name, setting_id({})) for arm in self.study.config.arms]
            orders = finished_orders(rows, arms, design, self.failures(every))
            own = rows[rows["method"] == method]
            self.verdict = stop_rule(
                cells(own, stop.metric, orders, design.seeds).by_seed,
                len(design.orders),
                design.population(len(design.orders)),
                stop.half_width or 0.0,
                method=method,
                metric=stop.metric,
            )
            if self.verdict.stop:
                return

    # Races

    def _race(self) -> Iterator[list[Trial]]:
        """Order by order, each with all its seeds; a setting that cannot win is given up."""
        from l2kd_ray.analysis import planned_looks

        design, arms = self.design, self._searched()
        settings = settings_of(self.study.config)
        every, begun = self.study.trials(), 0
        for look in planned_looks(len(design.orders)):
            chosen = set(design.orders[begun:look])
            yield [
                t
                for t in every
                if (_order(t) in chosen and not self._is_dropped(t))
                or (begun == 0 and t.is_reference)
            ]
            begun = look
            for arm in arms:
                self.dropped[arm.name] = self._given_up(arm, settings, design, look)

    def _given_up(
        self, arm: Arm, settings: Sequence[Setting], design: Design, done: int
    ) -> dict[str, int]:
        from l2kd_ray.analysis import race

        scores = np.full((len(settings), done), np.nan)
        for row, setting in enumerate(settings):
            for block, order in enumerate(design.orders[:done]):
                trials = [
                    self.study.trial(arm.name, setting, tuple(order.split(SEPARATOR)), seed)
                    for seed in design.seeds
                ]
                scores[row, block] = np.mean([self._dev(trial) for trial in trials])
        found = race(scores, len(design.orders))
        return {setting_id(settings[row]): at for row, at in found.dropped.items() if at <= done}

    def _is_dropped(self, trial: Trial) -> bool:
        return setting_id(trial.setting) in self.dropped.get(trial.method, {})

    # Selection on a half

    def _halves(self) -> Iterator[list[Trial]]:
        """Every setting on one half of the instances, the best of each method on the other."""
        from l2kd_ray.analysis import results, select, within

        split, every = halves_of(self.study), self.study.trials()
        searched = {arm.name for arm in self._searched()}
        yield [
            trial
            for trial in every
            if trial.is_reference or (trial.method in searched and _is_in(trial, split.select))
        ]
        scores = self.study.scores(self.store, every)
        if scores.empty:
            return
        names = list(self.study.config.search)
        chosen = select(within(results(scores, names, split="dev"), split.select))
        best = chosen[chosen["selected"]]
        winners = set(zip(best["method"], best["setting"], strict=True))
        yield [
            trial
            for trial in every
            if not trial.is_reference
            and _is_in(trial, split.report)
            and (
                trial.method not in searched or (trial.method, setting_id(trial.setting)) in winners
            )
        ]

    def _searched(self) -> list[Arm]:
        return [arm for arm in self.study.config.arms if self.study.reads_search(arm)]

    def _dev(self, trial: Trial) -> float:
        """The mean dev score of a trial's student; NaN where it is not there."""
        scores = []
        for cell in trial.steps[-1]:
            if cell.split == "dev":
                manifest = self.store.manifest(cell.stage.kind, cell.stage.key)
                scores.append(manifest.scores[cell.stage.metric_name] if manifest else np.nan)
        return float(np.mean(scores))

    def failures(self, trials: Iterable[Trial]) -> list[Instance]:
        """The trials that a failed stage keeps from ending."""
        from l2kd_ray.analysis import Instance

        if not self.failed:
            return []
        return [
            Instance(trial.method, setting_id(trial.setting), _order(trial), str(trial.seed))
            for trial in trials
            if not trial.is_reference and any(stage.key in self.failed for stage in trial.stages())
        ]


def design_of(study: Study) -> Design:
    """The orders and seeds of a study, as `analysis` speaks of them."""
    from l2kd_ray.analysis import Design

    orders = study.config.orders
    kind = "random" if isinstance(orders, RandomOrders) else orders
    return Design(
        "list" if isinstance(kind, tuple) else kind,
        tuple(order_id(order) for order in study.orders),
        tuple(str(seed) for seed in study.config.replicates),
    )


def halves_of(study: Study) -> Halves:
    """The instances that settings are selected on, and those that are reported."""
    from l2kd_ray.analysis import halves

    on = study.config.tune.select_on
    return halves(design_of(study), orders=bool(on and on.orders), seeds=bool(on and on.seeds))


def _is_in(trial: Trial, design: Design) -> bool:
    return _order(trial) in design.orders and str(trial.seed) in design.seeds


def _order(trial: Trial) -> str:
    return order_id(trial.order)
