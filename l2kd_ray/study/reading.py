"""Reading and validation of a study file: YAML, command-line overrides, aliases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from l2kd_ray import door
from l2kd_ray.errors import InputError, did_you_mean
from l2kd_ray.families import FAMILIES, METHODS, Family, Method, Settings
from l2kd_ray.names import REFERENCES
from l2kd_ray.section import Section
from l2kd_ray.study import yaml12
from l2kd_ray.study.refusal import UNKNOWN_KEY, refusal, sections_of
from l2kd_ray.study.schema import ArmsOnly, StudyConfig
from l2kd_ray.tasks import streams

_PLUGGABLE: Mapping[str, door.PluginKind] = {
    "method": "methods",
    "methods": "methods",
    "metric": "metrics",
    "format": "readers",
    "divergence": "divergences",
    "filters": "filters",
    "report_to": "mirrors",
}
"""The keys whose values, and whose searched values, may name a plug-in of a kind."""
_FRAME = StudyConfig.model_fields.keys() - {"family", "settings"}
"""The keys of a study's frame; `family` and `settings` are what the others become."""
_TAKEN = (
    *StudyConfig.model_fields,
    *(key for family in FAMILIES.values() for key in family.settings.model_fields),
)
"""The keys of a study file, which cannot be names of plug-ins."""

_MODELS = ("student", "teacher")
_EXCLUDES = {"model": "arch", "arch": "model"}

# Aliases: names in the original code, and the keys that they stand for.
ALIASES = {
    "gen_lm_sample_percentage": "replay.ratio",
    "top_k_lm": "replay.top_k",
    "temperature_lm": "replay.temperature",
    "lm_lambda": "train.lm_weight",
    "temperature_kd": "kd.temperature",
    "tokens_weight": "train.answer_weight",
    "n_train_epochs": "train.epochs",
    "learning_rate": "train.lr",
    "adam_epsilon": "train.adam_eps",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.clip",
    "n_warmup_ratio": "train.warmup",
    "train_batch_size": "train.batch_size",
    "max_len": "train.max_length",
    "model_name": "student.model",
}


def read_study(path: str | Path, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read and check a study file; `overrides` are dotted keys, as on the command line.

    Raises:
        InputError: the file is missing, is not YAML, or is not a valid study.
    """
    data = yaml12.read(path)
    if not isinstance(data, dict):
        raise InputError("a study is a mapping", where=str(path), got=data, expected="key: value")
    return parse_study(data, overrides, where=str(path), base=Path(path).parent)


def parse_study(
    data: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    where: str = "study",
    base: Path | None = None,
) -> StudyConfig:
    """Validate a study given as a mapping.

    Overriding a searched key fixes it; an override with an empty value removes the key. `base`: the
    folder in which plug-in files are looked up.

    Raises:
        InputError: it is not a valid study.
    """
    merged = _expand_aliases(dict(data), where)
    _move_select_on(merged, where)  # now, so that an override of tune.select_on replaces it
    for key, value in (overrides or {}).items():
        _override(merged, ALIASES.get(key, key), value, where)
    _move_select_on(merged, where)
    try:
        merged = _located(streams.expanded(merged, base), base)
    except InputError as error:
        raise error.at(where) from None
    frame = {name: merged.pop(name) for name in list(merged) if name in _FRAME}
    family = _family(frame.get("methods"), where)
    settings = _settings(family, merged, frame, where)
    try:
        study = StudyConfig.model_validate({**frame, "family": family, "settings": settings})
    except ValidationError as error:
        raise refusal(error, StudyConfig, where) from None
    for setting in study.search_examples(at_once=2):
        for arm in study.methods:
            place = f"methods: {arm.name}" if arm.settings else "search"
            _check_values(settings, {**setting, **arm.settings}, where, place)
    return study


def _family(methods: object, where: str) -> Family:
    """The family of the study's methods, extended by its plug-in methods.

    Raises: InputError for an unknown method, or methods that cannot be compared in one study.
    """
    default = {"methods": methods} if methods is not None else {}
    try:
        arms = ArmsOnly.model_validate(default).arms
    except ValidationError as error:
        raise refusal(error, ArmsOnly, where) from None
    chosen = {arm.method: _method(arm.method, where) for arm in arms}
    families = {method.family for method in chosen.values()}
    orderless = {method.orderless for method in chosen.values()}
    if len(families) > 1 or len(orderless) > 1:
        raise InputError(
            "these methods cannot be compared in one study: "
            + ("their models are of two kinds" if len(families) > 1 else "some learn in an order"),
            where=where,
            key="methods",
            got=", ".join(arm.method for arm in arms),
            expected=" or ".join(", ".join(FAMILIES[name].methods) for name in sorted(families)),
        )
    family = FAMILIES[families.pop()]
    return replace(family, methods={**family.methods, **chosen})


def _method(name: str, where: str) -> Method:
    if name in METHODS:
        return METHODS[name]
    found, plugin = door.find("methods", name, METHODS, where=where, key="methods")
    taken = (*METHODS, *REFERENCES, *_TAKEN)
    method = found if isinstance(found, Method) else Method(found, plugin.name)
    if method.section in taken or method.family not in FAMILIES or not callable(method.step):
        raise InputError(
            "a plug-in method is a function `step(build, previous, former, task, seed)`, of "
            "one of the families, under a name of its own",
            where=where,
            key="methods",
            got=f"{name}: name {method.section}, family {method.family}",
            expected=f"a family of {', '.join(FAMILIES)}; a name that is no key of a study file",
        )
    return replace(method, code=plugin.code)


def _settings(
    family: Family, data: dict[str, Any], frame: Mapping[str, Any], where: str
) -> Settings:
    """The settings of the methods. Raises: InputError for keys that the family does not have."""
    models = {key: one.options for key, one in family.options.items() if one.options is not None}
    plugins = _plugins({**frame, **data}, where)
    models |= {plugin.name: model for plugin, model in plugins.values() if model is not None}
    options: dict[str, Section] = {}
    for key, model in models.items():
        try:
            options[key] = model.model_validate(data.pop(key, None) or {})
        except ValidationError as error:
            raise refusal(error, model, where, key) from None
    try:
        sections = family.settings.model_validate(data)
        return Settings(sections, options, {name: plugin for name, (plugin, _) in plugins.items()})
    except ValidationError as error:
        found = refusal(error, family.settings, where)
        if found.problem == UNKNOWN_KEY:
            raise _unknown(found, family, [*models]) from None
        raise found from None


def _unknown(found: InputError, family: Family, options: list[str]) -> InputError:
    """The error for a key that the study's methods do not have.

    It names the methods that read the key, or the keys that exist.
    """
    readers = [
        f"{other.title} ({', '.join(other.methods)})"
        for other in FAMILIES.values()
        if _has_key(other.settings, found.key) or _is_option(other, found.key)
    ]
    if readers:
        return found.replaced(
            problem=f"no method of this study reads it: it is read by {' and by '.join(readers)}",
            expected="",
            fix="remove it, or name a method that reads it",
        )
    if "." in found.key:
        return found
    keys = (*sorted(_FRAME), *family.settings.model_fields, *options)
    return found.replaced(expected=f"one of {', '.join(keys)}", fix=did_you_mean(found.key, keys))


def _is_option(family: Family, dotted: str) -> bool:
    """True if a method of the family has the key among its options."""
    section, _, below = dotted.partition(".")
    method = family.options.get(section)
    model = method.options if method is not None else None
    return model is not None and (not below or _has_key(model, below))


def _has_key(model: type[BaseModel], dotted: str) -> bool:
    """True if the section, or one nested in it, has the key."""
    name, _, below = dotted.partition(".")
    field = model.model_fields.get(name)
    if field is None or not below:
        return field is not None
    return any(_has_key(inner, below) for inner in sections_of(field))


def _check_values(settings: Settings, values: Mapping[str, Any], where: str, key: str) -> None:
    """Raise InputError for settings that do not exist, or values that they do not accept."""
    try:
        settings.with_values(values)
    except KeyError as error:
        sections = ", ".join((*type(settings.family).model_fields, *settings.options))
        raise InputError(
            "no such setting of an arm or a search",
            where=where,
            key=f"{key}: {error.args[0]}",
            expected=f"a dotted key below {sections}, such as train.lr; a model's files and "
            "structkd.case are one for the whole study",
        ) from None
    except ValidationError as error:
        whole, section = type(settings.family), next(iter(values)).split(".")[0]
        found = getattr(settings.family, section, None) or settings.options.get(section)
        if found is None or error.title == whole.__name__:
            raise refusal(error, whole, where, f"{key}:") from None
        raise refusal(error, type(found), where, f"{key}: {section}") from None


# Plug-ins


def _plugin_names(value: object, key: str = "") -> Iterator[tuple[door.PluginKind, str]]:
    """The plug-ins named in a study, in all places where a plug-in is allowed."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _plugin_names(item, _key_below(key, str(name)))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _plugin_names(item, key)
    elif isinstance(value, str) and key in _PLUGGABLE and door.names(_PLUGGABLE[key], value):
        yield _PLUGGABLE[key], value


def _key_below(key: str, name: str) -> str:
    """The key of what stands under `name`: the values of a search are those of its own key."""
    return key if name in ("grid", "choice") else name.rpartition(".")[2]


def _plugins(
    data: Mapping[str, Any], where: str
) -> dict[str, tuple[door.Plugin, type[Section] | None]]:
    """The plug-ins other than methods (divergences, metrics, ...), with their options' sections.

    They are loaded once, here; their files need not exist where their stages are built or run.
    """
    found = {}
    taken = dict.fromkeys((*_TAKEN, *(one.section for one in METHODS.values())))
    for kind, name in _plugin_names(data):
        loaded, plugin = door.find(kind, name, taken, where=where)
        if not isinstance(loaded, Method):
            found[name] = plugin, getattr(loaded, "options", None)
    return found


def _located(value: Any, base: Path | None, key: str = "") -> Any:
    """The study with absolute paths of plug-in files, so that it can be read from any folder."""
    if isinstance(value, Mapping):
        return {
            name: _located(item, base, _key_below(key, str(name))) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_located(item, base, key) for item in value]
    return door.absolute(value, base) if isinstance(value, str) and key in _PLUGGABLE else value


def _expand_aliases(data: dict[str, Any], where: str) -> dict[str, Any]:
    for alias, key in ALIASES.items():
        if alias in data:
            section, _, name = key.partition(".")
            below = _mapping(data, section)  # `_set` refuses what is no mapping
            if isinstance(below, Mapping) and {name, _EXCLUDES.get(name)} & below.keys():
                raise InputError(
                    f"is given twice: as {key} and by its alias",
                    where=where,
                    key=alias,
                    fix=f"keep {key}",
                )
            _set(data, key, data.pop(alias), where)
    return data


def _move_select_on(data: dict[str, Any], where: str) -> None:
    """`search.select_on` is another place for `tune.select_on`."""
    search = data.get("search")
    if isinstance(search, Mapping) and "select_on" in search:
        data["search"] = {key: space for key, space in search.items() if key != "select_on"}
        _set(data, "tune.select_on", search["select_on"], where)


def _override(data: dict[str, Any], dotted: str, value: object, where: str) -> None:
    """Set a key, which is then searched no more, nor is any below it."""
    search = data.get("search")
    if isinstance(search, Mapping):
        fixed = [key for key in search if f"{key}.".startswith(f"{dotted}.")]
        data["search"] = {key: space for key, space in search.items() if key not in fixed}
    _set(data, dotted, value, where)


def _set(data: dict[str, Any], dotted: str, value: object, where: str) -> None:
    *parents, last = dotted.split(".")
    if parents and parents[0] == "search":  # search keys are themselves dotted
        parents, last = ["search"], dotted.partition(".")[2]
    if value is None:
        _take_away(data, parents, last)
        return
    for parent in parents:
        below = _mapping(data, parent)
        if below is not None and not isinstance(below, Mapping):
            raise InputError("has no keys below it", where=where, key=dotted, got=below)
        data[parent] = dict(below or {})
        data = data[parent]
    if parents and parents[0] in _MODELS and _EXCLUDES.get(last) in data:
        data.clear()  # the other model goes, with what was set of it
    data[last] = value


def _mapping(data: Mapping[str, Any], section: str) -> Any:
    """The content of a section; a model given as a text is the mapping that it stands for."""
    below = data.get(section)
    return {"model": below} if section in _MODELS and isinstance(below, str) else below


def _take_away(data: dict[str, Any], parents: list[str], last: str) -> None:
    for parent in parents:
        below = _mapping(data, parent)
        if not isinstance(below, Mapping):
            return
        data[parent] = dict(below)
        data = data[parent]
    data.pop(last, None)


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """The overrides `key=value` of a command line. Raises: InputError for a key given twice."""
    found: dict[str, Any] = {}
    for key, value in map(parse_override, words):
        name = ALIASES.get(key, key)
        if name in found:
            raise InputError("the key is given twice", key=key, fix="keep one of them")
        found[name] = value
    return found


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` of the command line; the value is YAML."""
    key, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not key:
        raise InputError(
            "an override is key=value", got=text, expected="for instance kd.temperature=2"
        )
    return key, yaml12.load(value, key=key)
