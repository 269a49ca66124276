"""A report as files: the page, its Markdown, its figures and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from l2kd_ray.analysis.findings import Findings, find
from l2kd_ray.core.filetree import FileTree, side_by_side
from l2kd_ray.errors import InputError
from l2kd_ray.report import style
from l2kd_ray.report.blocks import Document, Picture
from l2kd_ray.report.content import document
from l2kd_ray.report.inputs import Inputs
from l2kd_ray.report.markdown import markdown
from l2kd_ray.report.page import html

_TABLES = (
    *("gap", "results", "orders", "trace", "comparisons", "by_order"),
    *("gains", "variance", "precedence", "effects", "extremes", "places"),
)
"""The frames of `Findings` that are written as tables."""


def write_report(folder: str | Path, scores: pd.DataFrame, **inputs: Any) -> list[Path]:
    """Write report.html, report.md, figures/ and tables/ below `folder` from the scores so far.

    Each file appears whole or not at all, and the same input gives the same pages.

    Args:
        folder: made where it is missing.
        scores: the long form of R, finished or half-way (`scores.parquet`).
        inputs: the fields of `Inputs`, of which `study` is required.

    Returns:
        The files written, report.html first.

    Raises:
        InputError: there is no score and no failure to report.
        ValueError: `scores` is not the long form of R.
    """
    folder, shown = Path(folder), Inputs(**inputs)
    if scores.empty and not shown.failures:
        raise InputError(
            "no scores yet, so there is nothing to report",
            where=str(shown.study.get("name") or folder),
            expected=f"at least one finished evaluation in {shown.study.get('storage') or folder}",
            fix="run `l2kd sweep` with this study first",
        )
    found, report = _document(scores, shown)
    drawings = {one.name: style.drawn(one.figure, "svg", one.name) for one in report.pictures()}
    files = {
        "report.html": html(report, drawings).encode(errors="replace"),
        "report.md": markdown(report).encode(errors="replace"),
    }
    for picture in report.pictures():
        files[f"figures/{picture.name}.png"] = style.drawn(picture.figure, "png")
        files[f"figures/{picture.name}.svg"] = drawings[picture.name]
    tables = {} if found is None else _tables(found)
    names = ("costs", "work", "spent", "replay", "forgotten", "curves")
    given: dict[str, pd.DataFrame | None] = {name: getattr(shown, name) for name in names}
    tables |= {name: frame for name, frame in given.items() if frame is not None}
    if shown.order_search is not None:
        tables["order_search"] = shown.order_search.orders
    for name, frame in tables.items():
        files[f"tables/{name}.csv"] = frame.to_csv(index=False).encode()
    side_by_side(FileTree(str(folder)).write, files.keys(), files.values())
    return [folder / name for name in files]


def pictures(scores: pd.DataFrame, **inputs: Any) -> list[Picture]:
    """The pictures of a report; the arguments are those of `write_report`."""
    return _document(scores, Inputs(**inputs))[1].pictures()


def _document(scores: pd.DataFrame, shown: Inputs) -> tuple[Findings | None, Document]:
    """The findings in the scores (None without any), and the report of them."""
    found = None
    if len(scores):
        found = find(
            scores,
            list(shown.study.get("search") or {}),
            shown.design,
            shown.failed,
            stopping=shown.stopping,
            split=shown.split,
            published=shown.published,
        )
    return found, document(found, shown)


def _tables(found: Findings) -> dict[str, pd.DataFrame]:
    """The frames behind the page, by file name; empty ones are left out."""
    tables: dict[str, pd.DataFrame] = {name: getattr(found, name) for name in _TABLES}
    return {name: frame for name, frame in tables.items() if len(frame)}
