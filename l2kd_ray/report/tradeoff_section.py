"""The section on learning against keeping: earlier tasks, and what came before the stream."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from l2kd_ray.analysis.findings import Findings
from l2kd_ray.analysis.retention import kept, retained_by_setting
from l2kd_ray.analysis.tradeoff import tradeoff
from l2kd_ray.report import figures
from l2kd_ray.report.blocks import SETTING, Picture, ReportSection, Table, text
from l2kd_ray.report.labels import row_labels
from l2kd_ray.report.style import LineStyle


def tradeoff_section(
    found: Findings, look: Mapping[str, LineStyle], retention: pd.DataFrame | None = None
) -> list[ReportSection]:
    """A picture of all settings for the earlier tasks; one for each measure of `retention`, and a
    table of their values.

    No picture for a single task or setting, or before a first trial is complete.
    """
    trials, orders = found.trials, found.scope.orders
    drawn = [
        _picture(
            "tradeoff",
            tradeoff(trials, orders),
            look,
            "the final score on all tasks but the last",
            "final score on the earlier tasks",
        )
    ]
    for name, change in kept(retention).items() if retention is not None else ():
        unit = "general text: nats a token gained" if name == "texts" else f"{name}: gained"
        drawn.append(
            _picture(
                f"tradeoff_{name.replace('.', '_')}",
                tradeoff(trials, orders, change.to_dict()),
                look,
                f"what the stream changed of an ability from before it ({unit})",
                unit,
                SETTING,
            )
        )
    blocks: list[Picture | Table] = [one for one in drawn if one is not None]
    if retention is not None:
        blocks += _values(retained_by_setting(trials, retention))
    return [ReportSection("Learning against keeping", tuple(blocks))] if blocks else []


def _values(rows: pd.DataFrame) -> list[Table]:
    if rows.empty:
        return []
    values = rows.drop(columns=["method", "setting"])
    values.columns = [name.replace("/", " ") for name in values]
    frame = pd.concat([pd.Series(row_labels(rows), name="Method"), values], axis=1)
    caption = (
        "Before and after the stream: cross-entropy on general text (texts), in nats a token, "
        "where lower is better; scores on tasks that the stream does not hold (lm_eval: in "
        "lm-eval's unit). kl: KL(untrained model, student) on each task right after it was "
        "learned, in nats a token. Means over the trials."
    )
    return [Table("retention", caption, frame, digits=dict.fromkeys(values, SETTING))]


def _picture(
    name: str,
    table: pd.DataFrame,
    look: Mapping[str, LineStyle],
    what: str,
    axis: str,
    digits: int = 1,
) -> Picture | None:
    """Learned against kept; None for fewer than two settings."""
    if len(table) < 2:
        return None
    words = "; ".join(
        f"{label} {text(learned)} and {text(left, digits)}"
        for label, learned, left in zip(
            row_labels(table), table["learned"], table["kept"], strict=True
        )
    )
    caption = (
        f"Score on a task right after it was learned, against {what}; up and to the right is "
        "better. A marker a setting, means over the orders and seeds that all of them have "
        "complete. Ringed: none is better in both."
    )
    figure = figures.tradeoff(table, look, axis)
    return Picture(name, f"New-task score and what is kept: {words}.", caption, figure)
