"""The section on data: what was read, kept and cut of each split, and what weakens a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from l2kd_ray.report.blocks import Block, Prose, ReportSection, Table, folded
from l2kd_ray.report.labels import count
from l2kd_ray.study.data import SplitData

_SHARED = 0.01
"""Share of the inputs of a split that may occur in the training split without a note."""
_MOST_NAMED = 5
"""Largest number of labels that a note names."""


def data_section(data: Sequence[SplitData]) -> list[ReportSection]:
    if not data:
        return []
    notes = (Prose(note) for note in data_notes(data))
    return [ReportSection("Data", (data_table(data), *notes, *_changes(data)))]


def _changes(data: Sequence[SplitData]) -> list[Block]:
    """A table of the rows that were left out and of the values that were converted, if any."""
    rows = [
        (one.task, one.split, kind, what, tally.count, tally.first)
        for one in data
        for kind, tallies in (
            ("left out", one.summary.rows.left_out),
            ("converted", one.summary.rows.converted),
        )
        for what, tally in tallies.items()
    ]
    if not rows:
        return []
    frame = pd.DataFrame(rows, columns=["Task", "Split", "Rows are", "For", "Number", "First at"])
    return [
        folded(
            Table("data_changes", "Rows that are no examples or not as they stand.", frame), "Rows"
        )
    ]


def data_table(data: Sequence[SplitData]) -> Table:
    """One row for each split; columns that hold nothing at all are left out."""
    frame = pd.DataFrame([_row(one) for one in data])
    kept = [name for name in frame if frame[name].fillna(0).astype(bool).any()]
    caption = (
        "Rows read, and examples kept after the dev split is made and caps are applied. Converted: "
        "values not taken as they stand, such as a label by number. Labels: "
        "how many there are, and the percentage of the most frequent one. In train: examples whose "
        "input occurs in the training split, too. Cut: examples that do not fit into the model's "
        "length, and the tokens that they lose; a dash before a stage has counted them."
    )
    return Table("data", caption, frame[kept], digits=dict.fromkeys(kept, 0))


def _row(one: SplitData) -> dict[str, object]:
    summary, labels = one.summary, one.summary.labels
    cut = one.cut or {}
    return {
        "Task": one.task,
        "Split": one.split,
        "Read": summary.rows.rows,
        "Left out": sum(tally.count for tally in summary.rows.left_out.values()),
        "Converted": sum(tally.count for tally in summary.rows.converted.values()),
        "Kept": summary.kept,
        "Labels": len(labels) or None,
        "Most frequent %": 100 * max(labels.values()) / summary.kept if labels else None,
        "Unseen label": summary.unseen,
        "In train": summary.in_train,
        "Repeated": summary.repeated,
        "Not scorable": summary.unscorable,
        "Cut": cut.get("contexts"),
        "Tokens lost": cut.get("context_tokens"),
        "Answers cut": cut.get("answers"),
        "Answer tokens lost": cut.get("answer_tokens"),
        "Too long": cut.get("left_out"),
    }


def rows_line(data: Sequence[SplitData]) -> str:
    """`books 500 / 50 / 200, films 400 / 40 / 100`: the examples kept of each task's splits."""
    kept: dict[str, list[str]] = {}
    for one in data:
        kept.setdefault(one.task, []).append(f"{one.summary.kept:,}")
    return ", ".join(f"{task} {' / '.join(numbers)}" for task, numbers in kept.items())


def data_notes(data: Sequence[SplitData]) -> list[str]:
    """One sentence for each fact that weakens the study, led by its task and split (**strong**)."""
    return [f"**{one.task}, {one.split}:** {words}." for one in data for words in _notes(one)]


def _notes(one: SplitData) -> Iterator[str]:
    summary, kept, cut = one.summary, one.summary.kept, one.cut or {}
    of_all = f"of {count(kept, 'example')}"
    yield from one.remarks
    for why, tally in summary.rows.left_out.items():
        yield f"{count(tally.count, 'row')} left out: {why} (first at {tally.first})"
    if summary.unseen:
        names = ", ".join(summary.unseen_labels[:_MOST_NAMED])
        names += ", ..." if len(summary.unseen_labels) > _MOST_NAMED else ""
        yield f"{summary.unseen:,} {of_all} have a label that the training split lacks ({names})"
    if len(summary.labels) == 1:
        yield f"all examples have one label ({next(iter(summary.labels))})"
    if summary.in_train > _SHARED * kept:
        yield f"{summary.in_train:,} {of_all} have an input that occurs in the training split, too"
    if summary.unscorable and one.split != "train":
        yield f"{summary.unscorable:,} {of_all} have no reference that the metric can compare with"
    if cut.get("contexts"):
        yield (
            f"{cut['contexts']:,} {of_all} are cut to fit into the model's length, and lose "
            f"{count(cut['context_tokens'], 'token')}"
        )
    if cut.get("answers"):
        yield (
            f"{cut['answers']:,} {of_all} have an answer that is too long, by "
            f"{count(cut['answer_tokens'], 'token')} in all"
        )
    if cut.get("left_out"):
        yield f"{cut['left_out']:,} are left out, as they are longer than train.max_length"
