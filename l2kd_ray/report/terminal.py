"""The gap table in the terminal, at the end of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from l2kd_ray.analysis import gap_table
from l2kd_ray.report.blocks import text
from l2kd_ray.report.labels import interval_label, row_labels, task_labels

if TYPE_CHECKING:
    from rich.table import Table


def terminal_table(scores: pd.DataFrame) -> Table:
    """Gap in points by method and task, mean over orders and seeds; the best mean in bold.

    Raises:
        ValueError: `scores` is empty or is not the long form of R.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = gap_table(scores)
    arms = table[~table["reference"]].reset_index(drop=True)
    gaps = [name for name in table.columns if name.startswith("gap/")]
    tasks = [name for name in gaps if name[4:] not in ("abs", "rel", "low", "high", "note")]
    labels = task_labels([name.removeprefix("gap/") for name in tasks])
    shown = Table(
        title="Points below multi-task (lower is better)", title_justify="left", box=SIMPLE_HEAD
    )
    shown.add_column("method")
    for label in (*labels.values(), "mean", "95 % interval", "orders", "seeds"):
        shown.add_column(label, justify="right")
    best = arms["gap/abs"].min()
    for name, (_, row) in zip(row_labels(arms), arms.iterrows(), strict=True):
        shown.add_row(
            name + (" *" if row["selected"] and row["setting"] != "{}" else ""),
            *(text(float(row[task])) for task in tasks),
            text(float(row["gap/abs"])),
            interval_label(row["gap/low"], row["gap/high"]),
            text(int(row["n_orders"])),
            text(int(row["n_seeds"])),
            style="bold" if row["gap/abs"] == best else "",
        )
    if (arms["selected"] & (arms["setting"] != "{}")).any():
        shown.caption = "* selected on dev"
    return shown
