"""Which teachers taught which arm."""

from __future__ import annotations

import pandas as pd

_SHOWN = [
    "teacher/avg",
    *("gap/teacher_first", "teacher_first/low", "teacher_first/high"),
    *("gap/teacher", "teacher/low", "teacher/high"),
]


def teachers_of(scores: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm that has teachers, in the order of `arms`.

    Columns: method, setting, group (arms of one number share all of their teachers; from 1), and
    of `compare` the teachers' own score, and the gaps to it with their intervals.
    """
    if arms.empty:
        return arms
    taught = scores[scores["teacher"] != ""]
    models = taught.groupby(["method", "setting"])["teacher"].agg(frozenset)
    known = [models.get(arm) for arm in zip(arms["method"], arms["setting"], strict=True)]
    groups = {own: number for number, own in enumerate(dict.fromkeys(filter(None, known)), 1)}
    found = arms.loc[[bool(own) for own in known], ["method", "setting", *_SHOWN]]
    found.insert(2, "group", [groups[own] for own in known if own])
    return found.reset_index(drop=True)
