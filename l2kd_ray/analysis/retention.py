"""Retention: what a model could do before its stream and after it, one row a trial."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from l2kd_ray.analysis.trials import ScoredTrial

_PREFIX = "retention/"


def kept(measured: pd.DataFrame) -> dict[str, pd.Series]:
    """By name of a measure, the change over the stream of each trial (the index), higher is better:
    of a task's score, and of `texts` minus that of the cross-entropy."""
    frame = retained(measured)
    change = {
        name: frame[f"{_PREFIX}{name}/after"] - frame[f"{_PREFIX}{name}/before"]
        for name in sorted(set(measured["name"]) - {"kl"})
    }
    return {name: -own if name == "texts" else own for name, own in change.items()}


def retained_by_setting(trials: Iterable[ScoredTrial], measured: pd.DataFrame) -> pd.DataFrame:
    """One row for each method and setting: the columns of `retained` without their prefix, means
    over the trials that have all of them."""
    frame = retained(measured).dropna()
    names = {trial.trial: (trial.method, trial.setting) for trial in trials if trial.order}
    frame = frame[frame.index.isin(names)].rename(columns=lambda name: name.removeprefix(_PREFIX))
    by = ["method", "setting"]
    arms = pd.DataFrame([names[trial] for trial in frame.index], frame.index, by)
    return arms.join(frame).groupby(by).mean().reset_index()


def retained(measured: pd.DataFrame) -> pd.DataFrame:
    """Columns by trial (the index): `retention/<name>/before` and `/after` the stream, and
    `retention/kl`, the mean over its tasks.

    `measured`: a row for each trial, step i, name and value; a step that is missing is NaN. `kl` is
    measured right after each task, on that task's data.
    """
    rows = {}
    for trial, own in measured.groupby("trial"):
        drift = own[own["name"] == "kl"]
        found = {} if drift.empty else {f"{_PREFIX}kl": drift["value"].mean(skipna=False)}
        for name, values in own[own["name"] != "kl"].groupby("name"):
            by_step = values.sort_values("i")["value"]
            found[f"{_PREFIX}{name}/before"] = by_step.iloc[0]
            found[f"{_PREFIX}{name}/after"] = by_step.iloc[-1]
        rows[trial] = found
    return pd.DataFrame.from_dict(rows, orient="index")
