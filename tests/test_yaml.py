"""What stands in a YAML file is what a study gets; what cannot be read is told with its line."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.studies import TINY, tiny_data
from hypothesis import assume, given
from hypothesis import strategies as st

from l2kd_ray.errors import InputError
from l2kd_ray.study.reading import parse_override, parse_overrides, parse_study, read_study
from l2kd_ray.study.yaml12 import dump, load, read

TEMPLATES = ("{{", "{%", "${")
texts = st.text().filter(lambda text: not any(mark in text for mark in TEMPLATES))
printable = st.text(
    st.characters(min_codepoint=32, max_codepoint=0xD7FF, exclude_categories=["C", "Zl", "Zp"])
)


def refused(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load(text, where="my.yaml")
    return caught.value


def question(study: str) -> str | None:
    """What a text setting of a task holds."""
    return parse_study({**TINY, "tasks": [load(study)]}).tasks[0].question


@given(texts)
def test_a_text_arrives_as_it_was_written(text: str) -> None:
    data = {"name": "a", "question": text, "labels": [text]}
    assert load(dump(data)) == data
    assert question(dump({"name": "a", "question": text})) == text


@given(printable)
def test_a_quoted_text_is_a_text_whatever_it_looks_like(text: str) -> None:
    assume(not any(mark in text for mark in TEMPLATES))
    quoted = "'" + text.replace("'", "''") + "'"
    assert question(f"{{name: a, question: {quoted}}}") == text
    assert parse_override(f"name={quoted}") == ("name", text)


@pytest.mark.parametrize(
    "text",
    [
        *("no", "yes", "on", "off", "y", "N", "2024-01-01", "12:30", "1:30:00", "1_000", "0b1"),
        *("='", "10%", "2024-01-01T10:00:00", "=", "1.0.0", "None", "nan", "inf", "1e", "e5"),
    ],
)
def test_only_yaml_1_1_reads_it_as_anything_but_a_text(text: str) -> None:
    assert load(text) == text
    assert load(f"{text}: {text}") == {text: text}


@given(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
def test_a_number_has_the_value_of_yaml_1_2(whole: int, real: float) -> None:
    assume(str(whole) != "-0")
    assert parse_override(f"x={whole}") == ("x", whole)
    for form in ("{!r}", "{:.17e}", "{:.17E}"):
        text = form.format(real).replace("inf", ".inf").replace("INF", ".inf")
        found = load(text)
        assert isinstance(found, float)
        assert math.isclose(found, real) or found == real


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1.", 1.0), (".5", 0.5), ("-.5", -0.5), ("0", 0), ("0.5", 0.5), ("1E3", 1e3)],
)
def test_forms_of_numbers(text: str, value: float) -> None:
    assert load(text) == value
    assert type(load(text)) is type(value)


@pytest.mark.parametrize("text", ["010", "007", "+1", "0x1F", "0o17", "00.5", "01e5", "-01", "-0"])
def test_a_number_of_several_meanings_is_refused(text: str) -> None:
    """As a text it would lose a digit or a sign; readers of YAML disagree on the value."""
    error = refused(f"name: a\nseeds: [{text}]")
    assert (error.where, "quote it" in error.fix) == ("my.yaml:2", True)
    assert load(f"'{text}'") == text
    assert load(dump([text])) == [text]


@given(st.one_of(texts, st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1)))
def test_what_is_written_means_the_same_to_readers_of_yaml_1_1(value: Any) -> None:
    assert load(dump([value])) == [value]
    assert yaml.safe_load(dump([value])) == [value]


FAULTS: dict[str, tuple[str, int, str]] = {
    "jinja": ("name: a\nstorage: {{ storage_dir }}", 2, "template"),
    "jinja in quotes": ("name: a\nstorage: '{{ storage_dir }}'", 2, "template"),
    "jinja block": ("{% if x %}\nname: a", 1, "template"),
    "omegaconf": ("name: a\ndata_dir: ${oc.env:DATA}", 2, "template"),
    "tab": ("kd:\n\tweight: 1", 2, "tab"),
    "tag": ("name: !env NAME", 1, "tag"),
    "python": ("name: !!python/name:os.system", 1, "tag"),
    "binary": ("name: !!binary aGFsbG8=", 1, "tag"),
    "no anchor": ("name: *nothing", 1, "undefined alias"),
    "key of a number": ("name: a\nlabels: {1: x}", 2, "a key is a text"),
    "key of null": ("~: a", 1, "a key is a text"),
    "key of a list": ("[a, b]: c", 1, "a key is a text"),
    "two documents": ("name: a\n---\nname: b", 2, "single document"),
    "key twice": ("name: a\nkd:\n  weight: 1\n  weight: 2", 4, "given twice"),
    "key twice, deep": ("tasks:\n- {name: a, columns: {text: x, text: y}}", 2, "given twice"),
    "no end": ("a: [1, 2", 1, "not valid YAML"),
    "line break of YAML 1.1": ("name: a\ntasks: ['a \u2028 b']", 2, "not allowed"),
    "control character": ("name: a\nkd: \x07", 2, "not allowed"),
    "inside itself": ("a: &a [*a]", 1, "alias"),
    "many digits": ("a: " + "9" * 100_000, 1, "64 bits"),
    "many lists": ("a: " + "[" * 3_000, 1, "inside each other"),
    "many values": ("a: [" + "1," * 200_000 + "]", 1, "more than 10,000 values"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_its_line_and_soon(name: str) -> None:
    text, line, says = FAULTS[name]
    started = time.process_time()
    error = refused(text)
    assert time.process_time() - started < 4
    assert says in error.problem, error
    assert f"my.yaml:{line}" == error.where
    assert len(str(error)) < 800


def test_aliases_are_counted_where_they_stand() -> None:
    levels = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 9)]
    for kind in ("a0: &a0 [1, 2]", "a0: &a0 {b: 1}"):
        error = refused("\n".join([kind, *levels]))
        assert "more than 10,000 values" in error.problem
    merges = [f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 9)}]}}" for k in range(1, 9)]
    assert "10,000" in refused("\n".join(["a0: &a0 {b: 1}", *merges])).problem


def test_merge_keys_are_read_and_do_not_hide_a_key_given_twice() -> None:
    base = "- &t {name: a, max_train: 10}\n"
    assert load(base + "- {<<: *t, name: b}") == [
        {"name": "a", "max_train": 10},
        {"name": "b", "max_train": 10},
    ]
    chain = base + "- &u {<<: *t, name: b}\n- {<<: *u, max_train: 2}"
    assert load(chain)[2] == {"name": "b", "max_train": 2}
    assert "given twice" in refused(base + "- {<<: *t, name: b, name: c}").problem


def test_files_in_other_encodings(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: a\n")  # a byte order mark
    assert read(file) == {"name": "a"}
    for text, encoding, line in [("a: 1\nname: é", "latin-1", 2), ("name: a", "utf-16", 1)]:
        file.write_bytes(text.encode(encoding))
        with pytest.raises(InputError, match=f"study.yaml:{line}: the file is not UTF-8"):
            read(file)
    file.write_bytes(b"#" * (1 << 21))
    with pytest.raises(InputError, match="too large"):
        read(file)
    with pytest.raises(InputError, match="directory"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("setting", "key", "quoted"),
    [
        ("tasks: [gen.rest, 1e3]", "tasks.1", "'1000.0'"),
        ("tasks: [null, gen.rest]", "tasks.0", "'null'"),
        ("tasks: [true, gen.rest]", "tasks", "'true'"),
        ("tasks: [{name: 1.5}]", "tasks.0.name", "'1.5'"),
        ("name: 2024", "name", "'2024'"),
        ("name: true", "name", "'true'"),
        ("methods: [3]", "methods.0", "'3'"),
        ("student: 7", "student", "'7'"),
        ("orders: [[1, 2]]", "orders.0.0", "'1'"),
        ("tasks: [{name: a, labels: [0.5, 1.5]}]", "tasks.0.labels.0", "'0.5'"),
        ("tasks: [{name: a, labels: [true, false]}]", "tasks.0.labels", "'true'"),
        ("tasks: [{name: a, labels: [~, b]}]", "tasks.0.labels.0", "'null'"),
        ("scale: {labels: {zone: 1}}", "scale.labels.zone", "'1'"),
    ],
)
def test_a_name_that_yaml_reads_as_something_else_is_to_be_quoted(
    setting: str, key: str, quoted: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_study({**TINY, **load(setting)}, where="my.yaml")
    assert (caught.value.key, quoted in caught.value.fix) == (key, True), caught.value


def test_labels_may_be_whole_numbers_and_names_may_look_like_booleans() -> None:
    tasks = load("[{name: no, labels: [0, 1]}, {name: on, labels: [no, yes]}]")
    study = parse_study({**TINY, "tasks": tasks, "orders": ["no > on"]})
    assert [task.labels for task in study.tasks] == [("0", "1"), ("no", "yes")]
    assert study.orders == (("no", "on"),)


@pytest.mark.parametrize(("text", "value"), [("no", False), ("off", False), ("yes", True)])
def test_a_switch_may_be_yes_or_no_where_its_type_is_known(text: str, value: bool) -> None:
    assert parse_study(TINY, parse_overrides([f"share={text}"])).share is value
    with pytest.raises(InputError, match="true or false") as caught:
        parse_study(TINY, parse_overrides([f"student.tie_word_embeddings={text}"]))
    assert caught.value.key == "student.tie_word_embeddings"


def test_blanks_in_orders_and_overrides_do_not_matter() -> None:
    for word in ("orders=[gen.intent > gen.rest]", " orders = ['gen.intent> gen.rest'] "):
        changes = parse_overrides([word])
        assert parse_study(TINY, changes).orders == (("gen.intent", "gen.rest"),)
    for words in (["seeds=1", "seeds=2"], ["kd.temperature=1", "temperature_kd=2"]):
        with pytest.raises(InputError, match="given twice"):
            parse_overrides(words)


@pytest.mark.parametrize(
    ("changes", "key", "number"),
    [
        ({"tasks": [f"t{k}" for k in range(10)]}, "orders", "3,628,800"),
        ({"tasks": [f"t{k}" for k in range(2000)]}, "orders", "e+5735"),
        (
            {"tasks": [f"t{k}" for k in range(12)], "orders": {"random": 10**7}},
            "orders",
            "10,000,000",
        ),
        ({"search": {"train.lr": {"grid": [0.1] * 200_000}}}, "search", "600,000 settings"),
        (
            {
                "search": {"train.lr": {"uniform": [0.1, 0.2]}},
                "tune": {"num_samples": 1e9},
            },
            "tune.num_samples",
            "3,000,000,000 settings",
        ),
        ({"seeds": list(range(60_000))}, "seeds", "60,000"),
        ({"seeds": {"train": list(range(400)), "replay": list(range(400))}}, "seeds", "160,000"),
    ],
)
def test_more_trials_than_can_be_planned_are_refused_before_they_are_made(
    changes: dict[str, Any], key: str, number: str
) -> None:
    started = time.process_time()
    with pytest.raises(InputError, match="more trials than can be planned") as caught:
        parse_study({**TINY, **changes})
    assert time.process_time() - started < 4
    assert caught.value.key == key
    assert number in str(caught.value.got)


def test_each_method_counts_with_its_own_grid() -> None:
    """Of fourteen methods one is searched: 3,600 + 13 settings, and not 14 times 3,600."""
    others = ["finetune", "lamol", "ewc", "mas", "gem", "agem", "replay", "ssr", "merge", "der++"]
    grid = {"grid": [k / 100 for k in range(60)]}
    study = parse_study(
        tiny_data(
            methods=["lwf", *others, "lamol-real", "osf", "seq-lora"],
            search={"lwf.weight": grid, "lwf.temperature": {"grid": list(range(1, 61))}},
            seeds=[1],
        )
    )
    assert [len(study.searched_by(arm)) for arm in study.arms] == [2] + [0] * 13


def test_methods_without_an_order_may_have_many_tasks() -> None:
    tasks = [{"name": f"t{k}", "hub": "a/b"} for k in range(12)]
    data = {"name": "mkd", "methods": ["mkd"], "student": {"arch": "bilstm"}, "tasks": tasks}
    assert len(parse_study(data).tasks) == 12


def test_a_model_may_be_named_by_a_text() -> None:
    for overrides in ({"student": "stories15M"}, {"student.model": "stories15M"}):
        study = parse_study(tiny_data(tokenizer=None), overrides)  # TINY has an arch
        assert study.settings.family.student.model == "stories15M"
        assert study.settings.family.student.arch is None
    named = tiny_data(tokenizer=None, student="gpt2")
    spec = parse_study(named, {"student.revision": "abc"}).settings.family.student
    assert (spec.model, spec.revision) == ("gpt2", "abc")
    spec = parse_study(
        named, {"student.arch": "gpt2", "student.n_layer": 1}
    ).settings.family.student
    assert (spec.model, spec.arch, spec.overrides) == (None, "gpt2", {"n_layer": 1})
    for student in ("gpt2", {"arch": "gpt2"}):  # in one file, none of both is the later one
        with pytest.raises(InputError, match="given twice"):
            parse_study({**tiny_data(tokenizer=None, student=student), "model_name": "other"})
