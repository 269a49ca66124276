"""The section on learning against keeping."""

from __future__ import annotations

from collections.abc import Mapping

from l2kd_ray.analysis.findings import Findings
from l2kd_ray.analysis.tradeoff import tradeoff
from l2kd_ray.report import figures
from l2kd_ray.report.blocks import Picture, ReportSection, text
from l2kd_ray.report.labels import row_labels
from l2kd_ray.report.style import LineStyle


def tradeoff_section(found: Findings, look: Mapping[str, LineStyle]) -> list[ReportSection]:
    """A picture of all settings; none for a single task, or before a first trial is complete."""
    table = tradeoff(found.trials, found.scope.orders)
    if len(table) < 2:
        return []
    words = "; ".join(
        f"{name} {text(learned)} and {text(kept)}"
        for name, learned, kept in zip(
            row_labels(table), table["learned"], table["kept"], strict=True
        )
    )
    caption = (
        "Score on a task right after it was learned, against the final score on all tasks but the "
        "last; up and to the right is better. A marker a setting, means over the orders and seeds "
        "that all of them have complete. Ringed: none is better in both."
    )
    return [
        ReportSection(
            "Learning against keeping",
            (
                Picture(
                    "tradeoff",
                    f"New-task score and what is kept of earlier tasks: {words}.",
                    caption,
                    figures.tradeoff(table, look),
                ),
            ),
        )
    ]
