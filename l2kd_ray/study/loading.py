"""Loading of a study: the tasks, models and plug-ins named in its file are resolved or refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from l2kd_ray import door
from l2kd_ray.core.stage import identity
from l2kd_ray.errors import InputError
from l2kd_ray.families import Resolved
from l2kd_ray.models.pretrained import Pretrained, resolve_model, resolve_vectors
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.section import reading
from l2kd_ray.study.pins import Revisions, datasets
from l2kd_ray.study.reading import read_study
from l2kd_ray.study.schema import StudyConfig
from l2kd_ray.study.sections import RACE
from l2kd_ray.study.study import Study
from l2kd_ray.study.unread import refuse_unread, refuse_unread_seeds
from l2kd_ray.study.yaml12 import dump
from l2kd_ray.tasks import Task, resolve
from l2kd_ray.tasks.resolution import general_text
from l2kd_ray.tasks.spec import Split, TaskKind, TaskSpec


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read a study file and resolve everything it names. Nothing is started or written.

    Raises: InputError for anything that cannot be used.
    """
    return resolve_study(read_study(path, overrides), path)


def resolve_study(config: StudyConfig, path: str | Path) -> Study:
    """Resolve everything that a validated study names; `path` is its file. Raises: InputError."""
    where, base = str(path), Path(path).resolve().parent
    if config.data_dir is not None:
        folders = (config.data_dir, base / config.data_dir)
        data_dirs = [folder.resolve() for folder in folders if folder.is_dir()]
        config = config.model_copy(update={"data_dir": [*data_dirs, config.data_dir][0]})
    settings, builder = config.settings, config.family.builder
    caps: dict[Split, int | None] = {
        "train": config.max_train,
        "dev": config.max_dev,
        "test": config.max_test,
    }

    found: dict[str, Task] = {}

    def find(spec: TaskSpec) -> Task:
        written = spec.model_dump_json(exclude_unset=True)
        if written in found:  # a tokenizer is trained on tasks of the study again
            return found[written]
        with reading() as looked_at:
            task = resolve(
                spec,
                data_dir=config.data_dir,
                data_seed=config.data_seed,
                caps=caps,
                where=where,
                seeds=[seed.data for seed in config.replicates],
                base=base,
                plugin=lambda kind, name, known: door.held(
                    kind, name, known, settings.options, settings.plugins
                ),
            )
        for key, _, field in spec.keys_set():
            if (id(spec), field) not in looked_at:
                raise InputError(
                    "it has no effect: the data of this task are read without it",
                    where=where,
                    key=f"tasks.{spec.name}.{key}",
                    got=getattr(spec, field),
                    fix="remove it",
                )
        found[written] = task
        return task

    with reading() as reads:
        tasks = {spec.name: find(spec) for spec in config.tasks}
        _check_kinds(tasks, builder.kinds(settings), where)
        models = _models(settings.family.model_specs, where, base)
        builder.check_models(settings, models, where)
        corpus = builder.corpus(settings, tasks, find)
        kept = config.retention
        if kept and not builder.retains:
            raise InputError(
                "only language models have these measures",
                where=where,
                key="retention",
                fix="remove it",
            )
        held_out = {spec.name: find(spec) for spec in kept.tasks} if kept else {}
        texts = general_text(kept.texts, base) if kept and kept.texts else None
    train = tuple(task.splits["train"] for task in corpus)
    harness = kept and kept.lm_eval
    study = Study(config, Resolved(tasks, models, train, held_out, texts, harness))
    try:
        _check_arms(study, where)
        refuse_unread(study, reads, where)
        refuse_unread_seeds(study, where)
    except InputError as error:  # a stage cannot be built, such as for a missing plug-in
        raise error.at(where) from None
    return study


def _models(specs: Sequence[ModelSpec], where: str, base: Path) -> dict[str, Pretrained]:
    """The pretrained models and word vectors, by the names the study uses.

    Raises: InputError if one is missing, or one name stands for two revisions.
    """
    models: dict[str, Pretrained] = {}
    for spec in specs:
        found = resolve_model(spec, where=where, base=base)
        if found is not None and spec.model and models.setdefault(spec.model, found) != found:
            raise InputError(
                "one model stands for two revisions",
                where=where,
                key="revision",
                got=f"{spec.model}: {models[spec.model].revision}, {found.revision}",
                fix="name one revision wherever the model is named",
            )
        if spec.vectors:
            models[spec.vectors] = resolve_vectors(spec.vectors, where=where, base=base)
    return models


def _check_arms(study: Study, where: str) -> None:
    """Raise InputError for settings that a method cannot be run with."""
    config = study.config
    for key, build in study.builders():
        try:
            build.check_settings()
        except InputError as error:
            raise error.at(where, key) from None
    if config.tune.scheduler == "asha" and config.rungs:
        for arm in filter(study.reads_search, config.arms):
            first = study.trial(arm.name, {}, study.orders[0], str(config.replicates[0]))
            model: Any = first.steps[-1][-1].stage.model
            if model.at(config.rungs[0]) is model:
                raise InputError(
                    "asha has nothing to cut: the last training of this method has no such part",
                    where=where,
                    key=f"methods: {arm.name}",
                    got=f"train.rungs {list(config.rungs)}",
                    fix=RACE,
                )


def _check_kinds(tasks: Mapping[str, Task], known: Collection[TaskKind], where: str) -> None:
    """Raise InputError for a task that the study's methods cannot learn."""
    for task in tasks.values():
        if known and task.kind not in known:
            raise InputError(
                "the study's methods do not learn tasks of this kind",
                where=where,
                key=f"tasks.{task.name}",
                got=task.kind,
                expected=" or ".join(known),
                fix="`l2kd tasks` lists the kinds; a task of your own may set its `kind`",
            )


def to_yaml(study: Study) -> str:
    """The resolved study as YAML: the file as it was read, with its names resolved."""
    tasks, models = study.resolved.tasks, study.resolved.models
    every = {**tasks, **study.resolved.held_out}
    sources = {known: every[known[0]].splits["train"].source for known in datasets(study.config)}
    hub = {known: one.digest for known, one in sources.items() if one.reader == "hub"}
    commits = {name: model.revision for name, model in models.items() if model.revision}
    data = Revisions(commits, hub).pin(study.config).to_data()
    _locate(data, study)
    notes = {
        "tasks": {
            name: {split: identity(task.splits[split]) for split in sorted(task.splits)}
            for name, task in sorted(tasks.items())
        },
        "models": {name: identity(model) for name, model in sorted(models.items())},
    }
    lines = dump(notes).splitlines()
    comment = "".join(f"# {line}\n" for line in lines)
    return dump(data) + "\n# What the names stand for:\n" + comment


def _locate(data: dict[str, Any], study: Study) -> None:
    """Write absolute paths of files into a dumped study, so that it can be read from any folder."""
    kept, resolved = data.get("retention") or {}, study.resolved
    every = {**resolved.tasks, **resolved.held_out}
    for spec in (*data["tasks"], *kept.get("tasks", ())):
        for split, task_data in every[spec["name"]].splits.items():
            if split in spec:
                spec[split] = task_data.source.location
    if resolved.texts is not None:
        kept["texts"] = resolved.texts.source.location
    for key in {"student", "teacher", "tokenizer"} & set(data):
        model = study.resolved.models.get((data[key] or {}).get("model") or "")
        if model is not None:
            data[key]["model"] = model.location
