"""Which teachers taught which arm."""

from __future__ import annotations

import numpy as np
import pandas as pd


def teachers_of(scores: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm that has teachers, in the order of `arms`.

    Columns: method, setting, group (arms of one number share all of their teachers; from 1),
    teacher/avg, gap/teacher_first and gap/teacher with their intervals, as in `compare`.
    """
    if arms.empty:
        return arms
    taught = scores[scores["teacher"] != ""]
    models = taught.groupby(["method", "setting"])["teacher"].agg(frozenset)
    named = pd.MultiIndex.from_frame(arms[["method", "setting"]])
    known = [models.get(arm) for arm in named]
    groups = {own: number for number, own in enumerate(dict.fromkeys(filter(None, known)), 1)}
    found = arms[[bool(own) for own in known]].copy()
    found["group"] = np.array([groups[own] for own in known if own], dtype=int)
    of_teachers = [name for name in found if "teacher" in str(name).split("/", 1)[0]]
    of_teachers += [name for name in found if str(name).startswith("gap/teacher")]
    return found[["method", "setting", "group", *of_teachers]].reset_index(drop=True)
