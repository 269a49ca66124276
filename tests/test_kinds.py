"""A kind of stage that comes from outside: plan, forecast, scale and display know what it says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from l2kd_ray.core.stage import Optimisation, Stage, TrainingStage, kinds
from l2kd_ray.core.store import Store
from l2kd_ray.forecast.clock import Assumptions, Clock
from l2kd_ray.forecast.machines import Cluster
from l2kd_ray.forecast.trie import trie_of, widths
from l2kd_ray.study import Trial, plan
from l2kd_ray.study.sections import Scale


@dataclass(frozen=True, eq=False, kw_only=True)
class Polished(TrainingStage):
    """A student that is trained a little more."""

    kind = "workers"  # also the name of a setting of `scale`
    default_seconds = 7.0
    default_bytes = 3.0
    student: Stage


def polished(tiny: Any) -> tuple[Any, Trial]:
    study = tiny(methods=["lamol"], scale={"workers": 2})
    trial = study.trials()[-1]
    cell = trial.steps[-1][0]
    how = Optimisation(epochs=1, batch_size=1, lr=0.1)
    model = Polished(optimisation=how, seed=1, student=cell.stage.model)
    return study, replace(trial, steps=((replace(cell, stage=replace(cell.stage, model=model)),),))


def test_a_plan_counts_it(tiny: Any) -> None:
    _, trial = polished(tiny)
    planned = plan([trial], Store("memory://empty"))
    assert planned.stages["workers"].unique == 1
    names = list(planned.stages)
    assert names.index("learn") < names.index("workers") < names.index("evaluate")
    assert "workers" in kinds()


def test_a_training_has_the_workers_of_a_training() -> None:
    assert Scale(workers=4).of(Polished).workers == 4


def test_a_forecast_takes_what_its_class_assumes(tiny: Any) -> None:
    study, trial = polished(tiny)
    trie = trie_of(study, Store("memory://empty"), [trial])
    assert trie.seconds({})["workers"] == 7
    assert trie.seconds({"workers": 9})["workers"] == 9
    assert trie.bytes({})["workers"] == 3
    seconds = trie.values(trie.seconds({})).tolist()
    needs = widths(trie, study.config.scale)
    cluster = Cluster.parse("head + 2 x local")
    clock = Clock(trie, cluster, seconds, [1] * len(trie), needs, None, Assumptions())
    assert clock.saves[trie.kinds.index("workers")]


def test_the_display_shows_it() -> None:
    from l2kd_ray.cluster.progress import SweepProgress

    progress = {"done": {"workers": 1}, "running": {"other": 1}, "failures": []}
    shown = list(SweepProgress(None, (), lambda *_: None)._kinds(progress))
    assert shown == [("other", 0, 1, 1), ("workers", 1, 1, 0)]
