"""Sections: what they refuse, which of their keys are set, and which are noted as read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ConfigDict, ValidationError

from l2kd_ray.errors import InputError
from l2kd_ray.section import FilePath, Location, Section, expanded, reading


class Inner(Section):
    depth: int = 1
    width: int = 2


class Open(Section):
    """A section with keys of the user's own."""

    model_config = ConfigDict(frozen=True, extra="allow")
    arch: str = "gpt2"


class Outer(Section):
    rate: float = 0.1
    sizes: tuple[int, ...] | None = None
    flag: bool = False
    weight: Literal["natural"] | float = "natural"
    anything: Any = None
    inner: Inner = Inner()
    open: Open = Open()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": True},
        {"rate": float("inf")},
        {"rate": float("nan")},
        {"sizes": [1, True]},
        {"weight": True},
        {"weight": float("-inf")},
        {"inner": {"depth": False}},
        {"open": {"n_layer": float("inf")}},
        {"open": {"n_layer": float("nan")}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_is_no_number_or_no_key_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Outer.model_validate(wrong)


def test_true_and_false_are_taken_where_they_are_meant() -> None:
    taken = Outer.model_validate({"flag": True, "anything": False, "open": {"tie": True}})
    assert taken.flag is True
    assert taken.anything is False
    assert taken.open.model_extra == {"tie": True}


def test_the_keys_that_are_set_are_those_of_the_file() -> None:
    data = {"rate": 0.2, "inner": {"width": 2}, "open": {"n_layer": 3}}
    section = Outer.model_validate(data)
    found = {key: (owner, field) for key, owner, field in section.keys_set()}
    assert found == {
        "rate": (section, "rate"),
        "inner.width": (section.inner, "width"),  # as its default, but set
        "open.n_layer": (section.open, "n_layer"),
    }


def test_what_is_looked_at_within_is_noted() -> None:
    section = Outer(open=Open.model_validate({"n_layer": 3}))
    assert section.flag is False  # before
    with reading() as reads:
        assert section.rate == 0.1
        assert section.open.model_extra == {"n_layer": 3}
    assert section.inner.depth == 1  # after
    assert reads == {
        (id(section), "rate"),
        (id(section), "open"),
        (id(section.open), "n_layer"),
    }


def test_an_outer_reading_has_what_an_inner_one_has() -> None:
    section = Inner()
    with reading() as outer:
        with reading() as inner:
            assert section.depth == 1
        assert section.width == 2
    assert inner == {(id(section), "depth")}
    assert outer == {(id(section), "depth"), (id(section), "width")}


# Paths and URLs


def test_a_path_is_meant_as_a_shell_means_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/big disk")
    for text, meant in {
        "~/data": "/home/me/data",
        "$SCRATCH/l2kd": "/big disk/l2kd",
        "${SCRATCH}x/l2kd": "/big diskx/l2kd",
        "$HOME$SCRATCH": "/home/me/big disk",
        "file:///a/b%20c": "/a/b c",
        "s3://bucket/$HOME": "s3://bucket//home/me",
        "./s3:/a": "./s3:/a",
        "cost$/a": "cost$/a",
        "org/model": "org/model",
    }.items():
        assert expanded(text) == meant
        assert expanded(meant) == meant


@pytest.mark.parametrize(
    "text",
    [
        *("$NOT_SET/x", "${NOT_SET}", "$EMPTY/l2kd", "~nobody-of-this-name/x"),
        *("s3:/bucket/x", "gs:bucket", "S3:/bucket", "file:/a", "https:/a", "file://a/b"),
        *("", " ", " /a", "/a ", "/a\n", "a\0b"),
    ],
)
def test_a_path_that_would_be_a_folder_of_a_strange_name_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(InputError):
        expanded(text)


class Places(Section):
    file: FilePath | None = None
    place: Location | None = None
    words: tuple[str, ...] = ()


def test_variables_are_put_in_place_in_paths_and_refused_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch")
    places = Places(file="$SCRATCH/a", place="${SCRATCH}/b", words=("$5",))  # type: ignore[arg-type]
    assert (places.file, places.place) == (Path("/scratch/a"), "/scratch/b")
    for wrong in ({"words": ["${SCRATCH}"]}, {"file": "s3://bucket/a"}, {"place": "$NOT_SET"}):
        with pytest.raises(ValidationError):
            Places.model_validate(wrong)
