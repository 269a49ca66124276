"""The trials a study runs next, given its results: looks, races, selection, searched orders.

It is a function of the study and its storage, with the same answer in another process or next week.
So nothing of it is stored: a sweep takes batch after batch from it, and `status` and the report
compute which trials have been reached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from l2kd_ray.core.reader import AnyStore
from l2kd_ray.study.objectives import cells_of, known_scores, value
from l2kd_ray.study.orders import candidates, neighbours, order_id
from l2kd_ray.study.search import setting_id
from l2kd_ray.study.sections import Arm, RandomOrders, SearchOrders
from l2kd_ray.study.study import Study
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.analysis import Design, Halves, Instance, Verdict
    from l2kd_ray.analysis.matrix import FloatArray

Dropped = Mapping[str, Mapping[str, int]]
"""Settings that a race dropped: arm -> setting -> number of orders at which it was dropped."""


@dataclass(frozen=True)
class Wanted:
    """The trials to be run, with the decisions that the results so far led to."""

    trials: Sequence[Trial]
    verdict: Verdict | None = None
    """The stop rule's verdict at the last look; None before any."""
    dropped: Dropped = field(default_factory=dict)
    complete: bool = False
    """True if these are all trials of the study and each has finished or failed."""

    def selectable(self, scores: pd.DataFrame) -> pd.DataFrame:
        """The scores without the dev scores of settings that a race dropped.

        Selection reads dev scores alone, so it cannot choose a dropped setting.
        """
        lost = _lost(self.dropped)
        pairs = zip(scores["method"], scores["setting"], strict=True)
        given_up = np.array([pair in lost for pair in pairs], dtype=bool)
        return scores[~(given_up & (scores["split"] == "dev").to_numpy())]


def batches(study: Study, source: AnyStore, failed: Collection[str] = ()) -> Iterator[Wanted]:
    """Yield the batches of trials; each must have finished or failed before the next is drawn.

    If a stop rule is evaluated after the last trial, the last batch holds only its verdict.
    `source` is read after each batch; `failed`, the keys of failed stages, may grow in between:
    trials with these stages count as ended.
    """
    tune = study.config.tune
    if tune.select_on is not None:
        yield from _halves(study, source)
    elif tune.scheduler == "race":
        yield from _race(study, source)
    elif tune.stop.half_width is not None:
        yield from _looks(study, source, failed)
    elif isinstance(study.config.orders, SearchOrders):
        yield from _proposals(study, source, study.config.orders)
    else:
        yield Wanted(study.trials())


def wanted(study: Study, source: AnyStore, failed: Collection[str] = ()) -> Wanted:
    """The trials known to be wanted, as far as the finished ones determine it."""
    known: list[Trial] = []
    done = source.listing().finished
    for batch in batches(study, source, failed):
        known += batch.trials
        ended = all(
            all(cell.stage.key in done for cell in trial.cells) or trial.cannot_finish(failed)
            for trial in batch.trials
        )
        found = replace(batch, trials=known, complete=ended)
        if not ended:
            break
    return found


def most(study: Study, source: AnyStore) -> list[Trial]:
    """All trials that the study can reach, as many as they can be.

    Any setting represents a winner not yet known, and orders drawn at random those that a search
    has yet to propose.
    """
    setting = study.config.orders
    if isinstance(setting, SearchOrders):
        known = wanted(study, source).trials
        tried = {trial.order for trial in known if trial.order}
        pool = candidates(study.tasks, setting.budget, study.config.data_seed)
        left = [order for order in pool if order not in tried]
        return [*known, *study.of_orders(left[: setting.budget - len(tried)])]
    every = study.trials()
    if study.config.tune.select_on is None:
        return every
    split = halves_of(study)
    first = {arm.name: (arm.name, setting_id(study.settings(arm)[0])) for arm in _searched(study)}
    return [
        trial
        for trial in every
        if trial.is_reference
        or (trial.method in first and _is_in(trial, split.select))
        or (_is_in(trial, split.report) and first.get(trial.method, trial.arm) == trial.arm)
    ]


def failed_instances(trials: Iterable[Trial], failed: Collection[str]) -> list[Instance]:
    """The instances of trials that cannot finish because one of their stages failed."""
    from l2kd_ray.analysis import Instance

    return [
        Instance(*trial.names)
        for trial in trials
        if not trial.is_reference and trial.cannot_finish(failed)
    ]


def _looks(study: Study, source: AnyStore, failed: Collection[str]) -> Iterator[Wanted]:
    """The orders up to each planned look; the stop rule is evaluated only there."""
    from l2kd_ray.analysis import cells, finished_orders, planned_looks, results, stop_rule
    from l2kd_ray.analysis.design import without_score

    stop, design = study.config.tune.stop, design_of(study)
    method = stop.method or study.config.arms[0].name
    arms = [(arm.name, setting_id({})) for arm in study.config.arms]
    every, verdict = study.trials(), None
    for begun, look in pairwise((0, *planned_looks(len(design.orders)))):
        yield Wanted(_block(every, design, begun, look), verdict)
        scores = study.scores(source, every)
        if scores.empty:
            return
        rows = results(scores)
        ended = {*failed_instances(every, failed), *without_score(scores)}
        orders = finished_orders(rows, arms, design, ended)
        own = rows[rows["method"] == method]
        verdict = stop_rule(
            cells(own, stop.metric, orders, design.seeds).by_seed,
            len(design.orders),
            design.population(len(design.orders)),
            stop.half_width or 0.0,
            method=method,
            metric=stop.metric,
        )
        if verdict.stop:
            break
    yield Wanted((), verdict)


def _race(study: Study, source: AnyStore) -> Iterator[Wanted]:
    """Order by order, each with all seeds; settings that cannot win are dropped."""
    from l2kd_ray.analysis import planned_looks

    design, every = design_of(study), study.trials()
    dropped: Dropped = {}
    for begun, look in pairwise((0, *planned_looks(len(design.orders)))):
        block = _block(every, design, begun, look)
        lost = _lost(dropped)
        yield Wanted([trial for trial in block if trial.arm not in lost], dropped=dropped)
        dropped = {
            arm.name: _given_up(study, source, arm, design, look) for arm in _searched(study)
        }
    yield Wanted((), dropped=dropped)


def _lost(dropped: Dropped) -> set[tuple[str, str]]:
    """The dropped settings, each with its arm."""
    return {(arm, setting) for arm, settings in dropped.items() for setting in settings}


def _given_up(
    study: Study, source: AnyStore, arm: Arm, design: Design, done: int
) -> Mapping[str, int]:
    """The settings of an arm that can no longer win after `done` orders."""
    from l2kd_ray.analysis import race

    settings, orders = study.settings(arm), study.orders[:done]
    trials = [
        [study.trial(arm.name, setting, order, seed) for seed in design.seeds]
        for setting in settings
        for order in orders
    ]
    scores = _dev_means(source, trials).reshape(len(settings), len(orders))
    lost = race(scores, len(design.orders))
    return {setting_id(settings[row]): at for row, at in lost.items()}


def _halves(study: Study, source: AnyStore) -> Iterator[Wanted]:
    """All settings on one half of the instances, then each method's best on the other."""
    from l2kd_ray.analysis import results, select, within

    split, every = halves_of(study), study.trials()
    searched = {arm.name for arm in _searched(study)}
    yield Wanted(
        [
            trial
            for trial in every
            if trial.is_reference or (trial.method in searched and _is_in(trial, split.select))
        ]
    )
    scores = study.scores(source, every)
    if scores.empty:
        return
    names = list(study.config.search)
    chosen = select(within(results(scores, names, split="dev"), split.select))
    best = chosen[chosen["selected"]]
    winners = set(zip(best["method"], best["setting"], strict=True))
    yield Wanted(
        [
            trial
            for trial in every
            if not trial.is_reference
            and _is_in(trial, split.report)
            and (trial.method not in searched or trial.arm in winners)
        ]
    )


def _proposals(study: Study, source: AnyStore, setting: SearchOrders) -> Iterator[Wanted]:
    """The orders drawn at random, then those predicted to be the most extreme on dev, n at once.

    An order on which a trial has failed counts as tried, and says nothing of the others.
    """
    from l2kd_ray.analysis.extreme import predict

    yield Wanted(study.trials())
    pool = candidates(study.tasks, setting.budget, study.config.data_seed)
    tried, sign = list(study.orders), -1 if setting.search == "worst" else 1
    seeds = len(study.config.replicates)
    while len(tried) < setting.budget:
        trials, known = study.of_orders(tried), set(tried)
        by_order = [trials[k : k + seeds] for k in range(0, len(trials), seeds)]
        values = sign * _dev_means(source, by_order)
        near = [] if np.isnan(values).all() else neighbours(tried[int(np.nanargmax(values))])
        left = [order for order in dict.fromkeys([*pool, *near]) if order not in known]
        first = np.argsort(-predict(tried, values, left), kind="stable")
        found = [left[int(k)] for k in first[: min(len(study.tasks), setting.budget - len(tried))]]
        tried += found
        yield Wanted(study.of_orders(found))


def _block(every: Iterable[Trial], design: Design, begun: int, look: int) -> list[Trial]:
    """The trials of the orders between two looks; the first block includes the references."""
    chosen = set(design.orders[begun:look])
    return [
        trial
        for trial in every
        if (begun == 0 if trial.is_reference else order_id(trial.order) in chosen)
    ]


def _searched(study: Study) -> list[Arm]:
    return [arm for arm in study.config.arms if study.reads_search(arm)]


def _dev_means(source: AnyStore, groups: Sequence[Sequence[Trial]]) -> FloatArray:
    """The mean dev score of each group of trials; NaN if one of its trials is not finished."""
    cells = (cell for group in groups for trial in group for cell in cells_of(trial, "dev"))
    known = known_scores(source, cells)
    return np.array([value(group, "dev", known) for group in groups])


def design_of(study: Study) -> Design:
    """The orders and seeds of a study as a `Design` of `analysis`."""
    from l2kd_ray.analysis import Design

    orders = study.config.orders
    kind = "random" if isinstance(orders, RandomOrders | SearchOrders) else orders
    return Design(
        "list" if isinstance(kind, tuple) else kind,
        tuple(order_id(order) for order in study.orders),
        tuple(str(seed) for seed in study.config.replicates),
    )


def halves_of(study: Study) -> Halves:
    """The instances on which settings are selected, and those that are reported."""
    from l2kd_ray.analysis import halves

    on = study.config.tune.select_on
    return halves(design_of(study), orders=bool(on and on.orders), seeds=bool(on and on.seeds))


def _is_in(trial: Trial, design: Design) -> bool:
    _, _, order, seed = trial.names
    return order in design.orders and seed in design.seeds
