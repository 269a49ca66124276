"""The section on methods against each other: paired differences and their tests."""

from __future__ import annotations

import pandas as pd

from l2kd_ray.analysis import Note
from l2kd_ray.analysis.findings import Findings
from l2kd_ray.analysis.paired import BY_SEED
from l2kd_ray.report import figures
from l2kd_ray.report.blocks import (
    MINUS,
    PROBABILITY,
    Block,
    Fold,
    Picture,
    Prose,
    ReportSection,
    Table,
    measured,
    signed,
)
from l2kd_ray.report.labels import level_label, method_label
from l2kd_ray.report.sentences import apart_words, flip_words, note_words

_MOST_DRAWN = 15
"""Pairs; above, the table alone."""
_TITLE = "Methods against each other"
_TESTS = {
    "p (t)": "p",
    "p (t), all pairs": "p_adjusted",
    "p (flip)": "p_flip",
    "p (flip), all pairs": "p_flip_adjusted",
    "Effect (g)": "effect",
}
"""Shown name and column of `compare_methods`."""


def comparison_section(found: Findings) -> list[ReportSection]:
    rows = found.comparisons
    if rows.empty or found.gap["gap/abs"].isna().all():
        return []
    known = rows[rows["difference"].notna()].reset_index(drop=True)
    if known.empty:
        words = "Nothing to compare yet: no order is finished for all methods and seeds."
        return [ReportSection(_TITLE, (Prose(words),))]
    blocks: list[Block] = []
    if len(known) <= _MOST_DRAWN:
        blocks.append(_picture(known))
    blocks += [_table(known), *_by_seed(known), *_notes(known)]
    return [ReportSection(_TITLE, tuple(blocks))]


def _names(rows: pd.DataFrame) -> list[str]:
    pairs = zip(rows["method"], rows["against"], strict=True)
    return [f"{method_label(one)} {MINUS} {method_label(other)}" for one, other in pairs]


def _picture(rows: pd.DataFrame) -> Picture:
    names = _names(rows)
    words = "; ".join(
        f"{name} {signed(float(value))}"
        for name, value in zip(names, rows["difference"], strict=True)
    )
    caption = (
        "Difference of the gaps, paired by order and seed. Left of the line, the first of the two "
        "ends closer to multi-task."
    )
    if rows["low"].notna().any():
        caption += f" Bar: {_interval(rows)}; filled where it leaves 0 out."
    return Picture(
        "differences",
        f"Paired differences of the mean gap in points: {words}.",
        caption,
        figures.differences(rows, names),
    )


def _table(rows: pd.DataFrame) -> Table:
    frame = pd.DataFrame({"Pair": _names(rows)})
    frame["Difference"] = measured(rows, "difference", "low", "high")
    caption = "Points of gap, first minus second."
    if rows["p"].notna().any():
        flips, several = rows["p_flip"].notna().any(), len(rows) > 1
        together = (
            " All pairs: times their number (Bonferroni), below 0.05 exactly where the interval "
            "leaves 0 out."
        )
        for name, column in _TESTS.items():
            if (flips or "flip" not in column) and (several or "adjusted" not in column):
                frame[name] = rows[column].astype(float)
        caption += (
            f" Below, the {_interval(rows)}. Tests over seeds, two-sided: Student's t"
            f"{', and sign-flip, of these orders alone' if flips else ''}."
            f"{together if several else ''} Effect: Hedges's g of the seeds' differences."
        )
    frame["Closer on, %"] = 100 * rows["lower"].astype(float)
    caption += " Closer on: share of instances on which the first has the smaller gap."
    digits = {**dict.fromkeys(_TESTS, PROBABILITY), "Effect (g)": 2, "Closer on, %": 0}
    return Table("comparisons", caption, frame, digits=digits)


def _by_seed(rows: pd.DataFrame) -> list[Block]:
    """The seeds' own differences, of which the interval and the tests are made."""
    seeds = [name for name in rows.columns if name.startswith(BY_SEED)]
    if len(seeds) < 2:
        return []
    frame = pd.DataFrame({"Pair": _names(rows)})
    for name in seeds:
        frame[name.removeprefix(BY_SEED)] = rows[name].astype(float)
    caption = "Points of gap, first minus second, of each training seed: mean over the orders."
    return [Fold("By seed", (Table("comparisons_by_seed", caption, frame),))]


def _interval(rows: pd.DataFrame) -> str:
    together = f", simultaneous over {len(rows)} pairs" if len(rows) > 1 else ""
    return f"{level_label(rows['note'].iloc[0].look)} interval{together}"


def _notes(rows: pd.DataFrame) -> list[Block]:
    """The population that the differences hold for, once for all pairs that share it; which pairs
    are not told apart; and why there is no sign-flip test."""
    notes: dict[Note, list[str]] = {}
    for name, note in zip(_names(rows), rows["note"], strict=True):
        notes.setdefault(note, []).append(name)
    seeds = int(rows["n_seeds"].max())
    blocks: list[Block] = []
    for note, of in notes.items():
        which = "" if len(of) == len(rows) else f" ({', '.join(of)})"
        over = "" if seeds == 1 else f"; {seeds} seeds"
        blocks.append(
            Prose(f"**How far it reaches:** {note_words(note) or 'these orders'}{over}{which}.")
        )
    undecided = rows[(rows["low"] <= 0) & (rows["high"] >= 0)]
    blocks += [
        Prose(f"**{name}:** {apart_words(row['detectable'], row['at_most'])}.")
        for name, row in zip(_names(undecided), undecided.to_dict("records"), strict=True)
        if len(rows) <= _MOST_DRAWN
    ]
    if rows["p"].notna().any() and rows["p_flip"].isna().all():
        needed = rows["flip_seeds"].max()
        blocks.append(Prose(flip_words(seeds, len(rows), needed)))
    return blocks
