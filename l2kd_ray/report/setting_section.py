"""The section on the searched settings: what each gave, and which was selected on dev."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from l2kd_ray.analysis import Optimism
from l2kd_ray.analysis.findings import Findings
from l2kd_ray.names import NO_SETTING
from l2kd_ray.report import figures, heatmaps
from l2kd_ray.report.blocks import (
    SETTING,
    Block,
    Picture,
    Prose,
    ReportSection,
    Table,
    measured,
    signed,
    text,
)
from l2kd_ray.report.labels import formulas, method_label, setting_label
from l2kd_ray.report.style import LineStyle


def surfaces(found: Findings, look: Mapping[str, LineStyle]) -> list[Block]:
    """Pictures of the gap against the searched settings; none where they ran on different data."""
    table, keys = _searched(found)
    drawn = table[table["gap/abs"].notna() & (not found.optimism)]
    return pictures(drawn, keys, look) if len(drawn) else []


def _searched(found: Findings) -> tuple[pd.DataFrame, list[str]]:
    """The rows of `compare` with a searched setting, and the keys that they name."""
    lifelong = found.gap[~found.gap["reference"]]
    table = lifelong[lifelong["setting"] != NO_SETTING].reset_index(drop=True)
    return table, sorted({key for setting in table["setting"] for key in json.loads(setting)})


def setting_section(
    found: Findings, look: Mapping[str, LineStyle], objectives: pd.DataFrame | None = None
) -> list[ReportSection]:
    """A table of all settings, and how optimistic the selection was.

    `objectives`: `study.objectives`, where the search had two.
    """
    table, keys = _searched(found)
    if not keys:
        return []
    frame = pd.DataFrame({"Method": [method_label(method) for method in table["method"]]})
    for key in keys:
        frame[key] = table[key]
    frame["Dev score"] = table["dev"].astype(float)
    pareto, names = "", list[str]()
    if objectives is not None:
        own = table[["method", "setting"]].merge(objectives, "left", ["method", "setting"])
        names = [name for name in objectives if name not in ("method", "setting", "front")]
        for name in names:
            frame[name] = own[name]
        frame["Pareto set"] = ["yes" if one is True else "" for one in own["front"].tolist()]
        pareto = (
            f" The search had two objectives, {' and '.join(names)} (`tune.objectives`). In the "
            "Pareto set: no other setting of the method is as good in both and better in one."
        )
    if found.optimism:  # the others ran on the half that is not reported
        table.loc[~table["selected"], ["gap/abs", "gap/low", "gap/high"]] = np.nan
    frame["Gap (test)"] = measured(table, "gap/abs", "gap/low", "gap/high")
    frame["Trials"] = table["n_complete"].astype(int)
    frame["Selected"] = ["selected" if chosen else "" for chosen in table["selected"]]
    chosen_rows = np.flatnonzero(table["selected"])
    blocks = _optimism(found.optimism)
    if found.teachers.empty:  # else they stand beside what distillation gains
        blocks += surfaces(found, look)
    blocks.append(
        Table(
            "settings",
            f"Every setting that ran. A method's setting is selected by its mean dev score.{pareto}"
            + "".join(formulas(key, table[key]) for key in keys),
            frame,
            digits={
                **dict.fromkeys(keys, SETTING),
                **dict.fromkeys(names, 2),
                "Dev score": 2,
                "Gap (test)": 2,
            },
            strong=frozenset((int(k), name) for k in chosen_rows for name in frame.columns),
        )
    )
    return [ReportSection("Settings", tuple(blocks))]


def _optimism(found: Mapping[str, Optimism]) -> list[Block]:
    """Scores of the selected settings on the selecting half and on the reported half."""
    blocks: list[Block] = []
    for method, one in found.items():
        words = (
            f"**{method_label(method)}:** selected on one half of the instances, with a dev score "
            f"of {text(one.selected)}; on the other half, which all test numbers are of, its test "
            f"score is {text(one.reported)}. Optimism: {signed(one.total)} points"
        )
        if not np.isnan(one.of_selection):
            words += f", of it {signed(one.of_selection)} due to selection (dev against dev)"
        blocks.append(Prose(f"{words}."))
    return blocks


def pictures(
    table: pd.DataFrame, keys: Sequence[str], look: Mapping[str, LineStyle]
) -> list[Block]:
    """A heat map of the rows that name two settings on a grid; of the others the gap against each
    setting in turn. `table`: rows of `compare`, with a column for each key."""
    blocks: list[Block] = []
    cells, sizes = table.dropna(subset=list(keys)), [table[key].nunique() for key in keys]
    if len(keys) == 2 and max(sizes) <= 10 and len(cells) >= 0.5 * sizes[0] * sizes[1]:
        blocks.append(
            Picture(
                "gap_by_setting",
                f"Mean gap of each pair of {keys[0]} and {keys[1]}. {_selected(cells)}",
                "Mean gap in points; lower and paler is better. Outlined: selected on dev."
                + "".join(formulas(key, table[key]) for key in keys),
                heatmaps.gap_by_two_settings(cells, (keys[0], keys[1]), look),
            )
        )
        table = table.drop(cells.index)
    for key in keys:
        rows = table.dropna(subset=[key])
        if len(rows):
            blocks.append(
                Picture(
                    f"gap_by_{key.replace('.', '_')}",
                    f"Mean gap against {key}. {_selected(rows)}",
                    f"Mean gap against `{key}`, a marker a setting. Ringed: selected on dev."
                    + formulas(key, rows[key]),
                    figures.gap_by_setting(rows, key, look),
                )
            )
    return blocks


def _selected(rows: pd.DataFrame) -> str:
    chosen = "; ".join(
        f"{row['method']}: {setting_label(row['setting'])}, gap {text(float(row['gap/abs']))}"
        for _, row in rows[rows["selected"]].iterrows()
    )
    return f"Selected on dev: {chosen or 'none of these'}."
