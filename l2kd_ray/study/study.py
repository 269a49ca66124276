"""A study file with everything its names stand for, and the trials that it asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from l2kd_ray.config import (
    REFERENCES,
    Arm,
    InputError,
    Revisions,
    Seed,
    Split,
    StudyConfig,
    TaskSpec,
    read_study,
    with_settings,
)
from l2kd_ray.methods import METHODS, Builder
from l2kd_ray.methods.builder import Resolved
from l2kd_ray.models.pretrained import check_tokenizers, resolve_model
from l2kd_ray.stages.base import Stage, identity
from l2kd_ray.store import Manifest, Store
from l2kd_ray.study.orders import SEPARATOR, Order, orders_of, spread
from l2kd_ray.study.search import Setting, settings_of
from l2kd_ray.study.trial import Cell, Trial
from l2kd_ray.tasks import Task, family, resolve

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.stages.learn import Learn
    from l2kd_ray.stages.start import Initial

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
        self._builders: dict[str, Builder] = {"{}": Builder(config, resolved)}
        self.orders = orders_of(self.tasks, config.orders, config.data_seed)
        """In the sequence of the design: what an unfinished study has is the beginning of it."""

    def __reduce__(self) -> tuple[type[Study], tuple[StudyConfig, Resolved]]:
        return Study, (self.config, self.resolved)  # the stages are made again where they are used

    @property
    def tasks(self) -> list[str]:
        return [spec.name for spec in self.config.tasks]

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
            for reference in self.config.references
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
        if method == "single":
            return self._single(replicate)
        if method in REFERENCES:
            return self._multitask(method, replicate)
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
        order, seed, method = self.orders[0], self.config.replicates[0], METHODS[arm.method]
        students = {
            self._builder(setting, arm.settings).student(method, order, seed)
            for setting in settings
        }
        return len(students) > 1

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

    def _multitask(self, name: str, seed: Seed) -> Trial:
        """The bound reads no searched setting: it is made of the study's own."""
        build, tasks = self._builder(), sorted(self.tasks)
        model = build.multitask(seed, lm=name == "multilm")
        cells = [
            cell
            for j, task in enumerate(tasks, start=1)
            for cell in self._cells(build, model, len(tasks), j, task, seed)
        ]
        return Trial(name, {}, (), seed, (tuple(cells),))

    def _single(self, seed: Seed) -> Trial:
        build = self._builder()
        cells = [
            cell
            for j, task in enumerate(sorted(self.tasks), start=1)
            for cell in self._cells(build, build.single(task, seed), 1, j, task, seed)
        ]
        return Trial("single", {}, (), seed, (tuple(cells),))

    def _student(self, arm: Arm, setting: Setting, order: Order, seed: Seed) -> Trial:
        build = self._builder(setting, arm.settings)
        if not self.config.share:
            build = build.owned_by(f"{arm.name} {dict(setting)} {order} {seed}")
        steps = []
        for i in range(len(order) + 1):
            model = build.student(METHODS[arm.method], order[:i], seed)
            cells = [
                cell
                for j, task in enumerate(order, start=1)
                for cell in self._cells(build, model, i, j, task, seed)
            ]
            steps.append(tuple(cells))
        return Trial(arm.name, setting, order, seed, tuple(steps))

    def _cells(
        self, build: Builder, model: Initial | Learn, i: int, j: int, task: str, seed: Seed
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


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read a study file and find everything that it names. Nothing is started or written.

    Raises: InputError for whatever cannot be used as it is.
    """
    return resolve_study(read_study(path, overrides), path)


def resolve_study(config: StudyConfig, path: str | Path) -> Study:
    """Find everything that a checked study names; `path` is its file. Raises: InputError."""
    where, base = str(path), Path(path).resolve().parent
    if config.data_dir is not None:
        folders = (config.data_dir.expanduser(), base / config.data_dir)
        data_dirs = [folder.resolve() for folder in folders if folder.is_dir()]
        config = config.model_copy(update={"data_dir": [*data_dirs, config.data_dir][0]})
    for arm in config.arms:
        if arm.method not in METHODS:
            raise InputError(
                "no such method",
                where=where,
                key="methods",
                got=arm.method,
                expected=", ".join(METHODS) + ", multilm (multitask and single are always run)",
            )
        _check_lora(config, arm, where)
    data_dir, seed = config.data_dir, config.data_seed
    caps: dict[Split, int | None] = {
        "train": config.max_train,
        "dev": config.max_dev,
        "test": config.max_test,
    }

    def find(spec: TaskSpec) -> Task:
        return resolve(spec, data_dir=data_dir, data_seed=seed, caps=caps, where=where, base=base)

    tasks = {spec.name: find(spec) for spec in config.tasks}
    models = {
        spec.model: found
        for spec in config.model_specs
        if spec.model and (found := resolve_model(spec, where=where, base=base))
    }
    check_tokenizers(config, models, where)
    corpus: list[Task] = []
    if not (config.student.model or config.tokenizer.model):
        whole = set(tasks) <= set(family(config.tasks[0].name))
        if config.tokenizer.tasks is not None:
            corpus = [find(spec) for spec in config.tokenizer.tasks]
        elif whole:  # so that the study can gain a generated task and keep every stage
            corpus = [find(TaskSpec(name=name)) for name in family(config.tasks[0].name)]
        else:
            corpus = [tasks[name] for name in sorted(tasks)]
    train = tuple(task.splits["train"] for task in corpus)
    return Study(config, Resolved(tasks, models, train))


def _check_lora(config: StudyConfig, arm: Arm, where: str) -> None:
    """Raises: InputError where low-rank training is asked for and cannot be had."""
    searched = {key: space.examples()[0] for key, space in config.search.items()}
    if with_settings(config, {**searched, **arm.settings}).train.lora is None:
        return
    if arm.method in ("ewc", "mas"):
        raise InputError(
            f"{arm.method} holds each parameter by its importance, and with LoRA none is trained",
            where=where,
            key="train.lora",
            mend=f"give the other methods train.lora in their settings, or leave {arm.name} out",
        )
    if find_spec("peft") is None:
        raise InputError(
            "low-rank training needs the package peft",
            where=where,
            key="train.lora",
            mend="pip install 'l2kd-ray[lora]'",
        )
