"""Draws docs/figures/baselines_tradeoff.png from the evidence beside this file.

    python docs/evidence/tradeoff.py

A column a study: what a student scores on a task just learned, against what it keeps of the
stream's earlier tasks (above) and of a task from before the stream (below).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from tables import findings

from l2kd_ray.analysis.retention import retained
from l2kd_ray.analysis.tradeoff import tradeoff
from l2kd_ray.report.labels import method_label, task_labels
from l2kd_ray.report.style import INK, PAPER, RC, looks

HERE = Path(__file__).parent
STUDIES = ("baselines", "baselines_mixed")
BEFORE = "gen.rest"


def draw(studies: tuple[str, ...]) -> Figure:
    figure = Figure(figsize=(4.6 * len(studies), 7.6), layout="constrained")
    grid = figure.subplots(2, len(studies), sharex="col", squeeze=False)
    look = looks(sorted({arm.method for name in studies for arm in findings(name).trials}))
    for column, name in enumerate(studies):
        found = findings(name)
        held = retained(pd.read_parquet(HERE / f"{name}_retention.parquet"))
        own = held[f"retention/{BEFORE}/after"].dropna().to_dict()
        for axes, left in zip(grid[:, column], (None, own), strict=True):
            table = tradeoff(found.trials, retained=left)
            for _, row in table.iterrows():
                style = look[row["method"]]
                axes.plot(
                    row["learned"], row["kept"], style.marker, color=style.colour, ms=7, mec=PAPER,
                    mew=0.7, label=method_label(row["method"]), ls="none",
                )  # fmt: skip
            best = table[table["front"]]
            axes.plot(best["learned"], best["kept"], "o", ms=13, mfc="none", mec=INK, mew=1.1)
            axes.margins(0.08)
            axes.grid(True, axis="both")
        grid[0, column].set_title(", ".join(task_labels(found.tasks).values()))
        grid[1, column].set_xlabel("score on a task just learned")
    grid[0, 0].set_ylabel("final score on the earlier tasks")
    grid[1, 0].set_ylabel(f"final score on {BEFORE}, learned before")
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        lines, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, lines, strict=True))
    across = 4 * len(studies)
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=across, fontsize=9)
    return figure


if __name__ == "__main__":
    with matplotlib.rc_context(RC):
        there = tuple(name for name in STUDIES if (HERE / f"{name}_scores.parquet").exists())
        draw(there).savefig(HERE.parent / "figures" / "baselines_tradeoff.png", dpi=150)
