"""Examples that a student answered well when it had just learned their task, and not at the end."""

from __future__ import annotations

import pandas as pd

from l2kd_ray.names import SEPARATOR

_OF_TRIAL = ["method", "setting", "order", "seed", "trial", "task", "example"]


def forgotten(answers: pd.DataFrame) -> pd.DataFrame:
    """One row for each trial and example, the most forgotten first.

    Columns: those that name the trial, the task and the example, `input`, `reference`, the answer
    and score right after the task was learned (`learned`, `learned/score`) and at the end of the
    order (`final`, `final/score`), and `lost`, the difference of the scores in points. An example
    without both answers, and the last task of an order, have no row.

    `answers`: columns of `study.answers.ANSWER_COLUMNS`.
    """
    last = answers["order"].str.count(SEPARATOR) + 1  # tasks of the order
    earlier = answers[(answers["order"] != "") & (answers["j"] < last)]
    ends = last.reindex(earlier.index)
    texts = ["input", "reference"]
    after = earlier[earlier["i"] == earlier["j"]][[*_OF_TRIAL, *texts, "answer", "score"]]
    final = earlier[earlier["i"] == ends][[*_OF_TRIAL, "answer", "score"]]
    both = after.rename(columns={"answer": "learned", "score": "learned/score"}).merge(
        final.rename(columns={"answer": "final", "score": "final/score"}), on=_OF_TRIAL
    )
    both["lost"] = both["learned/score"] - both["final/score"]
    return both.sort_values("lost", ascending=False, kind="stable", ignore_index=True)
