"""Selection of the setting of a method that is reported, on dev scores alone."""

from __future__ import annotations

import pandas as pd

from l2kd_ray.analysis.note import Caveat


def select(dev: pd.DataFrame) -> pd.DataFrame:
    """Select the setting of each method with the best mean dev score; never reads test scores.

    `dev` is `results(scores, split="dev")`. Settings of a method are compared on the instances
    (order, seed) that all of them have complete; where they share none yet, each on its own, with
    the note `Caveat.PROVISIONAL`. A method's only setting is selected whatever its scores.

    Returns:
        One row for each (method, setting): method, setting, dev (mean ACC in points), selected,
        note.
    """
    rows = []
    for method, of_method in dev.groupby("method", sort=True):
        settings = list(dict.fromkeys(of_method["setting"]))
        complete = of_method[of_method["complete"]]
        compared, note = complete, None
        if len(settings) > 1:
            compared, note = _shared_block(complete)
        means = compared.groupby("setting")["cl/avg"].mean().reindex(settings)
        best = settings[0] if len(settings) == 1 else None
        if best is None and means.notna().any():
            best = str(means.idxmax())
        if best is None:
            note = Caveat.NO_DEV_SCORE
        rows += [
            {
                "method": method,
                "setting": setting,
                "dev": means[setting],
                "selected": setting == best,
                "note": note,
            }
            for setting in settings
        ]
    return pd.DataFrame(rows)


def _shared_block(complete: pd.DataFrame) -> tuple[pd.DataFrame, Caveat | None]:
    """The rows whose instance every setting of `complete` has, else all rows and a warning."""
    instance = complete["order"] + "|" + complete["seed"]
    shared = complete.groupby(instance)["setting"].transform("nunique")
    block = complete[shared == complete["setting"].nunique()]
    if block.empty:
        return complete, Caveat.PROVISIONAL
    return block, None
