"""The gap table in the terminal, at the end of a sweep."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import pandas as pd

from l2kd_ray.analysis import Design, Instance, compare, results
from l2kd_ray.analysis.design import without_score
from l2kd_ray.analysis.trials import tasks_of
from l2kd_ray.names import NO_SETTING
from l2kd_ray.report import blocks
from l2kd_ray.report.blocks import text
from l2kd_ray.report.console import print_table
from l2kd_ray.report.labels import interval_label, level_label, row_labels, task_labels
from l2kd_ray.report.sentences import note_words

if TYPE_CHECKING:
    from rich.table import Table


def rich_table(table: blocks.Table) -> Table:
    """A report's table for the terminal, without its caption."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for name in table.frame:
        shown.add_column(str(name), justify="right" if table.is_number(str(name)) else "left")
    for row in table.rows():
        shown.add_row(*(text(value, table.digits_of(name)) for name, value in row))
    return shown


def print_section(section: blocks.ReportSection) -> None:
    """Print a section's title, tables with their captions, and paragraphs."""
    print(f"{section.title}\n")
    for block in section.blocks:
        if isinstance(block, blocks.Table):
            print_table(rich_table(block))
            print(f"\n{block.caption}")
        elif isinstance(block, blocks.Prose):
            print(block.words.replace("**", ""))
    print()


def terminal_table(
    scores: pd.DataFrame,
    *,
    design: Design | None = None,
    failed: Collection[Instance] = (),
    stopping: bool = False,
) -> Table:
    """A table of gaps in points by method and task; the arguments are those of `compare`.

    Raises:
        ValueError: `scores` is empty or is not the long form of R.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    test, dev = results(scores), results(scores, split="dev")
    table = compare(test, dev, design, {*failed, *without_score(scores)}, stopping=stopping)
    arms = table[~table["reference"]].reset_index(drop=True)
    tasks = tasks_of(scores)
    shown = Table(
        title="Points below multi-task (lower is better)",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    names = row_labels(arms)
    shown.add_column("method")
    for label in (*task_labels(tasks).values(), "mean", "interval", "orders", "seeds"):
        shown.add_column(label, justify="right")
    for name, (_, row) in zip(names, arms.iterrows(), strict=True):
        shown.add_row(
            name + (" *" if row["selected"] and row["setting"] != NO_SETTING else ""),
            *(text(float(row[f"gap/{task}"])) for task in tasks),
            text(float(row["gap/abs"])),
            interval_label(row["gap/low"], row["gap/high"]),
            text(int(row["n_orders"])) if row["n_orders"] else "—",
            text(int(row["n_seeds"])),
        )
    notes = dict.fromkeys(note_words(note) for note in arms["gap/note"] if note)
    levels = {level_label(note.look) for note in arms["gap/note"][arms["gap/low"].notna()]}
    notes |= dict.fromkeys(f"{level} intervals, each by itself" for level in sorted(levels))
    if (arms["selected"] & (arms["setting"] != NO_SETTING)).any():
        notes["* selected on dev"] = None
    shown.caption = "\n".join(notes) or None
    return shown
