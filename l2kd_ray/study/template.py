"""A commented study file to begin with, for the data files of a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from textwrap import indent

from l2kd_ray.errors import InputError
from l2kd_ray.study import yaml12

_DATA = re.compile(
    r"(?P<task>\w[\w-]*)[._-](?P<split>train|dev|valid|validation|test)\.(jsonl|csv|tsv)"
)
_STAND_IN = ("gen.rest", "gen.hotel", "gen.tv")
"""Generated tasks, for a folder without data."""


def new_study(folder: Path) -> Path:
    """Write `study.yaml` into a folder, with a task for each pair of files in it such as
    `faq.train.jsonl` and `faq.test.jsonl`; returns its path.

    Raises: InputError if there is one already.
    """
    path = folder / "study.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    found = _tasks(folder)
    if found:
        lines = [indent(yaml12.dump(found), "  ").rstrip()]
    else:
        lines = [
            "  # - {name: faq, train: faq.train.jsonl, test: faq.test.jsonl, metric: em}",
            *(f"  - {name}   # generated, to try the study with" for name in _STAND_IN),
        ]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-") or "study"
    template = files("l2kd_ray.study").joinpath("template.yaml").read_text(encoding="utf-8")
    text = Template(template).substitute(name=name, file=path.name, tasks="\n".join(lines))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            "there is a study already", where=str(path), fix="name another folder: l2kd init DIR"
        ) from None
    return path


def _tasks(folder: Path) -> list[Mapping[str, str]]:
    """The tasks whose training and test files lie in the folder."""
    splits: dict[str, dict[str, str]] = {}
    for file in sorted(folder.iterdir()):
        if found := _DATA.fullmatch(file.name):
            split = "dev" if found["split"].startswith("valid") else found["split"]
            splits.setdefault(found["task"], {}).setdefault(split, file.name)
    return [
        {"name": task, **{split: own[split] for split in ("train", "dev", "test") if split in own}}
        for task, own in splits.items()
        if {"train", "test"} <= own.keys()
    ]
