"""The door: what a stage's key has of a plug-in, which names are taken, what is left behind."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from l2kd_ray import door
from l2kd_ray.core.stage import Stage
from l2kd_ray.door import Plugin
from l2kd_ray.errors import InputError
from l2kd_ray.section import Section

SOURCE = """
    from dataclasses import dataclass

    from l2kd_ray.core.stage import Stage
    from l2kd_ray.door import options
    from l2kd_ray.section import Section


    class Options(Section):
        share: float = 0.5


    @options(Options)
    def skew(student, teacher, temperature, options):
        return options.share


    def forward(student, teacher, temperature):
        return student


    @dataclass(frozen=True, eq=False)
    class Own(Stage):
        kind = "own"
"""
KNOWN = {"forward": None}


@dataclass(frozen=True, eq=False)
class Uses(Stage):
    kind = "uses"
    plugin: Plugin


class Chosen(Section):
    share: float = 0.25


def write(folder: Path, text: str = SOURCE) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(textwrap.dedent(text))
    return f"{folder / 'mine.py'}"


def key(file: str, options: Section | None = None) -> str:
    """The key of a stage that uses the file's function."""
    found = {f"{file}:skew": door.find("divergences", f"{file}:skew", KNOWN)[1]}
    sections = {"skew": options} if options is not None else {}
    held = door.held("divergences", f"{file}:skew", KNOWN, sections, found)
    assert isinstance(held, Plugin)
    return Uses(held).key


def test_source_and_options_are_in_the_key_and_the_place_is_not(tmp_path: Path) -> None:
    first = key(write(tmp_path / "here"))
    assert key(write(tmp_path / "there")) == first
    assert key(write(tmp_path / "here", SOURCE + "\n    # changed")) != first
    chosen = [key(write(tmp_path / "here"), Chosen(share=share)) for share in (0.25, 0.75)]
    assert len({first, *chosen}) == 3


def test_a_stage_from_outside_has_its_source_in_its_key(tmp_path: Path) -> None:
    keys = []
    for more in ("", "\n    # changed"):
        own, plugin = door.find("methods", f"{write(tmp_path, SOURCE + more)}:Own", {})
        assert own.source_code == plugin.code
        keys.append(own().key)
    assert keys[0] != keys[1]
    assert Stage.source_code is None  # what a plug-in imports is not its own


def test_the_options_arrive(tmp_path: Path) -> None:
    file = write(tmp_path)
    held = door.held("divergences", f"{file}:skew", KNOWN, {"skew": Chosen()}, {})
    assert isinstance(held, Plugin)
    assert held.load()(None, None, 1.0) == 0.25
    assert door.find("divergences", f"{file}:skew", KNOWN)[1].load()(None, None, 1.0) == 0.5


def test_the_name_of_what_is_built_in_is_taken(tmp_path: Path) -> None:
    name = f"{write(tmp_path)}:forward"
    with pytest.raises(InputError, match="forward is built in"):
        door.find("divergences", name, KNOWN)
    free = {name: door.find("divergences", name, {})[1]}  # found where nobody knew the name
    with pytest.raises(InputError, match="forward is built in"):
        door.held("divergences", name, KNOWN, {}, free)
    assert door.held("divergences", "forward", KNOWN, {}, {}) == "forward"


def test_nothing_is_left_behind_of_what_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words the second time, and no other folder to look for modules in."""
    paths = [*sys.path]
    broken = "def skew(): ...\nraise OSError('no file')"
    name = f"{write(tmp_path, broken)}:skew"
    for _ in range(2):
        with pytest.raises(InputError, match=r"cannot be imported.*no file"):
            door.find("divergences", name, KNOWN)
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    assert door.find("divergences", "mine:skew", KNOWN)[1].name == "skew"
    assert sys.path == paths
