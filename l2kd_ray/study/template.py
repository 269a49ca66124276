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

_SPLITS = "train|dev|valid|validation|test"
_TABLES = "jsonl|csv|tsv"
_TASK = "(?P<task>[A-Za-z0-9][A-Za-z0-9_-]*)"
_DATA = (
    re.compile(rf"{_TASK}[._-](?P<split>{_SPLITS})\.({_TABLES})"),
    re.compile(rf"(?P<split>{_SPLITS})[._-]{_TASK}\.({_TABLES})"),
)
_STAND_IN = ("gen.rest", "gen.hotel", "gen.tv")
"""Generated tasks, for a folder without data."""


def new_study(folder: Path) -> tuple[Path, list[str]]:
    """Write `study.yaml` into a folder, with a task for each pair of files in it such as
    `faq.train.jsonl` and `faq.test.jsonl`; with generated tasks if it holds no tables.

    Returns its path, and the tasks of the folder.

    Raises: InputError if there is a study already, or if the folder has tables and no such pair.
    """
    path = folder / "study.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    found = _tasks(folder)
    tables = [one.name for one in folder.iterdir() if re.search(rf"\.({_TABLES})$", one.name)]
    if tables and not found:
        raise InputError(
            "no two of its tables are the training and the test file of a task",
            where=str(folder),
            got=sorted(tables),
            expected="pairs such as faq.train.csv and faq.test.csv (or _ or - for the dot; also "
            ".tsv and .jsonl)",
            fix="rename them, or name them in a study file: tasks: [{name: faq, train: ..., "
            "test: ...}]",
        )
    if found:
        lines = [indent(yaml12.dump(found), "  ").rstrip()]
    else:
        lines = [
            "  # - {name: faq, train: faq.train.jsonl, test: faq.test.jsonl, metric: em}",
            *(f"  - {name}   # generated, to try the study with" for name in _STAND_IN),
        ]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name)[:80].strip("-_") or "study"
    template = files("l2kd_ray.study").joinpath("template.yaml").read_text(encoding="utf-8")
    replay = "# With a second task:\n# " if len(found) == 1 else ""
    text = Template(template).substitute(
        name=yaml12.dump({"name": name}).strip(),
        file=path.name,
        tasks="\n".join(lines),
        replay=replay,
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            "there is a study already", where=str(path), fix="name another folder: l2kd init DIR"
        ) from None
    return path, [one["name"] for one in found]


def _tasks(folder: Path) -> list[Mapping[str, str]]:
    """The tasks whose training and test files lie in the folder."""
    splits: dict[str, dict[str, str]] = {}
    for file in sorted(folder.iterdir()):
        matches = (pattern.fullmatch(file.name) for pattern in _DATA)
        if found := next(filter(None, matches), None):
            split = "dev" if found["split"].startswith("valid") else found["split"]
            splits.setdefault(found["task"], {}).setdefault(split, file.name)
    return [
        {"name": task, **{split: own[split] for split in ("train", "dev", "test") if split in own}}
        for task, own in splits.items()
        if {"train", "test"} <= own.keys()
    ]
