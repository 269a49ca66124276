"""The section on training curves."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from l2kd_ray.report import figures
from l2kd_ray.report.blocks import Picture, ReportSection, text
from l2kd_ray.report.labels import method_label
from l2kd_ray.report.style import LineStyle


def curve_section(
    curves: pd.DataFrame | None, look: Mapping[str, LineStyle], distilled: str = ""
) -> list[ReportSection]:
    """`curves`: rows of `study.curves.curves_of`, one trial a method, on one instance; `distilled`:
    the legend of what students are distilled by (`distilled_by`)."""
    if curves is None or curves.empty:
        return []
    first = curves.iloc[0]
    ends = curves[curves["role"] == "student"].groupby("method", sort=False)["loss"].last()
    words = "; ".join(f"{method_label(str(m))} {text(float(v), 2)}" for m, v in ends.items())
    caption = (
        f"Training loss along the order {first['order']} with seed {first['seed']}. Dashed: the "
        "teacher of each task. Areas: the terms of the student's loss, on rows of question "
        "answering (qa) and language modelling (lm), against the teacher (kd), and on replayed "
        "samples. Losses of different methods are of different terms: compare a curve with itself."
        f"{distilled}"
    )
    if "tokens_per_second" in curves:
        speeds = curves.groupby("method", sort=False)["tokens_per_second"].mean().dropna()
        each = "; ".join(f"{method_label(str(m))} {v:,.0f}" for m, v in speeds.items())
        caption += f" Tokens a second: {each}." if each else ""
    picture = Picture(
        "training_curves",
        f"Training loss by method; at the end: {words}.",
        caption,
        figures.training_curves(curves, look),
    )
    return [ReportSection("Training curves", (picture,))]
