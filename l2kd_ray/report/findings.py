"""The frames that a report is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from l2kd_ray.analysis import Trial, compare, over_orders, results, trials
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.trials import METRICS


@dataclass(frozen=True)
class Findings:
    """What `analysis` says of a study's scores; the frames are also the report's CSV files."""

    scores: pd.DataFrame
    trials: tuple[Trial, ...]
    results: pd.DataFrame
    gap: pd.DataFrame
    """Of `compare`: a row a method and setting, by gap, references last."""
    orders: pd.DataFrame

    @property
    def tasks(self) -> list[str]:
        gaps = [name for name in self.results.columns if name.startswith("gap/")]
        return [name.removeprefix("gap/") for name in gaps if name not in METRICS]

    @property
    def arms(self) -> pd.DataFrame:
        """Rows of `gap` to show: the selected setting of a method, all of them where none is."""
        lifelong = self.gap[~self.gap["reference"]]
        decided = lifelong.groupby("method")["selected"].transform("any").astype(bool)
        return lifelong[lifelong["selected"] | ~decided].reset_index(drop=True)

    @property
    def references(self) -> pd.DataFrame:
        return self.gap[self.gap["reference"]]

    @property
    def chosen(self) -> pd.DataFrame:
        """Complete results of methods with a selected setting: one setting a method, by gap."""
        rows = self.arms[self.arms["selected"]]
        done = self.results[self.results["complete"]]
        return rows[["method", "setting"]].merge(done, on=["method", "setting"])

    @property
    def half_way(self) -> bool:
        """Whether a trial that has begun, of those shown, still lacks a final score."""
        arms = self.arms
        return bool(
            (arms["n_complete"] < arms["n_trials"]).any() or arms["n_complete"].nunique() > 1
        )

    @property
    def trace(self) -> pd.DataFrame:
        """The keys that every score is from, a row a cell of every score matrix."""
        by = ["method", "setting", "order", "seed", "trial", "split", "i", "j"]
        return self.scores[[*by, "task", "metric", "score", "key", "model"]].sort_values(
            by, ignore_index=True
        )

    def mean_matrices(self, rows: pd.DataFrame) -> dict[str, FloatArray]:
        """Of the trials of `rows`: each method's mean score matrix `[n + 1, n]`, by place."""
        matrices = {trial.trial: trial.R for trial in self.trials}
        return {
            str(method): np.mean([matrices[trial] for trial in own["trial"]], axis=0)
            for method, own in rows.groupby("method", sort=False)
        }


def find(scores: pd.DataFrame, searched: Sequence[str] = ()) -> Findings:
    """All that `analysis` says of the scores.

    Raises:
        ValueError: `scores` is empty or is not the long form of R.
    """
    test = results(scores, searched)
    dev = results(scores, searched, split="dev")
    return Findings(scores, tuple(trials(scores)), test, compare(test, dev), over_orders(test))
