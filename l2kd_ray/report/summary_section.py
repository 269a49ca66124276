"""The section of other summaries: robust ones, and shares of runs and tasks."""

from __future__ import annotations

import pandas as pd

from l2kd_ray.analysis.findings import Findings
from l2kd_ray.analysis.summaries import PROFILE, summaries
from l2kd_ray.report.blocks import Fold, ReportSection, Table, measured
from l2kd_ray.report.labels import method_label


def summary_section(found: Findings) -> list[ReportSection]:
    """None where no summary has an interval, as with few seeds: the mean gap says as much."""
    rows = summaries(found.scope, found.tasks)
    if rows.empty or rows["iqm/low"].isna().all():
        return []
    frame = pd.DataFrame({"Method": rows["method"].map(method_label)})
    frame["Interquartile mean"] = measured(rows, "iqm", "iqm/low", "iqm/high")
    words = ""
    if rows["better"].notna().any():
        frame["Nearer than LAMOL, %"] = measured(rows, "better", "better/low", "better/high", 100)
        words = (
            " Nearer than LAMOL: how likely the gap is below LAMOL's on the same task, order and "
            "seed; 50 % is a draw."
        )
    for most in PROFILE:
        name = f"within/{most:g}"
        frame[f"Within {most:g}, %"] = measured(rows, name, f"{name}/low", f"{name}/high", 100)
    caption = (
        "Over every task, order and seed that the mean gap is over, in points. Interquartile mean: "
        "of the middle half of those gaps, so that one bad seed or order does not move it."
        f"{words} Within: the share of them at most so many points below multi-task. Intervals "
        "over seeds, for these orders; none where all seeds agree."
    )
    shares = [name for name in frame.columns if name.endswith("%")]
    table = Table("summaries", caption, frame, digits=dict.fromkeys(shares, 0))
    return [ReportSection("Other summaries", (Fold("Robust means and shares", (table,)),))]
