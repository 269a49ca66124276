"""A report as files: the page, its Markdown, its figures and its tables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from l2kd_ray.analysis import Design, Halves, Instance
from l2kd_ray.analysis.findings import Findings, find
from l2kd_ray.errors import InputError
from l2kd_ray.report import style
from l2kd_ray.report.content import document
from l2kd_ray.report.markdown import markdown
from l2kd_ray.report.page import html


def write_report(
    folder: str | Path,
    scores: pd.DataFrame,
    *,
    study: Mapping[str, Any],
    planned: Mapping[str, int] | None = None,
    failures: Sequence[Mapping[str, Any]] = (),
    costs: pd.DataFrame | None = None,
    work: pd.DataFrame | None = None,
    command: str = "",
    order: str | None = None,
    design: Design | None = None,
    failed: Collection[Instance] = (),
    stopping: bool = False,
    replay: pd.DataFrame | None = None,
    samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    over_examples: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
    split: Halves | None = None,
) -> list[Path]:
    """Write report.html, report.md, figures/ and tables/ below `folder`, whatever is there so far.

    Each file appears whole or not at all, and the same input gives the same pages.

    Args:
        folder: made where it is missing.
        scores: the long form of R, finished or half-way (`scores.parquet`).
        study: the resolved study file.
        planned: how far the study is: trials, trials_done, stages, stages_done; all optional.
        failures: of failed stages: key, kind, error, traceback.
        costs: a row a kind of stage: kind, stages, seconds, and `unshared` where it is known: the
            stages that the trials would take, each by itself.
        work: a row a method and setting: method, setting, steps, tokens, seconds of a trial alone.
        command: what to type to have this study again.
        order: draw the score matrices of this order ("a>b>c") and not the mean by place.
        design: what the study set out to run; without it intervals speak for what has run.
        failed: trials that will never finish.
        stopping: whether a stop rule could end, or has ended, the study before its last order.
        replay: a row a replay stage and trial: method, setting, order, seed, i (how many tasks its
            writer had learned), written, kept, and in per cent any of valid, ended, duplicates,
            task_match, copies, distinct_1, distinct_2.
        samples: by method, lines of samples.jsonl: task, question and answer (or text), faults.
        over_examples: the bootstrap over test examples: method, setting, low, high.
        notes: what a reader must know first, such as a stop rule's words; **strong** is marked.
        split: where settings were selected on one half: both halves, the other one is the design.

    Returns:
        The files written, report.html first.

    Raises:
        InputError: there is no score and no failure to report, or no trial of `order`.
        ValueError: `scores` is not the long form of R.
    """
    folder = Path(folder)
    if scores.empty and not failures:
        raise InputError(
            "no scores yet, so there is nothing to report",
            where=str(study.get("name") or folder),
            expected="at least one finished evaluation",
            fix="run `l2kd sweep` with this study first",
        )
    if order is not None and (scores.empty or order not in set(scores["order"])):
        raise InputError(
            "no trial has this order", key="order", got=order, expected="tasks as a>b>c"
        )
    found = None
    if len(scores):
        searched = list(study.get("search") or {})
        found = find(scores, searched, design, failed, stopping=stopping, split=split)
    report = document(
        found,
        study=study,
        planned=planned,
        failures=failures,
        costs=costs,
        work=work,
        command=command,
        order=order,
        replay=replay,
        samples=samples,
        over_examples=over_examples,
        notes=notes,
    )
    pictures = report.pictures()
    drawings = {picture.name: style.svg(picture.figure, picture.name) for picture in pictures}
    files = {
        "report.html": html(report, drawings).encode(errors="replace"),
        "report.md": markdown(report).encode(errors="replace"),
    }
    for picture in pictures:
        files[f"figures/{picture.name}.png"] = style.png(picture.figure)
        files[f"figures/{picture.name}.svg"] = drawings[picture.name]
    tables = {} if found is None else _tables(found)
    given = {"costs": costs, "work": work, "replay": replay}
    tables |= {name: frame for name, frame in given.items() if frame is not None}
    for name, frame in tables.items():
        files[f"tables/{name}.csv"] = frame.to_csv(index=False).encode()
    return [_write(folder / name, content) for name, content in files.items()]


def _tables(found: Findings) -> dict[str, pd.DataFrame]:
    """The frames of `analysis` behind the page, those of nothing left out."""
    tables = {
        "gap": found.gap,
        "results": found.results,
        "orders": found.orders,
        "trace": found.trace,
        "comparisons": found.comparisons,
        "by_order": found.by_order,
        "variance": found.variance,
        "precedence": found.precedence,
        "effects": found.effects,
        "extremes": found.extremes,
        "places": found.places,
    }
    return {name: frame for name, frame in tables.items() if len(frame)}


def _write(path: Path, content: bytes) -> Path:
    """Write beside the place, then rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's own mode hides the file from everyone else
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
