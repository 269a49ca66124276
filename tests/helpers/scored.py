"""A store of scores that a test gives, and the batches of an agenda run on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from l2kd_ray.study import Study, Trial
from l2kd_ray.study.agenda import Wanted, batches, wanted

Score = Callable[[Trial, str], float]


class Scored:
    """A store in which every evaluation that was asked for has the score that a test gives it."""

    def __init__(self, score: Score) -> None:
        self.score, self.scores = score, dict[str, dict[str, float]]()

    def run(self, trials: list[Trial]) -> None:
        for trial in trials:
            for cell in trial.cells:
                value = self.score(trial, cell.split)
                self.scores[cell.stage.key] = {cell.stage.metric_name: value}

    def manifests(self, stages: dict[str, str]) -> Any:
        return {
            key: type("Manifest", (), {"scores": self.scores[key]})()
            for key in stages
            if key in self.scores
        }

    def listing(self) -> Any:
        return type("Listing", (), {"finished": dict.fromkeys(self.scores, "evaluate")})()


def run(study: Study, score: Score) -> tuple[list[list[Trial]], Wanted, Scored]:
    """Every batch of the agenda, done as it is asked for; what it has come to then."""
    store: Any = Scored(score)
    done = []
    for batch in batches(study, store):
        store.run(batch.trials)
        done += [list(batch.trials)] if batch.trials else []
    found = wanted(study, store)
    assert found.complete
    assert found.trials == [trial for trials in done for trial in trials]
    return done, found, store
