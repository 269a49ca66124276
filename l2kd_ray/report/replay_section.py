"""The section on replay: the quality of the samples that a student generates of former tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from l2kd_ray.report.blocks import Block, Fold, ReportSection, Table, folded
from l2kd_ray.report.labels import arm_labels, method_label

_SHARES = {
    "valid": "Valid",
    "ended": "Ended",
    "duplicates": "Duplicates",
    "task_match": "Match",
    "copies": "Copies",
    "distinct_1": "Distinct 1",
    "distinct_2": "Distinct 2",
}
_BY = ["method", "setting", "i"]
_MOST_SHOWN = 8
"""Samples of a method on the page."""
_LONGEST = 400
"""Characters of a sample on the page."""


def replay_section(
    replay: pd.DataFrame | None, samples: Mapping[str, Sequence[Mapping[str, Any]]] | None
) -> list[ReportSection]:
    blocks: list[Block] = []
    if replay is not None and len(replay):
        blocks.append(folded(_table(replay), "The numbers"))
    written = {method: some for method, some in (samples or {}).items() if some}
    blocks += [_fold(k, *one) for k, one in enumerate(written.items())]
    return [ReportSection("Replay quality", tuple(blocks))] if blocks else []


def _table(replay: pd.DataFrame) -> Table:
    replay = replay.reindex(columns=[*_BY, "written", "kept", *_SHARES])
    shares = [name for name in _SHARES if replay[name].notna().any()]
    groups = replay.groupby(_BY, sort=True)
    rows = groups[["written", "kept", *shares]].mean().reset_index()
    names = arm_labels(rows)
    arms = zip(rows["method"], rows["setting"], strict=True)
    frame = pd.DataFrame({"Method": [names[arm] for arm in arms]})
    frame["After task"] = rows["i"].astype(int)
    frame["Trials"] = groups.size().to_numpy()
    frame["Samples"] = rows["written"].fillna(rows["kept"]).astype(float)
    if rows["written"].notna().any():
        frame["Kept"] = 100 * rows["kept"].astype(float) / rows["written"].astype(float)
    for name in shares:
        frame[_SHARES[name]] = rows[name].astype(float)
    caption = (
        "Samples that students generate of their former tasks, mean over orders and seeds, by how "
        "many tasks they have learned; from Kept on in per cent. Of what was written: valid (one "
        "answer token), ended, duplicates. Of what was kept: its words fit the task that it names "
        "(match), it is a copy of a training example, its distinct words and pairs of words. A "
        "dash: real examples."
    )
    return Table("replay", caption, frame, digits=dict.fromkeys(map(str, frame), 0))


def _fold(number: int, method: str, samples: Sequence[Mapping[str, Any]]) -> Fold:
    shown = list(samples)[:_MOST_SHOWN]
    frame = pd.DataFrame(
        {
            "Task": [words(sample.get("task")) for sample in shown],
            "Question": [words(sample.get("question", sample.get("text"))) for sample in shown],
            "Answer": [words(sample.get("answer")) for sample in shown],
            "Dropped for": [_faults(sample.get("faults")) for sample in shown],
        },
        dtype=object,
    )
    name = method_label(method)
    caption = f"Samples that {name} wrote, as they are; those dropped are not learned from."
    wrapped = frozenset(["Question", "Answer"])
    table = Table(f"samples_{number}", caption, frame, wrapped=wrapped)
    return Fold(f"Samples of {name}", (table,))


def _faults(faults: Sequence[str] | str | None) -> str:
    return faults if isinstance(faults, str) else ", ".join(faults or ())


def words(value: object) -> str:
    """One line of printable text, cut short where it is long."""
    words = " ".join(str(value or "").split())
    words = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)
    if len(words) > _LONGEST:
        words = words[: _LONGEST - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return words
