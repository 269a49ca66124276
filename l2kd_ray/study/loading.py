"""From a study file to a study: everything that it names is found, or refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from l2kd_ray.config import (
    InputError,
    Split,
    StudyConfig,
    TaskKind,
    TaskSpec,
    read_study,
    with_settings,
)
from l2kd_ray.methods import LANGUAGE, METHODS, Family, Resolved
from l2kd_ray.models.pretrained import check_tokenizers, resolve_model, resolve_vectors
from l2kd_ray.study.study import Study, family_of
from l2kd_ray.tasks import Task, family, resolve


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
    family_of_methods = _checked_family(config, where)
    language = family_of_methods is LANGUAGE
    searched = {key: space.examples()[0] for key, space in config.search.items()}
    for arm in config.arms:
        chosen = with_settings(config, {**searched, **arm.settings})
        family_of_methods.builder.check_arm(chosen, arm, where)
    data_dir, seed = config.data_dir, config.data_seed
    caps: dict[Split, int | None] = {
        "train": config.max_train,
        "dev": config.max_dev,
        "test": config.max_test,
    }

    def find(spec: TaskSpec) -> Task:
        return resolve(spec, data_dir=data_dir, data_seed=seed, caps=caps, where=where, base=base)

    tasks = {spec.name: find(spec) for spec in config.tasks}
    _check_kinds(tasks, family_of_methods.builder.kinds(config), where)
    models = {
        spec.model: found
        for spec in config.model_specs
        if spec.model and (found := resolve_model(spec, where=where, base=base))
    }
    models |= {
        spec.vectors: resolve_vectors(spec.vectors, where=where, base=base)
        for spec in config.model_specs
        if spec.vectors
    }
    corpus: list[Task] = []
    if language:
        check_tokenizers(config, models, where)
    if language and not (config.student.model or config.tokenizer.model):
        whole = set(tasks) <= set(family(config.tasks[0].name))
        if config.tokenizer.tasks is not None:
            corpus = [find(spec) for spec in config.tokenizer.tasks]
        elif whole:  # so that the study can gain a generated task and keep every stage
            corpus = [find(TaskSpec(name=name)) for name in family(config.tasks[0].name)]
        else:
            corpus = [tasks[name] for name in sorted(tasks)]
    train = tuple(task.splits["train"] for task in corpus)
    return Study(config, Resolved(tasks, models, train))


def _check_kinds(tasks: Mapping[str, Task], known: Collection[TaskKind], where: str) -> None:
    """Raises: InputError for a task that the study's methods cannot learn."""
    for task in tasks.values():
        if known and task.kind not in known:
            raise InputError(
                "the study's methods do not learn tasks of this kind",
                where=where,
                key=f"tasks.{task.name}",
                got=task.kind,
                expected=" or ".join(known),
                mend="`l2kd tasks` lists the kinds; a task of your own may say its `kind`",
            )


def _checked_family(config: StudyConfig, where: str) -> Family:
    """Raises: InputError for a method that is none, or methods that no study can compare."""
    for arm in config.arms:
        if arm.method not in METHODS:
            raise InputError(
                "no such method",
                where=where,
                key="methods",
                got=arm.method,
                expected=", ".join(METHODS) + ", multilm (multitask and single are always run)",
            )
    family = family_of(config)
    if config.tune.scheduler == "asha" and {a.method for a in config.arms} - family.orderless:
        raise InputError(
            "asha would stop single orders early, and the mean over orders would be one over the "
            "easy ones",
            where=where,
            key="tune.scheduler",
            got="asha",
            mend="race gives up settings, on common orders and seeds",
        )
    strangers = [arm.method for arm in config.arms if arm.method not in family.methods]
    orders = {arm.method in family.orderless for arm in config.arms}
    if strangers or len(orders) > 1:
        raise InputError(
            "these methods cannot be compared in one study: "
            + ("their models are of two kinds" if strangers else "some learn in an order"),
            where=where,
            key="methods",
            got=", ".join(arm.method for arm in config.arms),
            expected=", ".join(family.methods),
        )
    return family
