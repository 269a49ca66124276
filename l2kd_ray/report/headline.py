"""The answer in one sentence: how far below multi-task does the best method end, and how sure?"""

from __future__ import annotations

from typing import Any

import pandas as pd

from l2kd_ray.report.blocks import text
from l2kd_ray.report.labels import interval_label, method_label, setting_label


def best_row(table: pd.DataFrame) -> pd.Series[Any] | None:
    """The row of the smallest gap among the selected ones that are furthest; None without a gap.

    Half-way, a method that has run only the easy orders must not win.
    """
    rows = _furthest(table).sort_values(["gap/abs", "method"])
    return next((row for _, row in rows.iterrows()), None)


def _furthest(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["selected"] & ~table["reference"] & table["gap/abs"].notna()]
    most: pd.DataFrame = rows[rows["n_complete"] == rows["n_complete"].max()]
    return most


def headline(table: pd.DataFrame, *, half_way: bool = False) -> str:
    """One sentence of the gap table (`compare`), **strong** marks on the method and its number."""
    best = best_row(table)
    if best is None:
        return _without_gap(table)
    setting = setting_label(best["setting"])
    name = f"**{method_label(best['method'])}**" + (f" ({setting})" if setting else "")
    gap = float(best["gap/abs"])
    side = "below" if gap >= 0 else "above"
    words = "So far, " if half_way else ""
    words += f"{name} ends **{text(abs(gap))} points {side} multi-task**"
    if pd.notna(best["gap/low"]):
        words += f" (95 % interval {interval_label(best['gap/low'], best['gap/high'])})"
    words += f", the mean over {_scope(best)}"
    if pd.isna(best["gap/low"]):
        words += f"; {best['gap/note'].removeprefix('one seed: ')}"
    rivals = _furthest(table)["method"].nunique()
    claims = [f"is the best of {rivals} methods"] if rivals > 1 else []
    closed = best["closed/value"]
    if pd.notna(closed):
        claims.append(
            f"closes {text(100 * closed, 0)} % of LAMOL's gap"
            f" ({interval_label(best['closed/low'], best['closed/high'], 0, 100)} %)"
        )
    return words + (f". It {' and '.join(claims)}." if claims else ".")


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
        return "No lifelong trial is complete yet, so there is no gap to tell."
    if not lifelong["selected"].any():
        return "No setting is selected yet (that needs dev scores), so there is no gap to tell."
    best = lifelong[lifelong["selected"]].sort_values(["cl/avg", "method"]).iloc[-1]
    return (
        f"No multi-task score yet, so there is no gap to tell; **{method_label(best['method'])}** "
        f"ends highest, at **{text(float(best['cl/avg']))} points** over {_scope(best)}."
    )


def count(number: int, thing: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
