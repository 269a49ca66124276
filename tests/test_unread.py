"""Law 11: a setting is read or refused. Every field of every section, for every method.

No stage is run. The fields are those of the sections' classes, so a new one is tested unasked.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from safetensors.numpy import save_file

from l2kd_ray.errors import InputError
from l2kd_ray.families import FAMILIES, METHODS, Family
from l2kd_ray.section import Section, reading
from l2kd_ray.study import loading, unread
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.study.schema import StudyConfig
from l2kd_ray.tasks import Task, resolve
from l2kd_ray.tasks.spec import TaskSpec

CAPS = {"max_train": 16, "max_dev": 4, "max_test": 4}
BERT = {"arch": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
STUDIES: Mapping[str, Mapping[str, Any]] = {
    "language": {
        "tasks": [{"name": "gen.rest", "max_train": 24}, "gen.intent", "gen.hotel"],
        "orders": ["gen.rest>gen.intent>gen.hotel"],
        "student": {"arch": "gpt2", "n_layer": 1},
        **CAPS,
    },
    "classifiers": {"tasks": ["made.topics.a", "made.topics.b"], "student": BERT, **CAPS},
    "structures": {"tasks": ["made.tags.a"], "student": {"arch": "bilstm", "hidden": 8}, **CAPS},
}
"""A small study of each family, which sets what it must."""

FOLDER, VECTORS, STARS = "encoder", "vectors.txt", "stars.jsonl"
"""A pretrained model, word vectors and a regression, below the working directory of each test."""
LORA = {"train.lora": {"lora_alpha": 8}}
TEACHER = {"teacher": {"arch": "gpt2", "n_layer": 2}}
PRETRAINED = {"teacher": {"model": FOLDER}, "tokenizer.model": FOLDER}
COMPANIONS: Mapping[str, Mapping[str, Any]] = {
    # A teacher's answers are decoded for objectives on its answers, by one strategy.
    "kd.decode": {"kd.objective": "seq"},
    "kd.decode.beams": {"kd.objective": "seq", "kd.decode.strategy": "beam"},
    "kd.decode.top_k": {"kd.objective": "seq", "kd.decode.strategy": "sample"},
    "kd.decode.temperature": {"kd.objective": "seq", "kd.decode.strategy": "sample"},
    # A student's answers, and its own teacher.
    "kd.student_share": {"kd.policy": "mix"},
    "kd.sampling": {"kd.policy": "student"},
    "kd.self_teacher": {"kd.teachers": "self"},
    "kd.ema_rate": {"kd.teachers": "self", "kd.self_teacher": "ema"},
    "kd.demonstration": {"kd.teachers": "self"},
    "kd.skip_tokens": {"kd.teachers": "self"},
    # Parameters of a divergence.
    "kd.beta": {"kd.divergence": "jsd"},
    "kd.jsd_scale": {"kd.divergence": "jsd"},
    "kd.skew": {"kd.divergence": "skew_forward"},
    "evaluate.decode.beams": {"evaluate.decode.strategy": "beam"},
    "evaluate.decode.top_k": {"evaluate.decode.strategy": "sample"},
    "evaluate.decode.temperature": {"evaluate.decode.strategy": "sample"},
    # Only a section that is there has fields: another model as teacher, low-rank training.
    "train.lora": LORA,
    "teacher": TEACHER,
    # A pretrained teacher brings its tokenizer.
    "teacher.model": {"tokenizer.model": FOLDER},
    # What pretrained models have and models from scratch have not, and the other way round.
    "student.layers": {"student": {"model": FOLDER}},
    "student.revision": {"student": {"model": FOLDER}},
    "teacher.layers": PRETRAINED,
    "teacher.revision": PRETRAINED,
    "tokenizer.revision": {"tokenizer.model": FOLDER},
    "student.vectors": {"student": {"arch": "bilstm"}},
    "teacher.vectors": {"teacher": {"arch": "bilstm"}},
    # Rungs end with the epochs.
    "train.rungs": {"train.epochs": 4},
    # A unit is of numbers.
    "train.regression_unit": {
        "tasks": [{"name": "stars", "kind": "regress", "train": STARS, "test": STARS}]
    },
    # A batch is drawn from a memory that is larger.
    "agem.batch_size": {"agem.ratio": 1.0},
    "merge.density": {"merge.how": "ties"},
    # The k best are those of an objective that has them.
    "structkd.k": {"structkd.objective": "top-k"},
}
"""What a field is read with, where the smallest study does not read it: by key or by section."""
VALUES: Mapping[str, Any] = {
    "student.arch": "other",
    "teacher.arch": "other",
    "student.vectors": VECTORS,
    "teacher.vectors": VECTORS,
    "tokenizer.tasks": ["gen.rest"],
    "train.lora.target_modules": ["c_attn"],
    "train.rungs": [1, 4],
    "replay.filters": ["ended"],
    "kd.demonstration": "as {answer} :",
    "kd.divergence": f"{Path(__file__).parents[1]}/examples/skew_kl.py:skew_kl",
    "student.model": FOLDER,
    "teacher.model": FOLDER,
    "tokenizer.model": FOLDER,
    "student.revision": "main",
    "teacher.revision": "main",
    "tokenizer.revision": "main",
}
"""Another value of a field that is no number, choice or flag."""
REFUSED = {
    "revision": "a folder has no revisions",
    "train.lora": "LoRA",
    "train.average": "averaged weights do not fit",
    "kd.top_k": "cached teacher",
    "kd.teacher": "no cached teacher",
    "kd.objective": "take the place",
    "kd.policy": "take the place",
    "metakd.leave_out": "has learned nothing",
}
"""Why some are refused in other words. A revision is of a model of the hub, which is not asked."""
NOBODY = {
    *(f"{family}.{model}.revision" for family in FAMILIES for model in ("student", "teacher")),
    "language.tokenizer.revision",
    *(
        f"language.{model}.{key}"
        for model in ("student", "teacher")
        for key in ("layers", "vectors")
    ),
    *(f"structures.{model}.layers" for model in ("student", "teacher")),
}
"""What is said of models in general, and the models of this family do not have; and revisions."""
WHOLE: Mapping[str, Mapping[str, Any]] = {
    "student.model": {"student": {"model": FOLDER}},
    "teacher.model": {"teacher": {"model": FOLDER}},
}
"""Values that take the place of a whole section: a model is pretrained or from scratch."""


@pytest.fixture(scope="module")
def named_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the studies name."""
    here = tmp_path_factory.mktemp("named")
    (here / FOLDER).mkdir()
    (here / FOLDER / "config.json").write_text('{"model_type": "bert"}')
    save_file({"weight": np.zeros(1)}, here / FOLDER / "model.safetensors")
    (here / VECTORS).write_text("a 1 2\n")
    (here / STARS).write_text("".join(f'{{"text": "a {n}", "label": {n}}}\n' for n in range(40)))
    return here


@pytest.fixture(autouse=True)
def _there(named_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one folder for all tests, for which each task is resolved once; a refusal does not say
    who would read the setting, which takes as long as the rest."""
    monkeypatch.chdir(named_files)
    monkeypatch.setattr(loading, "resolve", resolved)
    monkeypatch.setattr(unread, "_readers", lambda study, key: [])


_tasks: dict[tuple[object, ...], tuple[Task, list[str]]] = {}


def resolved(spec: TaskSpec, **given: Any) -> Task:
    """A task of a study, and the fields of its section that are read to make it."""
    chosen = tuple(repr(value) for name, value in given.items() if name != "plugin")
    key = (spec.model_dump_json(exclude_unset=True), *chosen)
    if key not in _tasks:
        with reading() as reads:
            task = resolve(spec, **given)
        _tasks[key] = task, [field for owner, field in reads if owner == id(spec)]
    task, fields = _tasks[key]
    for field in fields:
        getattr(spec, field)
    return task


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field holds, or may hold in place of nothing."""
    kinds = {annotation, *typing.get_args(annotation)} - {type(None)}
    kinds -= {annotation} if len(kinds) > 1 else set()
    (kind, *more) = kinds
    return kind if isinstance(kind, type) and issubclass(kind, Section) and not more else None


def fields_of(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field) of everything below a section that holds no section."""
    for name, field in model.model_fields.items():
        if (below := section_of(field.annotation)) is not None:
            yield from fields_of(below, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def settings_of(family: Family) -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a family: of its sections, and of its methods' own."""
    yield from fields_of(family.settings)
    for key, method in family.options.items():
        assert method.options is not None
        yield from fields_of(method.options, f"{key}.")


HOW = ("micro_batch", "gradient_checkpointing", "deterministic", "shard", "fsdp_config")
"""Fields of `train` that say how a result is computed, and are in no key: see the last test."""
FIELDS = {
    name: {
        key: value
        for key, value in settings_of(family)
        if not key.startswith(tuple(f"train.{how}" for how in HOW))
    }
    for name, family in FAMILIES.items()
}
OFF: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "lamol": ({"replay.ratio": 0.0}, {"replay.top_k": 1}, {"train.lm_weight": 0.0}),
    "lamol-real": ({"replay.ratio": 0.0}, {"replay.weight": "separate"}),
    "l2kd": (
        {"kd.weight": 0.0},
        {"kd.objective": "seq"},
        {"kd.objective": "seq-soft"},
        {"kd.teachers": "previous"},
        {"kd.teachers": "both"},
        {"kd.teacher": "online"},
        {"kd.policy": "student"},
        {"kd.teachers": "self"},
    ),
    "sdft": ({"kd.weight": 0.0}, {"kd.self_teacher": "live"}),
    "mkd": ({"mkd.student": "single"}, {"mkd.teacher": "single"}),
    "metakd": (
        {"kd.weight": 0.0},
        {"metakd.teacher": "all"},
        {"metakd.teacher": "single"},
        {"metakd.teacher": "multitask"},
        {"metakd.prototypes": False},
        {"metakd.corruption": 0.0},
        {"metakd.prediction": 0.0},
        {"metakd.expertise": False},
        {"metakd.stages": "two"},
        {"metakd.alpha": 1.0},
        {"metakd.alpha": 0.0},
    ),
    "structkd": (
        {"kd.weight": 0.0},
        {"structkd.objective": "top-wk"},
        {"structkd.objective": "posterior"},
        {"structkd.anneal": 0.0},
    ),
}
"""What takes something away from a method: what only that read is refused then."""
CASES = [
    (method.name, key, "{}") for method in METHODS.values() for key in FIELDS[method.family]
] + [
    (name, key, json.dumps(off))
    for name, variants in OFF.items()
    for off in variants
    for key in FIELDS[METHODS[name].family]
    if key.split(".")[0] in ("kd", "replay", METHODS[name].section) and key not in off
]  # fmt: skip


def base(method: str) -> dict[str, Any]:
    return {"name": "base", "methods": [method], **STUDIES[METHODS[method].family]}


Keys = frozenset[tuple[Any, ...]]


def keys(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> Keys:
    """What every trial of a study evaluates, by the keys. Raises: InputError.

    A key holds those of all stages before it; `method` tells apart trials that change places.
    """
    study = resolve_study(parse_study(data, overrides, where="my.yaml"), "my.yaml")
    return frozenset(
        (trial.method, cell.i, cell.task, cell.split, cell.stage.key)
        for trial in study.trials()
        for cell in trial.cells
    )


def others(key: str, field: FieldInfo) -> list[Any]:
    """Values that the field takes and that are not its default."""
    if key in VALUES:
        return [VALUES[key]]
    takes: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])
    choices = [
        choice
        for kind in (field.annotation, *typing.get_args(field.annotation))
        if typing.get_origin(kind) is typing.Literal
        for choice in typing.get_args(kind)
    ]
    found = []
    for value in (*choices, True, False, 3, 300, 0.25, 0.75):
        try:
            same = takes.validate_python(value, strict=True) == field.default
        except ValidationError:
            continue
        if not same:
            found.append(value)
    return found


def companions_of(method: str, key: str) -> dict[str, Any]:
    """What the field is read with, of what the method's family has."""
    parts = key.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    found = next((COMPANIONS[name] for name in prefixes if name in COMPANIONS), {})
    own = METHODS[method].section
    sections = {"tasks", own, *FAMILIES[METHODS[method].family].settings.model_fields}
    known = {name: value for name, value in found.items() if name.split(".")[0] in sections}
    if METHODS[method].section == "metakd" and parts[0] in ("student", "teacher"):
        known |= {"metakd.hidden": 0.0, "metakd.attention": 0.0}  # layers of alike models only
    return {name: value for name, value in known.items() if name != key}


@cache
def _keys(method: str, overrides: str) -> Keys | None:
    """The keys with some settings; None where they are refused."""
    try:
        return keys(base(method), json.loads(overrides))
    except InputError:
        return None


@cache
def outcome(method: str, key: str, off: str, place: str) -> tuple[str, str, Any]:
    """(`moved`, `silent`, `no effect` or `refused`, the message, the value) of another value.

    `place`: it is the study's own, searched, or an arm's own; then the arm itself is looked at.
    What the method does not take of the companions, the field has to do without, if it can.
    """
    own = json.loads(off)
    companions = {**companions_of(method, key), **own}
    before = _keys(method, json.dumps(companions))
    beside = [companions] if before is not None else [own, companions]
    before = before or _keys(method, off)
    assert before is not None, own
    field = FIELDS[METHODS[method].family][key]
    last: tuple[str, str, Any] = "refused", "no other value is known: see VALUES", None
    for value, more in product(others(key, field), beside):
        change = put(method, key, value, place)
        try:
            after = keys(base(method), {**more, **change})
        except InputError as error:
            last = "no effect" if "no effect" in error.problem else "refused", str(error), change
            if last[0] == "no effect":
                return last
        else:
            moved = after != before if place == "study" else students(method, after - before)
            return "moved" if moved else "silent", "", change
    return last


def put(method: str, key: str, value: object, place: str) -> Mapping[str, Any]:
    """The overrides that give a key a value in one of three places."""
    if place == "search":
        return {"search": {key: {"grid": [value]}}}
    if place == "arm":
        return {"methods": [{"name": method, "method": method, "settings": {key: value}}]}
    return WHOLE.get(key, {key: value})


def students(method: str, found: Keys) -> Keys:
    """What of it is a student's, on test: a search has the students on dev, too."""
    return frozenset(one for one in found if (one[0], one[3]) == (method, "test"))


@pytest.mark.parametrize(("method", "key", "off"), CASES)
def test_a_setting_moves_a_key_or_is_refused(method: str, key: str, off: str) -> None:
    found, message, change = outcome(method, key, off, "study")
    if found == "silent":  # the control without a teacher is had by one key, `kd.weight: 0`
        control = json.loads(off) == {"kd.weight": 0.0}
        assert control, change
    if found == "refused":
        why = [text for name, text in REFUSED.items() if f".{name}" in f".{key}"]
        assert any(text in message for text in why), f"{change}\n{message}"
    if found == "no effect":
        said = message.splitlines()[0]
        assert said.startswith(f"my.yaml: {key.partition('.')[0]}")
        assert f"({method})" in said


_readers = unread._readers


def test_a_refusal_names_the_methods_that_would_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "_readers", _readers)
    with pytest.raises(InputError, match=r"it is read by .*l2kd") as refused:
        keys(base("finetune"), {"kd.temperature": 2.0})
    assert "lamol" not in str(refused.value).partition("it is read by")[2].partition("\n")[0]


SHORT = ("finetune", "l2kd", "mkd", "structkd")
"""Methods that are tried each time; the others share their families' sections."""


@pytest.mark.parametrize("place", ["search", "arm"])
@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[] if m in SHORT else pytest.mark.drill) for m in METHODS],
)
def test_a_searched_setting_or_an_arms_own_moves_the_arm_or_is_refused(
    method: str, place: str
) -> None:
    for key in FIELDS[METHODS[method].family]:
        found, message, change = outcome(method, key, "{}", place)
        assert found != "silent", change
        if found != "moved":
            shown = f"search.{key}" if place == "search" else f"methods: {method}: {key}"
            why = [text for name, text in REFUSED.items() if f".{name}" in f".{key}"]
            known = "no such setting" in message or any(text in message for text in why)
            named = message.startswith((f"my.yaml: {shown}", f"my.yaml: {key.split('.')[0]}."))
            assert known or (found == "no effect" and named), message


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_of_a_family_is_read_by_one_of_its_methods(family: str) -> None:
    """None is there for nobody."""
    for key in FIELDS[family]:
        found = {outcome(method, key, "{}", "study")[0] for method in FAMILIES[family].methods}
        assert "moved" in found or f"{family}.{key}" in NOBODY, key


TWO = {
    "tasks": ["gen.rest", "gen.intent"],
    "orders": "all",
    "methods": [
        {"name": "words", "method": "l2kd", "settings": {"kd.objective": "word"}},
        {"name": "answers", "method": "l2kd", "settings": {"kd.objective": "seq"}},
    ],
}


def test_what_every_arm_sets_itself_is_not_searched() -> None:
    with pytest.raises(InputError, match="no effect") as refused:
        keys({**base("l2kd"), **TWO}, {"search": {"kd.objective": {"grid": ["word", "seq"]}}})
    assert refused.value.key == "search.kd.objective"


def test_what_every_arm_sets_itself_is_not_set_for_all() -> None:
    arms = [
        {"name": f"at{t}", "method": "l2kd", "settings": {"kd.temperature": t}} for t in (1.0, 4.0)
    ]
    with pytest.raises(InputError, match="no effect") as refused:
        keys({**base("l2kd"), "methods": arms}, {"kd": {"temperature": 2.0}})
    assert refused.value.key == "kd.temperature"


def test_an_arms_own_value_stands_against_a_searched_one() -> None:
    """An arm of decoded answers reads no temperature, whatever the others do."""
    own = {"kd.objective": "seq", "kd.temperature": 3.0}
    arms = ["l2kd", {"name": "answers", "method": "l2kd", "settings": own}]
    with pytest.raises(InputError, match="no effect") as refused:
        keys(
            {**base("l2kd"), **TWO, "methods": arms},
            {"search": {"kd.objective": {"grid": ["word", "seq-soft"]}}},
        )
    assert refused.value.key == "methods: answers: kd.temperature"


# Numbers ------------------------------------------------------------------------------------------


def leaves(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    inside = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        return leaves(inside[0])
    return set().union(*map(leaves, inside)) if inside else {annotation}


def is_number(field: FieldInfo) -> bool:
    return bool({int, float} & leaves(field.annotation))


def refusal(family: str, overrides: Mapping[str, Any]) -> str:
    method = next(iter(FAMILIES[family].methods))
    with pytest.raises(InputError) as caught:
        parse_study(base(method), overrides, where="my.yaml")
    return str(caught.value)


NO_NUMBERS = (float("inf"), float("-inf"), float("nan"), True, False)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_no_number_is_refused_for_every_number(family: str) -> None:
    for key, field in (*FIELDS[family].items(), *FRAME.items()):
        beside = {"retention.lm_eval.tasks": {"piqa": "acc"}} if "lm_eval" in key else {}
        for wrong in NO_NUMBERS if is_number(field) else ():
            for value in (wrong, [wrong], [wrong, 4]):
                said = refusal(family, {**beside, key: value})
                assert key.split(".")[-1] in said, (key, value)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_no_number_is_refused_for_every_number_that_is_searched(family: str) -> None:
    for key, field in FIELDS[family].items():
        for wrong in NO_NUMBERS if is_number(field) else ():
            for space in ({"grid": [wrong]}, {"choice": [wrong]}):
                message = refusal(family, {"search": {key: space}})
                assert f"search: {key.split('.')[0]}" in message, message
            for bounds in ("uniform", "loguniform", "randint"):
                message = refusal(family, {"search": {key: {bounds: [0.1, wrong]}}})
                assert f"search.{key}" in message, message


# The frame ----------------------------------------------------------------------------------------

FRAME = {
    key: field
    for key, field in fields_of(StudyConfig)
    if key not in ("family", "settings")  # which are made of the other keys
}
RANGE = {"search": {"train.lr": {"uniform": [0.1, 0.2]}}}
FRAME_VALUES: Mapping[str, Mapping[str, Any]] = {
    "tasks": {"tasks": ["gen.rest"], "orders": "all"},
    "methods": {"methods": ["lamol"]},
    "orders": {"orders": ["gen.rest>gen.hotel>gen.intent"]},
    "seeds": {"seeds": [7]},
    "data_seed": {"data_seed": 7},
    "max_train": {"max_train": 9},
    "max_dev": {"max_dev": 3, **RANGE},
    "max_test": {"max_test": 3},
    "search": RANGE,
    "tune.num_samples": {"tune.num_samples": 3, **RANGE},
    "tune.seed": {"tune.seed": 3, **RANGE},
    "share": {"share": False},
}
"""Another value of what says which trials there are, with what reads it."""
ELSEWHERE = {
    "name": "what the study is called",
    "data_dir": "where files lie",
    "storage": "where results lie",
    "keep": "what of them stays",
    "retention": "what else is measured of its models",
    "scale": "which machines do it",
    "report_to": "where it is shown",
    "wandb": "how it is shown",
    "on_event": "who is told",
    "tune.max_concurrent": "how many at once",
    "tune.searcher": "which setting is tried next",
    "tune.objectives": "which setting is tried next",
    "tune.scheduler": "which setting is given up",
    "tune.reduction": "which setting is given up",
    "tune.stop": "when a sweep ends",
    "tune.select_on": "what the report says of the trials",
}
"""What says where and how trials run, what is tried next and what is said of it; by section."""


@pytest.mark.parametrize("key", FRAME)
def test_the_frame_says_which_trials_there_are_or_where_they_run(key: str) -> None:
    if any(key == name or key.startswith(f"{name}.") for name in ELSEWHERE):
        assert key not in FRAME_VALUES
        return
    changes = FRAME_VALUES[key]
    companions = {name: value for name, value in changes.items() if name != key}
    assert keys(base("lamol-real"), changes) != keys(base("lamol-real"), companions)


@pytest.mark.parametrize(
    "key",
    ["num_samples", "searcher", "scheduler", "reduction", "seed", "select_on", "objectives"],
)
def test_how_to_search_is_refused_where_nothing_is_searched(key: str) -> None:
    values = {
        "searcher": "optuna",
        "scheduler": "race",
        "select_on": {"seeds": "half"},
        "objectives": ["new", "old"],
    }
    value = values.get(key, 3)
    assert f"tune.{key}" in refusal("language", {f"tune.{key}": value})


@pytest.mark.parametrize("key", ["num_samples", "seed"])
def test_how_to_draw_is_refused_where_nothing_is_drawn(key: str) -> None:
    grid = {"train.lr": {"grid": [0.1, 0.2]}}
    assert f"tune.{key}" in refusal("language", {"search": grid, f"tune.{key}": 3})


def test_how_wide_and_of_what_is_read_together() -> None:
    assert "half_width" in refusal("language", {"tune.stop.metric": "cl/avg"})
    assert "half_width" in refusal("language", {"tune.stop.method": "finetune"})


# Tasks --------------------------------------------------------------------------------------------

OF_A_TASK = {
    "kind": "classify",
    "train": "t.jsonl",
    "dev": "t.jsonl",
    "test": "t.jsonl",
    "distil": "no.json",
    "format": "csv",
    "hub": "org/set",
    "config": "c",
    "revision": "main",
    "splits": {"dev": "d"},
    "columns": {"answer": "b"},
    "labels": ["x", "y"],
    "unanswered": "leave out",
    "quoting": "none",
    "scheme": "iob2",
    "question": "What?",
    "metric": "nf1",
    "max_train": 3,
    "max_dev": 1,
    "max_test": 3,
    "dev_fraction": 0.4,
}
FILES = {"train": "t.jsonl", "test": "t.jsonl", "max_test": 5}


def test_every_field_of_a_task_is_listed() -> None:
    assert {*OF_A_TASK, "name"} == {*TaskSpec.model_fields}


@pytest.mark.parametrize("own", [{"name": "gen.rest"}, {"name": "mine", **FILES}], ids=str)
@pytest.mark.parametrize("key", OF_A_TASK)
def test_a_tasks_field_moves_a_key_or_is_refused(
    own: Mapping[str, Any], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most are of files alone, or of a set of the hub; language models read a task's kind where
    they check replayed labels."""
    row = {"question": "q", "answer": "x", "b": "y"}
    rows = [json.dumps({**row, "context": f"a{n}"}) + "\n" for n in range(20)]
    Path(tmp_path, "t.jsonl").write_text("".join(rows))
    monkeypatch.chdir(tmp_path)
    study = {**base("lamol"), "orders": "all", "replay": {"filters": ["label"]}, **RANGE}
    before = keys({**study, "tasks": [own, "gen.intent"]}, {})
    try:
        after = keys({**study, "tasks": [{**own, key: OF_A_TASK[key]}, "gen.intent"]}, {})
    except InputError as error:
        refused = str(error).splitlines()[0]
        named = any(one in refused for one in ("my.yaml", "t.jsonl", "no.json", "org/set"))
        moved = False
    else:
        named, moved = False, after != before
    assert named or moved or own.get(key) == OF_A_TASK[key]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.micro_batch", 2),
        ("train.deterministic", True),
        ("train.gradient_checkpointing", True),
        ("train.shard", "fsdp2"),
        ("train.fsdp_config.cpu_offload", True),
    ],
)
def test_how_a_result_is_computed_is_in_no_key_and_not_searched(key: str, value: object) -> None:
    data = {**base("l2kd"), "scale": {"workers": 2}}
    # `fsdp_config` is read by shards alone.
    whole = {"train.shard": "fsdp2"} if "fsdp_config" in key else {}
    assert keys(data, {**whole, key: value}) == keys(data, {})
    with pytest.raises(InputError, match="no such setting"):
        keys(data, {"search": {key: {"grid": [value]}}})


CONSTRAINED = ("ewc", "mas", "gem", "agem", "o-lora")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"scale": {"workers": 1}}, "all have one"),
        ({"scale": {"workers": 2, "gpus_per_worker": 0.5}}, "share its memory anyway"),
        *(({"methods": [name]}, "the gradient of the whole") for name in CONSTRAINED),
        ({"methods": ["osf"]}, "takes whole matrices apart"),
        ({"kd.policy": "student"}, "writes its answers on each worker"),
        ({"kd.teachers": "self", "kd.self_teacher": "ema"}, "follows the student reads all"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(settings: dict[str, Any], why: str) -> None:
    data = {**base("l2kd"), "scale": {"workers": 2}}
    with pytest.raises(InputError, match=why) as refused:
        keys(data, {"train.shard": "fsdp2", **settings})
    assert str(refused.value.key).endswith("train.shard")
