"""The answer in one sentence: how far below multi-task, how sure, and against which rival?"""

from __future__ import annotations

from typing import Any

import pandas as pd

from l2kd_ray.analysis import Note
from l2kd_ray.report.blocks import text
from l2kd_ray.report.labels import (
    count,
    interval_label,
    level_label,
    method_label,
    p_words,
    setting_label,
)
from l2kd_ray.report.sentences import note_words, qualifier


def best_row(table: pd.DataFrame) -> pd.Series[Any] | None:
    """The row of the smallest gap among the selected rows with the most trials; None without a gap.

    Half-way, a method that has run only the easy orders must not win, nor one that fails on the
    hard ones: failed trials count as run, and score 0.
    """
    rows = table[table["selected"] & ~table["reference"] & table["gap/abs"].notna()]
    done = rows["n_used"].where(rows["failed/n"] == 0)
    behind = done < rows["n_used"].max()
    rows = rows[~behind].sort_values(["failed/gap", "method"])
    return next((row for _, row in rows.iterrows()), None)


def headline(
    table: pd.DataFrame,
    comparisons: pd.DataFrame | None = None,
    *,
    half_way: bool = False,
    doubtful: bool = False,
) -> str:
    """The gap table (`compare`) in a few words, **strong** marks on the method and its number.

    The interval is simultaneous over all shown methods, as the one named is picked for its gap.
    `comparisons` (`compare_methods`) add how the method compares with the next one, with its test.
    `doubtful`: the bound fails a check, so that a gap to it says little.
    """
    best = best_row(table)
    if best is None:
        return _without_gap(table)
    setting = setting_label(best["setting"])
    name = f"**{method_label(best['method'])}**" + (f" ({setting})" if setting else "")
    gap = float(best["gap/abs"])
    side = "below" if gap >= 0 else "above"
    words = "**Doubtful** (see above): " if doubtful else ""
    if half_way:
        words += "so far, " if doubtful else "So far, "
    words += f"{name} ends **{text(abs(gap))} points {side} multi-task**"
    if pd.notna(best["gap/low"]):
        level, several = level_label(best["gap/note"].look), int(best["joint/n"])
        bounds = interval_label(best["joint/low"], best["joint/high"])
        of = f", which holds for the smallest of {several} gaps" if several > 1 else ""
        words += f" ({level} interval {bounds}{of})"
    words += f", the mean over {_scope(best)}{_reach(best)}."
    return " ".join([words, *_against(best, comparisons), *_closed(best)])


def _reach(row: pd.Series[Any]) -> str:
    """The population that the mean holds for, or the reason why it has no interval."""
    note: Note = row["gap/note"]
    if pd.isna(row["gap/low"]):
        words = note_words(note, counted=True)
        return f"; {words}" if words else ""
    words = qualifier(note.reach) if note.reach else ""  # the gap table has the rest of the note
    return f" ({words})" if words else ""


def _against(best: pd.Series[Any], comparisons: pd.DataFrame | None) -> list[str]:
    """The difference to the method whose gap is closest, where it was tested."""
    if comparisons is None or comparisons.empty:
        return []
    tested = comparisons[comparisons["p"].notna()]
    own = (tested["method"] == best["method"]) & (tested["setting"] == best["setting"])
    rival = (tested["against"] == best["method"]) & (tested["against/setting"] == best["setting"])
    pairs = [
        (float(sign * row["difference"]), sign, row)
        for rows, sign in ((tested[own], 1), (tested[rival], -1))
        for row in rows.to_dict("records")
    ]
    if not pairs:
        return []
    difference, sign, row = min(pairs, key=lambda pair: abs(pair[0]))
    other = method_label(str(row["against"] if sign > 0 else row["method"]))
    side, toward = ("narrower", -sign) if difference <= 0 else ("wider", sign)
    low, high = sorted((toward * float(row["low"]), toward * float(row["high"])))
    flip = ""
    if pd.notna(row["p_flip_adjusted"]):
        flip = f", {p_words(row['p_flip_adjusted'])} by sign-flip"
    together = f", for all {len(comparisons)} pairs together" if len(comparisons) > 1 else ""
    return [
        f"Its gap is {text(abs(difference))} points {side} than that of {other} (paired, "
        f"{level_label(row['note'].look)} interval {interval_label(low, high)}; "
        f"{p_words(row['p_adjusted'])} by t{flip}{together})."
    ]


def _closed(best: pd.Series[Any]) -> list[str]:
    closed = best["closed/value"]
    if pd.isna(closed):
        return []
    interval = interval_label(100 * best["closed/low"], 100 * best["closed/high"], 0)
    return [f"It closes {text(100 * closed, 0)} % of LAMOL's gap ({interval} %)."]


def _scope(row: pd.Series[Any]) -> str:
    orders, seeds = int(row["n_orders"]), int(row["n_seeds"])
    if not orders:
        return count(seeds, "seed")
    possible = int(row["n_possible"])
    ran = f"{orders:,} of {possible:,} orders" if orders < possible else f"all {possible:,} orders"
    if possible == 1:
        ran = "its only order"
    return f"{ran} and {count(seeds, 'seed')}"


def _without_gap(table: pd.DataFrame) -> str:
    lifelong = table[~table["reference"] & table["cl/avg"].notna()]
    if lifelong.empty:
        return "No lifelong trial is complete yet, so there is no gap to report."
    if not lifelong["selected"].any():
        return "No setting is selected yet (that needs dev scores), so there is no gap to report."
    best = lifelong[lifelong["selected"]].sort_values(["cl/avg", "method"]).iloc[-1]
    return (
        "No multi-task score yet, so there is no gap to report; "
        f"**{method_label(best['method'])}** ends highest, at "
        f"**{text(float(best['cl/avg']))} points** over {_scope(best)}."
    )
