"""Refusal of settings that are set or searched but read by no method of the study.

Methods do not declare what they read: the stages of their first trial are built, and the sections
of the study record which of their fields are accessed (`section.reading`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from l2kd_ray.core.randomness import Seed
from l2kd_ray.errors import InputError
from l2kd_ray.families import FAMILIES, Builder, Method, Settings
from l2kd_ray.section import reading
from l2kd_ray.study.sections import Arm, CrossedSeeds
from l2kd_ray.study.study import Study

Reads = set[tuple[int, str]]
_NAMES = (".model", ".vectors")


def refuse_unread(study: Study, resolving: Reads, where: str) -> None:
    """Raise InputError for the first setting that nothing reads.

    `resolving`: the keys of the study's own settings read while its models were resolved.
    """
    config = study.config
    own = {key for key, *_ in config.settings.keys_set()}
    by_arm = {arm.name: _read_by_arm(study, arm) for arm in config.arms}
    for arm in config.arms:
        for key in arm.settings:
            if not _has(by_arm[arm.name], key):
                raise _refused(study, key, arm.settings[key], f"methods: {arm.name}: {key}", where)
    # Resolving a model reads its keys; only a builder shows that the model is used.
    found = {key for key in _looked_at(config.settings, resolving) if not key.endswith(_NAMES)}
    found |= _read_by_references(study)
    mirrors = {name.rpartition(":")[2] for name in config.report_to}  # each reads its own section

    def by_free_arms(key: str) -> bool:
        """True if an arm without a value of its own reads the key."""
        return any(_has(by_arm[arm.name], key) for arm in config.arms if key not in arm.settings)

    for key in sorted(own):
        if not (_has(found, key) or by_free_arms(key) or key.partition(".")[0] in mirrors):
            raise _refused(study, key, _value(config.settings, key), key, where)
    for key, space in config.search.items():
        if not by_free_arms(key):
            raise _refused(study, key, space.model_dump(exclude_unset=True), f"search.{key}", where)


def refuse_unread_seeds(study: Study, where: str) -> None:
    """Raise InputError for crossed seeds of which nothing depends: they would be repetitions."""
    seeds = study.config.seeds
    if not isinstance(seeds, CrossedSeeds):
        return
    first = study.config.replicates[0]
    for key, why in (("replay", "no method draws replays"), ("data", "no cap cuts train")):
        values = getattr(seeds, key) or ()
        keys = [_model_keys(study, first.model_copy(update={key: seed})) for seed in values[:2]]
        if len(keys) == 2 and keys[0] == keys[1]:
            raise InputError(
                f"it has no effect: {why}",
                where=where,
                key=f"seeds.{key}",
                got=list(values),
                fix="remove it",
            )


def _model_keys(study: Study, seed: Seed) -> list[str]:
    """The keys of each arm's student at the end of the first path, and of the references."""
    models = [
        study.builder_of(arm, setting).student(order, seed)
        for arm in study.config.arms
        for setting in study.config.search_examples()
        for order in _first_paths(study, study.family.methods[arm.method])
    ]
    build = study.builder
    models += [build.reference(name, t, seed) for name in study.references for t in study.tasks]
    return [model.key for model in models]


def _has(reads: Iterable[str], key: str) -> bool:
    """True if the key, or a key below it, was read."""
    return any(read == key or read.startswith(f"{key}.") for read in reads)


def _read_by_arm(study: Study, arm: Arm) -> set[str]:
    """The keys that an arm reads under any of the searched values.

    An arm with `kd.weight: 0` is the control of the same arm with distillation and differs in that
    key alone, so it may hold the keys that only the other reads.
    """
    method, found = study.family.methods[arm.method], set[str]()
    for setting in study.config.search_examples():
        values = {**setting, **arm.settings}
        found |= _read_by_method(study, method, values)
        sections: Any = study.config.settings.with_values(values).family
        if sections.kd.weight == 0:
            found |= _read_by_method(study, method, {**values, "kd.weight": 1.0})
    return found


def _read_by_method(study: Study, method: Method, values: Mapping[str, Any]) -> set[str]:
    """The keys read while the path of the first trial is built."""
    settings = study.config.settings.with_values(values)
    build = study.family.builder(settings, study.resolved, method)
    seed = study.config.replicates[0]
    with reading() as reads:
        for order in _first_paths(study, method):
            model = build.student(order, seed)
            for task in study.tasks:
                build.evaluate(model, task, "test", seed)
    return set(_looked_at(settings, reads))


def _first_paths(study: Study, method: Method) -> list[tuple[str, ...]]:
    if method.orderless:
        return [(task,) for task in study.tasks]
    return [study.orders[0] or tuple(study.tasks)]


def _read_by_references(study: Study) -> set[str]:
    """The keys that the references read: those of the multi-task bound and of teachers."""
    build: Builder = study.fresh_builder()
    seed = study.config.replicates[0]
    with reading() as reads:
        for name in study.references:
            for task in study.tasks:
                build.evaluate(build.reference(name, task, seed), task, "test", seed)
    return set(_looked_at(study.config.settings, reads))


def _looked_at(settings: Settings, reads: Reads) -> Iterator[str]:
    return (key for key, section, field in settings.keys_set() if (id(section), field) in reads)


def _value(settings: Settings, key: str) -> object:
    return next(
        section.__dict__.get(field, (section.model_extra or {}).get(field))
        for known, section, field in settings.keys_set()
        if known == key
    )


def _refused(study: Study, key: str, got: object, shown: str, where: str) -> InputError:
    """The error for a setting that nothing reads."""
    arms = ", ".join(arm.name for arm in study.config.arms)
    readers = _readers(study, key)
    return InputError(
        f"it has no effect: none of the study's methods ({arms}) reads it as it stands",
        where=where,
        key=shown,
        got=got,
        expected=f"it is read by {', '.join(readers)}" if readers else "",
        fix=f"remove it (on the command line: {key}=), or name a method or an option that reads it",
    )


def _readers(study: Study, key: str) -> list[str]:
    """The names of the methods that would read a setting."""
    return [
        method.name
        for method in FAMILIES[study.family.name].methods.values()
        if _has(_read_by_method(study, method, {}), key)
    ]
