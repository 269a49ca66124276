"""What a study may say, and how it is told what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.studies import TINY
from hypothesis import given
from hypothesis import strategies as st

from l2kd_ray.errors import InputError
from l2kd_ray.families import FAMILIES
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.stages.decode import Decode
from l2kd_ray.families.language.stages.learn import Learn, Multitask
from l2kd_ray.families.language.stages.replay import Replay
from l2kd_ray.study.pins import Revisions
from l2kd_ray.study.reading import ALIASES, parse_override, parse_study, read_study
from l2kd_ray.study.schema import StudyConfig

SHIPPED = sorted((Path(__file__).parent.parent / "tune_configs").glob("*.yaml"))


def refusal(changes: dict[str, Any], **data: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_study({**TINY, **data}, changes, where="my.yaml")
    return caught.value


def tells(error: InputError, key: str, way_out: str) -> bool:
    """Whether a refusal names the file and the key, and says what would do."""
    return (error.where, error.key) == ("my.yaml", key) and way_out in str(error)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_are_accepted(path: Path) -> None:
    assert read_study(path).name == path.stem.replace("_", "-")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("kd.temperature", 0, "greater than 0"),
        ("kd.temperature", "hot", "number"),
        ("kd.weight", 1.5, "less than or equal to 1"),
        ("kd.temprature", 2, "temperature"),
        ("train.epochs", 0, "greater than or equal to 1"),
        ("replay.weight", "heavy", "natural"),
        ("orders", "some", "all"),
        ("seeds", [-1], "greater than or equal to 0"),
        ("scale.learn", {"workers": [4, 2]}, "minimum"),
    ],
)
def test_refusals_name_file_key_value_and_what_is_expected(
    key: str, value: object, says: str
) -> None:
    message = str(refusal({key: value}))
    assert message.startswith("my.yaml: ")
    assert key in message.splitlines()[0]
    assert says in message
    assert len(message.splitlines()) <= 5  # fits a screen with room to spare


@pytest.mark.parametrize("section", ["train", "multitask"])
def test_a_training_is_in_epochs_or_in_steps(section: str) -> None:
    error = refusal({f"{section}.epochs": 2, f"{section}.steps": 100})
    assert tells(error, f"{section}.steps", "remove epochs, or remove steps")


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    error = refusal({"kd.heat": 2})
    assert error.key == "kd.heat"
    assert "temperature" in error.expected


@pytest.mark.parametrize(
    ("data", "key", "way_out"),
    [
        ({"orders": [["gen.rest", "gen.rest"]]}, "orders", "gen.rest is named twice"),
        ({"orders": [["gen.rest"]]}, "orders", "each of gen.rest, gen.intent, once"),
        ({"orders": []}, "orders", "at least 1 item"),
        ({"tasks": ["gen.rest", "gen.rest"]}, "tasks", "gen.rest is named twice"),
        ({"methods": ["lamol", "lamol"]}, "methods", "lamol is named twice"),
        (
            {"methods": [{"name": "single", "method": "lamol"}]},
            "methods",
            "a reference is always run",
        ),
        (
            {"methods": [{"name": "mine", "method": "l2kd", "settings": {"kd.temprature": 2}}]},
            "methods: mine: kd.temprature",
            "temperature",
        ),
        ({"seeds": [1, 1]}, "seeds", "1 is named twice"),
        ({"seeds": []}, "seeds", "at least 1 item"),
        (
            {"search": {"kd.temperature": {"grid": [1, 0]}}},
            "search: kd.temperature",
            "greater than 0",
        ),
        ({"search": {"seeds": {"grid": [1]}}}, "search: seeds", "such as train.lr"),
        ({"search": {"student.model": {"grid": ["a"]}}}, "search: student.model", "a dotted key"),
        (
            {"search": {"replay.top_k": {"uniform": [5, 50]}}},
            "search: replay.top_k",
            "a valid integer",
        ),
        (
            {"search": {"kd.temperature": {"grid": [1]}}, "tune": {"searcher": "optuna"}},
            "search.kd.temperature",
            "write choice: [...]",
        ),
        (
            {"kd": {"temperature": 3}, "temperature_kd": 4},
            "temperature_kd",
            "keep kd.temperature",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_with_its_key_and_what_would_do(
    data: dict[str, Any], key: str, way_out: str
) -> None:
    error = refusal({}, **data)
    assert tells(error, key, way_out), error


def test_an_order_may_be_written_with_arrows() -> None:
    assert parse_study({**TINY, "orders": ["gen.intent>gen.rest"]}).orders == (
        ("gen.intent", "gen.rest"),
    )


@pytest.mark.parametrize(
    "space",
    [
        {"uniform": [0.5, 0.5]},
        {"loguniform": [0.5, 0.1]},
        {"loguniform": [0, 0.5]},
        {"randint": [3, 3]},
        {"uniform": [0.1, 0.2], "choice": [0.3]},
        {},
    ],
    ids=str,
)
def test_a_range_that_is_none_is_refused(space: dict[str, Any]) -> None:
    assert "search" in refusal({"search": {"train.lr": space}}).key


def test_both_ends_of_a_searched_range_must_be_values_of_the_setting() -> None:
    parse_study({**TINY, "search": {"train.epochs": {"randint": [1, 3]}}})
    for space in ({"randint": [0, 3]}, {"uniform": [1, 3]}):
        assert "train" in refusal({"search": {"train.epochs": space}}).key
    parse_study({**TINY, "search": {"kd.weight": {"uniform": [0, 1]}}})
    assert "kd" in refusal({"search": {"kd.weight": {"uniform": [0, 1.5]}}}).key
    assert "kd" in refusal({"search": {"kd.weight": {"randint": [0, 3]}}}).key  # 2 is drawn


def test_workers_are_those_of_the_kind_of_stage() -> None:
    """Trainings take all there are; what generates takes one unless it is told."""
    scale: dict[str, Any] = {"workers": [2, 4], "cpus_per_worker": 2, "gpus_per_worker": 1}
    scale |= {"replay": {"workers": 3}, "decode": {"cpus_per_worker": 4}}
    found = parse_study({**TINY, "scale": scale}).scale
    asked = {
        one: (found.of(one).workers, found.of(one).cpus_per_worker, found.of(one).gpus_per_worker)
        for one in (Learn, Multitask, Replay, Decode, Examples)
    }
    assert asked == {
        Learn: ((2, 4), 2, 1),
        Multitask: ((2, 4), 2, 1),
        Replay: (3, 2, 1),
        Decode: (1, 4, 1),
        Examples: (1, 2, 0),  # it needs no GPU
    }


def test_an_overridden_key_is_searched_no_more() -> None:
    data = {**TINY, "search": {"kd.temperature": {"grid": [1, 2]}, "kd.weight": {"grid": [0, 1]}}}
    study = parse_study(data, {"kd.temperature": 3})
    assert list(study.search) == ["kd.weight"]
    assert study.settings.family.kd.temperature == 3


def test_an_override_ends_the_search_over_what_it_sets_and_below_it() -> None:
    search = {"train.lora.r": {"grid": [2, 4]}, "kd.temperature": {"grid": [1, 2]}}
    data = {**TINY, "train": {**TINY["train"], "lora": {"r": 2}}, "search": search}
    assert list(parse_study(data, {"train.lora": None}).search) == ["kd.temperature"]
    assert list(parse_study(data, {"search.kd.temperature": None}).search) == ["train.lora.r"]
    assert list(parse_study(data, {"kd": {"temperature": 3}}).search) == ["train.lora.r"]


def test_an_alias_in_the_file_fixes_no_searched_key() -> None:
    search = {"search": {"kd.temperature": {"grid": [1, 2]}}}
    assert list(parse_study({**TINY, "temperature_kd": 2, **search}).search) == ["kd.temperature"]


def test_the_command_line_stands_against_select_on_of_the_file() -> None:
    search = {"kd.temperature": {"grid": [1, 2]}, "select_on": {"orders": "half"}}
    data = {**TINY, "seeds": [1, 2], "search": search}
    assert parse_study(data).tune.select_on is not None
    assert parse_study(data, {"tune.select_on": None}).tune.select_on is None
    changed = parse_study(data, {"tune.select_on": {"seeds": "half"}}).tune.select_on
    assert changed is not None
    assert (changed.orders, changed.seeds) == (None, "half")


@pytest.mark.parametrize("orders", [{"random": 1}, "williams"])
def test_orders_of_methods_that_learn_in_none_are_refused(orders: Any) -> None:
    student = {"arch": "bert"}
    data = {"name": "x", "tasks": ["made.topics.a"], "methods": ["mkd"], "student": student}
    parse_study(data)
    with pytest.raises(InputError, match="learn in no order") as refused:
        parse_study({**data, "orders": orders})
    assert refused.value.key == "orders"


def test_aliases_are_the_names_of_the_original() -> None:
    found = parse_study({**TINY, "replay": {}, "gen_lm_sample_percentage": 0.05, "lm_lambda": 0.5})
    sections: Any = found.settings.family
    assert (sections.replay.ratio, sections.train.lm_weight) == (0.05, 0.5)
    sections = parse_study(TINY, {"temperature_kd": 3}).settings.family
    assert sections.kd.temperature == 3
    for key in ALIASES.values():
        section, _, name = key.partition(".")
        assert name in type(getattr(sections, section)).model_fields


def test_the_originals_two_temperatures_are_told_apart() -> None:
    given = {**TINY, "temperature_lm": 0.5, "temperature_kd": 3.0}
    sections: Any = parse_study(given).settings.family
    assert (sections.replay.temperature, sections.kd.temperature) == (0.5, 3.0)


def test_an_override_without_a_value_takes_the_key_away() -> None:
    given = {**TINY, "kd": {"temperature": 5.0, "decode": {"beams": 8}}, "seeds": [3]}
    study = parse_study(given, {"kd.temperature": None, "kd.decode.beams": None, "seeds": None})
    sections: Any = study.settings.family
    assert (sections.kd.temperature, sections.kd.decode.beams) == (2.0, 4)
    assert study.seeds == (531,)
    assert parse_study(TINY, {"kd.decode.beams": None}).settings == parse_study(TINY).settings


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"data_dir": "$NOT_SET"}, "data_dir"),
        ({"storage": "s3:/bucket"}, "storage"),
        ({"storage": "$NOT_SET/x"}, "storage"),
        ({"tasks": [{"name": "a", "train": "$NOT_SET/a.csv"}]}, "tasks.0.train"),
        ({"tasks": [{"name": "a", "test": "s3://bucket/a.csv"}]}, "tasks.0.test"),
        ({"student": {"model": "$NOT_SET/gpt2"}}, "student.model"),
        ({"teacher": {"arch": "bilstm", "vectors": "$NOT_SET/glove"}}, "teacher.vectors"),
        ({"tokenizer": {"model": "$NOT_SET/gpt2"}}, "tokenizer.model"),
    ],
)
def test_every_setting_that_is_a_path_is_read_by_one_rule(data: dict[str, Any], key: str) -> None:
    assert refusal({}, **data).key == key


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"tune": {"num_samples": 3}}, "tune.num_samples"),
        (
            {"tune": {"scheduler": "asha"}, "search": {"kd.weight": {"choice": [1]}}},
            "tune.scheduler",
        ),
        ({"tune": {"scheduler": "median"}}, "tune.scheduler"),
        ({"tune": {"reduction": 2}}, "tune.reduction"),
        ({"tune": {"stop": {"half_width": 1, "method": "x"}}}, "tune.stop.method"),
        ({"tune": {"stop": {"metric": "cl/avg"}}}, "tune.stop.metric"),
        ({"tune": {"select_on": {}}}, "tune.select_on"),
        (
            {"search": {"train.lr": {"grid": [1e-4]}}, "tune": {"select_on": {"seeds": "half"}}},
            "tune.select_on.seeds",
        ),
        *(
            ({"search": {"train.lr": {"uniform": [0.1, 0.2]}}, "tune": tune}, "tune.objectives")
            for tune in (
                {"objectives": ["new", "old"]},
                {"objectives": ["new", "new"], "searcher": "optuna"},
                {"objectives": ["dev", "texts"], "searcher": "optuna"},
            )
        ),
        ({"search": {"kd.weight": {"uniform": [1, 0]}}}, "search.kd.weight.uniform"),
        ({"search": {"kd.weight": {}}}, "search.kd.weight"),
        ({"kd": {"top_k": 5, "teacher": "online"}}, "kd.top_k"),
        ({"student": {"arch": "gpt2", "vectors": "a"}}, "student.vectors"),
        ({"student": {"arch": "gpt2", "layers": 2}}, "student.layers"),
        ({"student": {"model": "gpt2"}, "tokenizer": {"model": "gpt2"}}, "tokenizer.model"),
        ({"scale": {"workers": [3, 2]}}, "scale.workers"),
        ({"kd": {"weight": True}}, "kd.weight"),
    ],
)
def test_what_a_check_of_several_keys_refuses_is_told_problem_first(
    data: dict[str, Any], key: str
) -> None:
    error = refusal({}, **data)
    assert error.key == key
    assert error.problem != "not accepted"


@pytest.mark.parametrize(
    ("alias", "section"), [("temperature_kd", "kd"), ("model_name", "student")]
)
def test_an_alias_beside_a_section_that_is_none_is_refused(alias: str, section: str) -> None:
    assert refusal({}, **{alias: 2, section: 3}).problem == "has no keys below it"


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    """The second would silently win."""
    for text in ("name: a\nname: b\n", "name: a\nkd:\n  weight: 1\n  weight: 0\n"):
        (tmp_path / "twice.yaml").write_text(text)
        with pytest.raises(InputError, match="given twice"):
            read_study(tmp_path / "twice.yaml")


def test_files_that_are_no_study(tmp_path: Path) -> None:
    for name, text, says in [
        ("torn.yaml", "a: [1, 2", "torn.yaml:"),
        ("list.yaml", "- a", "mapping"),
        ("twice.yaml", "name: a\nname: b", "twice"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=says):
            read_study(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        read_study(tmp_path / "missing.yaml")


def test_numbers_are_read_as_yaml_1_2_writes_them() -> None:
    assert parse_override("train.lr=6.25e-5") == ("train.lr", 6.25e-5)
    assert parse_override("train.lr=1e-3") == ("train.lr", 1e-3)
    assert parse_override("methods=[lamol, l2kd]") == ("methods", ["lamol", "l2kd"])
    with pytest.raises(InputError, match="key=value"):
        parse_override("kd.temperature")


@given(st.floats(0.1, 10), st.floats(0, 1), st.integers(1, 50))
def test_a_study_survives_its_own_file(temperature: float, weight: float, k: int) -> None:
    study = parse_study(
        TINY, {"kd.temperature": temperature, "kd.weight": weight, "replay.top_k": k}
    )
    assert parse_study(yaml.safe_load(yaml.safe_dump(study.to_data()))) == study


def test_settings_are_put_in_place_and_nothing_else_changes() -> None:
    settings: Any = parse_study({**TINY, "methods": ["ewc"]}).settings
    changed = settings.with_values({"kd.temperature": 7, "ewc.strength": 3, "kd.decode.beams": 5})
    assert (changed.family.kd.temperature, changed.family.kd.decode.beams) == (7, 5)
    assert changed.options["ewc"].strength == 3
    assert changed.family.model_copy(update={"kd": settings.family.kd}) == settings.family
    assert {**changed.options, "ewc": settings.options["ewc"]} == settings.options
    for key in ("name", "name.first", "kd", "student.model"):
        with pytest.raises(KeyError):
            settings.with_values({key: "other"})


def test_a_value_is_put_beside_what_was_set() -> None:
    """Of the sections on its way all else stays as it was, and stays unset where it was."""
    kd = {"objective": "seq", "decode": {"strategy": "beam"}}
    before = parse_study({**TINY, "kd": kd}).settings
    after = before.with_values({"kd.decode.beams": 8})
    sections: Any = after.family
    assert (sections.kd.objective, sections.kd.decode.strategy) == ("seq", "beam")
    assert sections.kd.decode.beams == 8
    added = {key for key, *_ in after.keys_set()} - {key for key, *_ in before.keys_set()}
    assert added == {"kd.decode.beams"}


@pytest.mark.parametrize("student", [{"arch": "gpt2", "model": "gpt2"}, {"revision": "main"}])
def test_a_model_is_pretrained_or_from_scratch(student: dict[str, Any]) -> None:
    assert "exactly one of" in str(refusal({}, student=student))


def test_a_key_belongs_to_one_section_of_a_study_file() -> None:
    """A family's sections, its methods' options and the frame share one name space."""
    for family in FAMILIES.values():
        assert not {*family.settings.model_fields} & {*family.options}
        assert not {*family.settings.model_fields, *family.options} & {*StudyConfig.model_fields}


def test_what_a_hub_id_stood_for_once_it_stands_for_again() -> None:
    news = {"name": "news", "hub": "org/news"}
    study = parse_study({**TINY, "student": {"model": "gpt2"}, "tasks": [news, "gen.rest"]})
    pinned = Revisions({"gpt2": "abc"}, {("news", "org/news"): "def"}).pin(study)
    assert pinned.settings.family.student.revision == "abc"
    assert [task.revision for task in pinned.tasks] == ["def", None]
    text = yaml.safe_dump(pinned.to_data())
    assert Revisions.of(parse_study(yaml.safe_load(text))).pin(study) == pinned
    assert Revisions({"gpt2": "new"}, {("news", "org/news"): "new"}).pin(pinned) == pinned


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ({"name": "news", "hub": "org/other"}, {}),
        ({"name": "news", "train": "a.csv", "test": "b.csv"}, {}),
        ("news", {"data_dir": "data"}),
    ],
)
def test_data_from_elsewhere_have_no_commit_of_a_former_dataset(task: Any, more: Any) -> None:
    """A commit that the study does not name would be of no such dataset, or without effect."""
    former = Revisions({}, {("news", "org/news"): "abc", ("news", ""): "def"})
    study = parse_study({**TINY, "tasks": [task, "gen.rest"], **more})
    assert [one.revision for one in former.pin(study).tasks] == [None, None]


def test_a_task_held_out_keeps_its_commit() -> None:
    kept = {"tasks": [{"name": "news", "hub": "org/news"}, "sst"]}
    study = parse_study({**TINY, "retention": kept})
    pinned = Revisions({}, {("news", "org/news"): "abc", ("sst", ""): "def"}).pin(study)
    assert pinned.retention is not None
    assert [task.revision for task in pinned.retention.tasks] == ["abc", "def"]
    assert Revisions.of(pinned).pin(study) == pinned


def test_aliases_on_the_command_line_change_nothing_beside_them() -> None:
    data = {**TINY, "kd": {"weight": 0.5}, "search": {"kd.temperature": {"grid": [1, 2]}}}
    study = parse_study(data, {"temperature_kd": 4, "learning_rate": 0.01})
    sections: Any = study.settings.family
    assert (sections.kd.temperature, sections.kd.weight) == (4, 0.5)
    assert (sections.train.lr, sections.train.batch_size) == (0.01, TINY["train"]["batch_size"])
    assert not study.search
