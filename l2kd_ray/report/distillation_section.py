"""The section on what distillation gains, and on the teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from l2kd_ray.analysis.findings import Findings
from l2kd_ray.report.blocks import Block, Prose, ReportSection, Table, measured, text
from l2kd_ray.report.gap_section import each_by_itself
from l2kd_ray.report.labels import (
    interval_label,
    level_label,
    method_label,
    p_words,
    row_labels,
    setting_label,
)
from l2kd_ray.report.sentences import note_words
from l2kd_ray.report.setting_section import surfaces
from l2kd_ray.report.style import LineStyle


def distillation_section(
    found: Findings, look: Mapping[str, LineStyle], distilled: str = ""
) -> list[ReportSection]:
    """The gain of teachers, the gap against the searched settings, and the teachers themselves.

    `distilled`: the legend of what students are distilled by (`distilled_by`).
    """
    if found.teachers.empty:
        return []
    said = filter(None, (*gain_sentences(found.gains), distilled.strip()))
    blocks: list[Block] = [*map(Prose, said), *surfaces(found, look), *_teacher_table(found)]
    return [ReportSection("What distillation gains", tuple(blocks))] if blocks else []


def gain_sentences(gains: pd.DataFrame) -> list[str]:
    """One sentence an arm: what its teachers gain or cost, at its own setting and the paper's."""
    if gains.empty:
        return []
    sentences = []
    for method, rows in gains.groupby("method", sort=False):
        known = rows[rows["difference"].notna()]
        parts = [_gain(row) for _, row in known.iterrows()]
        if parts:
            control = method_label(str(rows["against"].iat[0]))
            notes = dict.fromkeys(known["note"].map(note_words))
            tail = "; ".join(note for note in notes if note) if known["low"].isna().all() else ""
            tail = f" ({tail})" if tail else ""
            sentences.append(
                f"Against {control}, which has no teacher, **{method_label(str(method))}** "
                f"{', and '.join(parts)}{tail}."
            )
    return sentences


def _gain(row: pd.Series[Any]) -> str:
    points = float(row["difference"])
    words = f"**{'gains' if points <= 0 else 'costs'} {text(abs(points))} points**"
    setting = setting_label(row["setting"])
    if row["published"]:
        words += f" at the paper's {setting}"
        words += ", which is also its best on dev" if row["selected"] else ""
    elif setting:
        words += f" at its best on dev, {setting}"
    if pd.notna(row["low"]):
        low, high = sorted((-float(row["low"]), -float(row["high"])))
        interval = f"{level_label(row['note'].look)} interval {interval_label(low, high)}"
        words += f" (gain: {interval}; {p_words(row['p_adjusted'])})"
    return words


def _teacher_table(found: Findings) -> list[Block]:
    """The teachers of each arm and how far below them its students are, where there are any."""
    rows = found.teachers
    if rows["teacher/avg"].isna().all():
        return []
    frame = pd.DataFrame({"Method": row_labels(rows)})
    words = "Teachers, each on the task that it taught, in points."
    if len(rows) > 1:
        frame["Group"] = rows["group"]
        words += " Arms of one group share their teachers."
    frame["Their score"] = rows["teacher/avg"].astype(float)
    if rows["gap/teacher_first"].notna().any():
        frame["Below, just learned"] = measured(
            rows, "gap/teacher_first", "teacher_first/low", "teacher_first/high"
        )
        words += " Below, just learned: their score minus the student's right after each task."
    frame["Below teacher"] = measured(rows, "gap/teacher", "teacher/low", "teacher/high")
    words += " Below teacher: minus the student's at the end."
    return [Table("teachers", words + each_by_itself(found, rows["teacher/low"]), frame)]
