"""The answers of students to the test examples, after each task of their stream."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from l2kd_ray.families.evaluate import PREDICTIONS, Evaluate
from l2kd_ray.families.examples import EXAMPLES, parse_examples
from l2kd_ray.study.snapshot import Snapshot
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

ANSWER_COLUMNS = (
    *("method", "setting", "order", "seed", "trial", "task", "i", "j", "example"),
    *("input", "reference", "answer", "score"),
)
"""Columns of `answers`: one row for each trial, test example and step of the stream.

`i`: number of tasks learned so far (0: the untrained model); `j`: position of the task in the
order, from 1; `example`: the example's id; `input`: context and question; `reference`: the first
reference; `score`: that of the example by the task's metric, 0 to 100.
"""


def answers(
    snapshot: Snapshot, trials: Iterable[Trial], tasks: Iterable[str] | None = None
) -> pd.DataFrame:
    """The stored answers of some trials (columns: `ANSWER_COLUMNS`), in the sequence of the data.

    `tasks`: only these. An evaluation that is not finished has no rows. Raises: store.Damaged.
    """
    import pandas as pd

    known, kept = snapshot.manifests, None if tasks is None else {*tasks}
    cells = [
        (trial, cell, cell.stage.examples.key)
        for trial in trials
        for step in trial.steps
        for cell in step
        if cell.split == "test"
        and isinstance(cell.stage, Evaluate)
        and (kept is None or cell.task in kept)
        and cell.stage.key in known
        and cell.stage.examples.key in known
    ]
    evaluations = {cell.stage.key: known[cell.stage.key] for _, cell, _ in cells}
    sources = {source: known[source] for _, _, source in cells}
    lines = snapshot.reader.each(evaluations.values(), PREDICTIONS, json_lines)
    examples = snapshot.reader.each(sources.values(), EXAMPLES, parse_examples)
    rows: list[tuple[Any, ...]] = []
    for trial, cell, source in cells:
        names = (*trial.names, trial.id, cell.task, cell.i, cell.j)
        pairs = zip(examples[source], lines[cell.stage.key], strict=True)
        for example, line in pairs:
            asked = "\n".join(part for part in (example.context, example.question) if part)
            answered = (example.answers[0], line["prediction"], float(line["score"]))
            rows.append((*names, example.id, asked, *answered))
    return pd.DataFrame(rows, columns=list(ANSWER_COLUMNS))


def most_forgotten(found: pd.DataFrame, most: int) -> pd.DataFrame:
    """The rows of `answers` on the examples of each task that a trial forgot most, `most` a task;
    the task's first ones where nothing was forgotten, as of the last task of an order."""
    from l2kd_ray.analysis.forgotten import forgotten

    lost = forgotten(found)
    kept: list[tuple[object, str]] = []
    for task, own in found.groupby("task", sort=False):
        names = dict.fromkeys([*lost.loc[lost["task"] == task, "example"], *own["example"]])
        kept += [(task, name) for name in list(names)[:most]]
    place = {example: k for k, example in enumerate(kept)}
    pairs = list(zip(found["task"], found["example"], strict=True))
    shown = found.assign(place=[place.get(pair, -1) for pair in pairs])
    shown = shown[shown["place"] >= 0].sort_values("place", kind="stable", ignore_index=True)
    return shown.drop(columns="place")


def json_lines(file: bytes, most: int | None = None) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, `most` at most."""
    return [json.loads(line) for line in file.split(b"\n")[:most] if line]
