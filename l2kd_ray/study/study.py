"""A study: its validated file, its resolved names, and the trials that follow from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from math import nan
from typing import TYPE_CHECKING, Any

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.reader import AnyStore
from l2kd_ray.core.stage import Stage
from l2kd_ray.families import Builder, Resolved
from l2kd_ray.families.method import Order
from l2kd_ray.names import REFERENCES, SCORE_COLUMNS
from l2kd_ray.study.orders import orders_of, spread
from l2kd_ray.study.schema import StudyConfig
from l2kd_ray.study.search import Setting, setting_id, settings_of, without
from l2kd_ray.study.sections import Arm
from l2kd_ray.study.trial import Cell, Trial
from l2kd_ray.tasks.spec import Split

if TYPE_CHECKING:
    import pandas as pd


ArmSettings = Mapping[str, Sequence[Setting]]
"""The settings with which each arm is run, by the arm's name."""


class Study:
    """The trials of a validated study. It needs neither torch nor Ray and runs nothing."""

    def __init__(self, config: StudyConfig, resolved: Resolved) -> None:
        self.config, self.resolved, self.family = config, resolved, config.family
        self._builders: dict[tuple[str, str], Builder] = {}
        self.orders: list[Order] = (
            [()] if config.orderless else orders_of(self.tasks, config.orders, config.data_seed)
        )
        """The orders in the sequence in which they are run, so that an unfinished study has a
        prefix of it. One empty order if no method depends on the order."""

    def __reduce__(self) -> tuple[type[Study], tuple[StudyConfig, Resolved]]:
        return Study, (
            self.config,
            self.resolved,
        )  # stages are rebuilt in the process that uses them

    @property
    def tasks(self) -> list[str]:
        return [spec.name for spec in self.config.tasks]

    @property
    def is_adaptive(self) -> bool:
        """True if settings are proposed depending on results, and not fixed beforehand."""
        return bool(self.config.search) and self.config.tune.adaptive

    @property
    def training_length(self) -> int | None:
        """Number of epochs (or steps, with `train.steps`) of a student's training, before any
        search."""
        return self.config.settings.family.train.length

    @property
    def builder(self) -> Builder:
        """The builder of the references, with the study's own settings and its first method."""
        return self._builder(self._first_method, {})

    @property
    def _first_method(self) -> str:
        return self.config.arms[0].method

    def fresh_builder(self) -> Builder:
        """A new builder of the references, which has made no stage yet."""
        method = self.family.methods[self._first_method]
        return self.family.builder(self.config.settings, self.resolved, method)

    @property
    def references(self) -> tuple[str, ...]:
        """The references of the study; `multilm` only if the study names it."""
        named = {arm.name for arm in self.config.methods}
        every = self.family.builder.references
        return tuple(name for name in every if name != "multilm" or name in named)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that final models are evaluated on: selection, and a search, reads dev, the
        report reads test. Others are evaluated on test alone."""
        return ("dev", "test") if self.config.search or self.config.orders_arm else ("test",)

    def is_proposed(self, trial: Trial) -> bool:
        """True if a search over orders has proposed the trial's order: no mean may read it."""
        return bool(trial.order) and trial.order not in self._own_orders

    @cached_property
    def _own_orders(self) -> frozenset[Order]:
        return frozenset(self.orders)

    def of_orders(self, orders: Iterable[Order]) -> list[Trial]:
        """The trials of some orders for the arm that a search over orders is for."""
        arm = self.config.orders_arm or ""
        return [
            self.trial(arm, {}, order, str(seed))
            for order in orders
            for seed in self.config.replicates
        ]

    def trials(self, settings: ArmSettings | None = None) -> list[Trial]:
        """All trials: the references first, then order by order in the sequence of the design.

        So the first orders are finished first. Neighbouring orders begin with different tasks.
        `settings`: those that an adaptive search has tried; by default the study's own.
        """
        return list(self._every) if settings is None else self._trials(settings)

    @cached_property
    def _every(self) -> Sequence[Trial]:
        return self._trials(None)

    def _trials(self, settings: ArmSettings | None) -> list[Trial]:
        trials = [
            self.trial(reference, {}, (), str(seed))
            for reference in self.references
            for seed in self.config.replicates
        ]
        arms = [(arm, self.settings(arm, settings)) for arm in self.config.arms]
        trials += [
            self._student(arm, setting, order, seed)
            for order in spread(self.orders)
            for seed in self.config.replicates
            for arm, versions in arms
            for setting in versions
        ]
        return trials

    def trial(self, method: str, setting: Setting, order: Order, seed: str) -> Trial:
        """One trial by its identity. Raises: KeyError if the study has no such trial."""
        replicate = {str(known): known for known in self.config.replicates}[seed]
        if method in REFERENCES:
            return self._reference(method, replicate)
        return self._student(self.arm(method), setting, tuple(order), replicate)

    def arm(self, name: str) -> Arm:
        return {arm.name: arm for arm in self.config.methods}[name]

    def instances(self, arm: Arm, setting: Setting) -> list[Trial]:
        """The trials of one arm and setting on all (order, seed), over which a search averages."""
        return [
            self._student(arm, setting, order, seed)
            for seed in self.config.replicates
            for order in self.orders
        ]

    def reads_search(self, arm: Arm) -> bool:
        """True if a searched setting changes the arm's stages."""
        return bool(self.searched(arm))

    def searched(self, arm: Arm) -> Collection[str]:
        """The searched keys that change an arm's stages."""
        return self._searched[arm.name]

    @cached_property
    def _searched(self) -> Mapping[str, Collection[str]]:
        """By arm, the searched keys that change its stages on the first orders, in any setting."""
        orders, seed = self.orders[: len(self.tasks)], self.config.replicates[0]

        def stages(arm: Arm, setting: Setting) -> list[Stage]:
            build = self.builder_of(arm, setting)  # without an owner: its name has the setting
            trials = (self._of_builder(build, arm, setting, order, seed) for order in orders)
            return [cell.stage for trial in trials for cell in trial.steps[-1]]

        def reads(arm: Arm, key: str) -> bool:
            every: Sequence[Setting] = self._settings_of(arm)
            if self.is_adaptive:  # it draws others
                every = self.config.search_examples(at_once=2)
            return any(stages(arm, each) != stages(arm, without(each, {key})) for each in every)

        return {
            arm.name: [key for key in self.config.searched_by(arm) if reads(arm, key)]
            for arm in self.config.arms
        }

    def scores(self, source: AnyStore, trials: Sequence[Trial]) -> pd.DataFrame:
        """The long form of R (columns: SCORE_COLUMNS) from all stored evaluations, sorted."""
        import pandas as pd

        cells = (cell for trial in trials for cell in trial.cells)
        known = source.manifests({cell.stage.key: cell.stage.kind for cell in cells})
        rows = [
            _row(trial, cell, known)
            for trial in trials
            for step in trial.steps
            for cell in step
            if cell.stage.key in known
        ]
        frame = pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).astype(SCORE_COLUMNS)
        return frame.sort_values(["trial", "i", "j", "split"], ignore_index=True)

    def retention(self, source: AnyStore, trials: Sequence[Trial]) -> pd.DataFrame:
        """The measures of retention: a row for each trial, step i and name; NaN if missing."""
        import pandas as pd

        cells = [(trial, cell) for trial in trials for cell in trial.retention]
        known = source.manifests({cell.stage.key: cell.stage.kind for _, cell in cells})
        rows = [
            {
                "trial": trial.id,
                "i": cell.i,
                "name": cell.task.partition("/")[2],
                "value": known[key].scores[cell.stage.metric_name] if key in known else nan,
                "key": key,
            }
            for trial, cell in cells
            for key in (cell.stage.key,)
        ]
        return pd.DataFrame(rows, columns=["trial", "i", "name", "value", "key"])

    def _builder(self, method: str, values: Mapping[str, Any]) -> Builder:
        """The builder of a method with some settings replaced; trials of one setting share it."""
        known = method, setting_id(values)
        if known not in self._builders:
            settings = self.config.settings.with_values(values)
            chosen = self.family.methods[method]
            self._builders[known] = self.family.builder(settings, self.resolved, chosen)
        return self._builders[known]

    def builder_of(self, arm: Arm, setting: Setting) -> Builder:
        """The builder of an arm with one of the searched settings, which the arm's own replace."""
        return self._builder(arm.method, {**setting, **arm.settings})

    def builders(self) -> Iterator[tuple[str, Builder]]:
        """The builder of every arm with any two searched values, and its key in the study file."""
        for arm in self.config.arms:
            for setting in self.config.search_examples(at_once=2):
                yield f"methods: {arm.name}", self.builder_of(arm, setting)

    def with_seeds(self, seeds: tuple[int, ...]) -> Study:
        """The same study with only some of its seeds."""
        return Study(self.config.model_copy(update={"seeds": seeds}), self.resolved)

    def settings(self, arm: Arm, settings: ArmSettings | None = None) -> Sequence[Setting]:
        """The settings of an arm, each with the searched keys that the arm reads alone."""
        if not self.reads_search(arm):
            return ({},)
        every = self._settings_of(arm) if settings is None else settings.get(arm.name, ())
        unread = set(self.config.search).difference(self.searched(arm))
        own = [without(setting, unread) for setting in every]
        return list({setting_id(setting): setting for setting in own}.values())

    def _settings_of(self, arm: Arm) -> Sequence[Setting]:
        return settings_of(self.config, self.config.searched_by(arm))

    def of_this_search(self, tried: ArmSettings) -> dict[str, list[Setting]]:
        """The settings that an earlier sweep tried and that this search could propose, by arm."""
        space = self.config.search
        return {
            arm.name: [
                setting
                for setting in tried.get(arm.name, ())
                if setting.keys() == {*self.searched(arm)}
                and all(space[key].holds(value) for key, value in setting.items())
            ]
            for arm in self.config.arms
        }

    def _reference(self, name: str, seed: Seed) -> Trial:
        """The trial of a reference, which uses the study's own settings and none that is
        searched."""
        build = self.builder
        models = {task: build.reference(name, task, seed) for task in self.tasks}
        return Trial(name, {}, (), seed, (self._beside(build, models, seed),))

    def _beside(self, build: Builder, models: Mapping[str, Stage], seed: Seed) -> tuple[Cell, ...]:
        """The cells of models evaluated on one task each, independent of the order."""
        return tuple(
            cell
            for j, task in enumerate(sorted(models), start=1)
            for cell in _cells(build, models[task], len(models), j, task, seed, self.splits)
        )

    def _student(self, arm: Arm, setting: Setting, order: Order, seed: Seed) -> Trial:
        build = self.builder_of(arm, setting)
        if not self.config.share:
            build = build.owned_by(f"{arm.name} {dict(setting)} {order} {seed}")
        return self._of_builder(build, arm, setting, order, seed)

    def _of_builder(
        self, build: Builder, arm: Arm, setting: Setting, order: Order, seed: Seed
    ) -> Trial:
        if build.method.orderless:
            models = {task: build.student((task,), seed) for task in self.tasks}
            beside = self._beside(build, models, seed)
            teachers = self._teachers(build, self.tasks, seed)
            return Trial(arm.name, setting, (), seed, (beside,), teachers)
        path, kept = [], []
        for i in range(len(order) + 1):
            model = build.student(order[:i], seed)
            splits = self.splits if i == len(order) else _TEST
            cells = [
                cell
                for j, task in enumerate(order, start=1)
                for cell in _cells(build, model, i, j, task, seed, splits)
            ]
            path.append(tuple(cells))
            if self.config.retention is not None:
                measures = build.retained(model, order[i - 1] if i else None, seed).items()
                kept += [Cell(i, 0, f"retention/{name}", "test", one) for name, one in measures]
        teachers = self._teachers(build, order, seed)
        return Trial(arm.name, setting, order, seed, tuple(path), teachers, tuple(kept))

    def _teachers(self, build: Builder, order: Sequence[str], seed: Seed) -> tuple[Cell, ...]:
        """The cells of the teachers, each on the task that it taught."""
        taught = [(j, task, build.taught_by(task, seed)) for j, task in enumerate(order, start=1)]
        return tuple(
            cell
            for j, task, teacher in taught
            if teacher is not None
            for cell in _cells(build, teacher, j, j, task, seed, _TEST)
        )


_TEST: tuple[Split, ...] = ("test",)


def _cells(
    build: Builder,
    model: Stage,
    i: int,
    j: int,
    task: str,
    seed: Seed,
    splits: Sequence[Split],
) -> Iterator[Cell]:
    for split in splits:
        yield Cell(i, j, task, split, build.evaluate(model, task, split, seed))


def _row(trial: Trial, cell: Cell, known: Mapping[str, Manifest]) -> tuple[Any, ...]:
    def score(one: Cell) -> float:
        own = known.get(one.stage.key)
        return nan if own is None else own.scores[one.stage.metric_name]

    its_own = (cell.task, cell.split)
    teacher = next((one for one in trial.teachers if (one.task, one.split) == its_own), None)
    return (
        trial.id,
        *trial.names,
        cell.i,
        cell.j,
        cell.task,
        cell.split,
        cell.stage.metric_name,
        score(cell),
        cell.stage.key,
        cell.stage.model.key,
        "" if teacher is None else teacher.stage.model.key,
        nan if teacher is None else score(teacher),
    )
