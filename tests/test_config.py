"""What a study may say, and how it is told what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.errors import InputError
from l2kd_ray.families import FAMILIES
from l2kd_ray.study.pins import Revisions
from l2kd_ray.study.reading import ALIASES, parse_override, parse_study, read_study
from l2kd_ray.study.schema import StudyConfig

SHIPPED = sorted((Path(__file__).parent.parent / "tune_configs").glob("*.yaml"))


def refusal(changes: dict[str, Any], **data: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_study({**TINY, **data}, changes, where="my.yaml")
    return caught.value


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


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    error = refusal({"kd.heat": 2})
    assert error.key == "kd.heat"
    assert "temperature" in error.expected


def test_orders_are_orders_of_the_tasks() -> None:
    assert "twice" in str(refusal({}, orders=[["gen.rest", "gen.rest"]]))
    assert "not an order" in str(refusal({}, orders=[["gen.rest"]]))
    assert parse_study({**TINY, "orders": ["gen.intent>gen.rest"]}).orders == (
        ("gen.intent", "gen.rest"),
    )


def test_tasks_arms_and_seeds_are_named_once() -> None:
    assert "twice" in str(refusal({}, tasks=["gen.rest", "gen.rest"]))
    assert "twice" in str(refusal({}, methods=["lamol", "lamol"]))
    assert "twice" in str(refusal({}, seeds=[1, 1]))


def test_a_searched_value_must_be_one_that_the_setting_takes() -> None:
    assert "greater than 0" in str(refusal({}, search={"kd.temperature": {"grid": [1, 0]}}))
    assert "no such setting" in str(refusal({}, search={"seeds": {"grid": [1]}}))
    assert "choice" in str(
        refusal({"tune.searcher": "optuna"}, search={"kd.temperature": {"grid": [1]}})
    )


def test_an_overridden_key_is_searched_no_more() -> None:
    data = {**TINY, "search": {"kd.temperature": {"grid": [1, 2]}, "kd.weight": {"grid": [0, 1]}}}
    study = parse_study(data, {"kd.temperature": 3})
    assert list(study.search) == ["kd.weight"]
    assert study.settings.family.kd.temperature == 3


def test_aliases_are_the_names_of_the_original() -> None:
    found = parse_study({**TINY, "replay": {}, "gen_lm_sample_percentage": 0.05, "lm_lambda": 0.5})
    sections: Any = found.settings.family
    assert (sections.replay.ratio, sections.train.lm_weight) == (0.05, 0.5)
    sections = parse_study(TINY, {"temperature_kd": 3}).settings.family
    assert sections.kd.temperature == 3
    for key in ALIASES.values():
        section, _, name = key.partition(".")
        assert name in type(getattr(sections, section)).model_fields


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


@settings(deadline=None)
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


def test_a_key_belongs_to_one_section_of_a_study_file() -> None:
    """A family's sections, its methods' options and the frame share one name space."""
    for family in FAMILIES.values():
        assert not {*family.settings.model_fields} & {*family.options}
        assert not {*family.settings.model_fields, *family.options} & {*StudyConfig.model_fields}


def test_what_a_hub_id_stood_for_once_it_stands_for_again() -> None:
    news = {"name": "news", "hub": "org/news"}
    study = parse_study({**TINY, "student": {"model": "gpt2"}, "tasks": [news, "gen.rest"]})
    pinned = Revisions({"gpt2": "abc"}, {"news": "def"}).pin(study)
    assert pinned.settings.family.student.revision == "abc"
    assert [task.revision for task in pinned.tasks] == ["def", None]
    text = yaml.safe_dump(pinned.to_data())
    assert Revisions.of(parse_study(yaml.safe_load(text))).pin(study) == pinned
    assert Revisions({"gpt2": "new"}, {"news": "new"}).pin(pinned) == pinned


def test_aliases_on_the_command_line_change_nothing_beside_them() -> None:
    data = {**TINY, "kd": {"weight": 0.5}, "search": {"kd.temperature": {"grid": [1, 2]}}}
    study = parse_study(data, {"temperature_kd": 4, "learning_rate": 0.01})
    sections: Any = study.settings.family
    assert (sections.kd.temperature, sections.kd.weight) == (4, 0.5)
    assert (sections.train.lr, sections.train.batch_size) == (0.01, TINY["train"]["batch_size"])
    assert not study.search
    assert "given twice" in str(refusal({}, kd={"temperature": 3}, temperature_kd=4))


def test_what_would_plan_nothing_or_falsify_a_reference_is_refused() -> None:
    assert "orders" in str(refusal({}, orders=[]))
    assert "at least 1" in str(refusal({}, seeds=[]))
    assert "reference" in str(refusal({}, methods=[{"name": "single", "method": "lamol"}]))
    assert "integer" in str(refusal({}, search={"replay.top_k": {"uniform": [5, 50]}}))
    assert "no such setting" in str(refusal({}, search={"student.model": {"grid": ["a"]}}))
