"""A study file with everything its names stand for, and the trials that it asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from l2kd_ray.config import (
    REFERENCES,
    Arm,
    Revisions,
    Seed,
    Split,
    StudyConfig,
)
from l2kd_ray.methods import FAMILIES, METHODS, Builder, Family, Resolved
from l2kd_ray.stages.base import Stage, identity
from l2kd_ray.store import Manifest, Store
from l2kd_ray.study.orders import SEPARATOR, Order, orders_of, spread
from l2kd_ray.study.search import Setting, settings_of
from l2kd_ray.study.trial import Cell, Trial

if TYPE_CHECKING:
    import pandas as pd


SCORES = {
    "trial": "str",
    "method": "str",
    "setting": "str",
    "order": "str",
    "seed": "str",
    "i": "int64",
    "j": "int64",
    "task": "str",
    "split": "str",
    "metric": "str",
    "score": "float64",
    "key": "str",
    "model": "str",
}
"""The columns of scores.parquet: one row per (trial, i, task j, split)."""


Settings = Mapping[str, Sequence[Setting]]
"""The settings that each arm is run with, by the arm's name."""


class Study:
    """The trials of a checked study. No torch, no Ray: it only says what is to be done."""

    def __init__(self, config: StudyConfig, resolved: Resolved) -> None:
        self.config, self.resolved = config, resolved
        self.family = family_of(config)
        self._builders: dict[str, Builder] = {"{}": self.family.builder(config, resolved)}
        orderless = all(arm.method in self.family.orderless for arm in config.arms)
        self.orders = [()] if orderless else self._orders()
        """In the sequence of the design: what an unfinished study has is the beginning of it. One
        empty order where no method has any."""

    def __reduce__(self) -> tuple[type[Study], tuple[StudyConfig, Resolved]]:
        return Study, (self.config, self.resolved)  # the stages are made again where they are used

    @property
    def tasks(self) -> list[str]:
        return [spec.name for spec in self.config.tasks]

    @property
    def builder(self) -> Builder:
        """Of the study's own settings."""
        return self._builder()

    def _orders(self) -> list[Order]:
        return orders_of(self.tasks, self.config.orders, self.config.data_seed)

    @property
    def references(self) -> tuple[str, ...]:
        """Those of the study: `multilm` where it is named, the others always."""
        named = {arm.name for arm in self.config.methods}
        every = self.family.builder.references
        return tuple(name for name in every if name != "multilm" or name in named)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits evaluated: selection reads dev, the report reads test."""
        return ("dev", "test") if self.config.search else ("test",)

    def trials(self, settings: Settings | None = None) -> list[Trial]:
        """Every trial, the references first; then order by order, in the sequence of the design,
        so that its beginning is finished first. Neighbours begin with different tasks.

        `settings` are those that an adaptive search has tried; by default the study names them.
        """
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
        """One trial by its names. Raises: StopIteration, KeyError for names not of this study."""
        replicate = next(known for known in self.config.replicates if str(known) == seed)
        if method in REFERENCES:
            return self._reference(method, replicate)
        return self._student(self.arm(method), setting, tuple(order), replicate)

    def arm(self, name: str) -> Arm:
        return {arm.name: arm for arm in self.config.methods}[name]

    def instances(self, arm: Arm, setting: Setting) -> list[Trial]:
        """One arm and setting on every (order, seed): what adaptive search takes the mean over."""
        return [
            self._student(arm, setting, order, seed)
            for seed in self.config.replicates
            for order in self.orders
        ]

    def reads_search(self, arm: Arm) -> bool:
        """Whether any searched setting changes what the arm does on the first instance."""
        settings = [{}, *settings_of(self.config)]
        order, seed = self.orders[0], self.config.replicates[0]
        trials = (self._student(arm, setting, order, seed) for setting in settings)
        return len({tuple(cell.stage for cell in trial.steps[-1]) for trial in trials}) > 1

    def scores(self, store: Store, trials: Iterable[Trial]) -> pd.DataFrame:
        """The long form of R (columns: SCORES) of what is in the store, sorted."""
        import pandas as pd

        known: dict[Stage, Manifest | None] = {}
        rows = []
        for trial in trials:
            for cell in trial.cells:
                if cell.stage not in known:
                    known[cell.stage] = store.manifest(cell.stage.kind, cell.stage.key)
                manifest = known[cell.stage]
                if manifest is not None:
                    rows.append(_row(trial, cell, manifest))
        frame = pd.DataFrame(rows, columns=list(SCORES)).astype(SCORES)
        return frame.sort_values(["trial", "i", "j", "split"], ignore_index=True)

    def to_yaml(self) -> str:
        """The resolved study: the file as it was understood, and what its names stood for."""
        hub = {
            name: task.splits["train"].source.digest
            for name, task in self.resolved.tasks.items()
            if task.splits["train"].source.reader == "hub"
        }
        commits = {
            name: model.revision for name, model in self.resolved.models.items() if model.revision
        }
        pinned = Revisions(commits, hub).pin(self.config)
        data = pinned.model_dump(mode="json", exclude_unset=True)
        self._locate(data)
        tasks = {
            name: {split: identity(task.splits[split]) for split in sorted(task.splits)}
            for name, task in sorted(self.resolved.tasks.items())
        }
        models = {name: identity(model) for name, model in sorted(self.resolved.models.items())}
        notes = yaml.safe_dump({"tasks": tasks, "models": models}, sort_keys=False)
        comment = "".join(f"# {line}\n" for line in notes.splitlines())
        return yaml.safe_dump(data, sort_keys=False) + "\n# What the names stand for:\n" + comment

    def _locate(self, data: dict[str, Any]) -> None:
        """Put in a dumped study where its files lie, whatever folder it is read from."""
        for spec in data["tasks"]:
            for split, task_data in self.resolved.tasks[spec["name"]].splits.items():
                if split in spec:
                    spec[split] = task_data.source.location
        for key in {"student", "teacher", "tokenizer"} & set(data):
            model = self.resolved.models.get((data[key] or {}).get("model") or "")
            if model is not None:
                data[key]["model"] = model.location

    def _builder(self, *settings: Mapping[str, Any]) -> Builder:
        """The builder of some settings; later ones win. Trials of one setting share it."""
        merged = {key: value for setting in settings for key, value in setting.items()}
        place = json.dumps(merged, sort_keys=True)
        if place not in self._builders:
            self._builders[place] = self._builders["{}"].with_settings(merged)
        return self._builders[place]

    def with_seeds(self, seeds: tuple[int, ...]) -> Study:
        """The same study of some of its replicates."""
        return Study(self.config.model_copy(update={"seeds": seeds}), self.resolved)

    def settings(self, arm: Arm, settings: Settings | None = None) -> Sequence[Setting]:
        """What an arm is run with; once, with none, where it reads nothing that is searched."""
        if not self.config.search or not self.reads_search(arm):
            return ({},)
        return settings_of(self.config) if settings is None else settings.get(arm.name, ())

    def _reference(self, name: str, seed: Seed) -> Trial:
        """It reads no searched setting: it is made of the study's own."""
        build = self._builder()
        models = {task: build.reference(name, task, seed) for task in self.tasks}
        return Trial(name, {}, (), seed, (self._beside(build, models, seed),))

    def _beside(self, build: Builder, models: Mapping[str, Stage], seed: Seed) -> tuple[Cell, ...]:
        """The cells of models that answer a task each (or all), whatever order they are in."""
        return tuple(
            cell
            for j, task in enumerate(sorted(models), start=1)
            for cell in self._cells(build, models[task], len(models), j, task, seed)
        )

    def _student(self, arm: Arm, setting: Setting, order: Order, seed: Seed) -> Trial:
        build = self._builder(setting, arm.settings)
        if not self.config.share:
            build = build.owned_by(f"{arm.name} {dict(setting)} {order} {seed}")
        method = METHODS[arm.method]
        if arm.method in self.family.orderless:
            models = {task: build.student(method, (task,), seed) for task in self.tasks}
            return Trial(arm.name, setting, (), seed, (self._beside(build, models, seed),))
        steps = []
        for i in range(len(order) + 1):
            model = build.student(method, order[:i], seed)
            cells = [
                cell
                for j, task in enumerate(order, start=1)
                for cell in self._cells(build, model, i, j, task, seed)
            ]
            steps.append(tuple(cells))
        return Trial(arm.name, setting, order, seed, tuple(steps))

    def _cells(
        self, build: Builder, model: Stage, i: int, j: int, task: str, seed: Seed
    ) -> Iterator[Cell]:
        for split in self.splits:
            yield Cell(i, j, task, split, build.evaluate(model, task, split, seed))


def _row(trial: Trial, cell: Cell, manifest: Manifest) -> tuple[Any, ...]:
    return (
        trial.id,
        trial.method,
        json.dumps(trial.setting, sort_keys=True),
        SEPARATOR.join(trial.order),
        str(trial.seed),
        cell.i,
        cell.j,
        cell.task,
        cell.split,
        cell.stage.metric,
        manifest.scores[cell.stage.metric],
        cell.stage.key,
        cell.stage.model.key,
    )


def family_of(config: StudyConfig) -> Family:
    """The family of the study's methods. Raises: StopIteration where it knows none of them."""
    first = config.arms[0].method if config.arms else "finetune"
    return next(family for family in FAMILIES if first in family.methods)
