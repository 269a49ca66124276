"""A plan in words: what will run, what has changed since the last sweep, and what it is
estimated from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.finished import finish, publish
from helpers.studies import planned

from l2kd_ray.api import load_study
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.stage import Stage, TrainingStage
from l2kd_ray.core.store import Store
from l2kd_ray.report.planning import change_words, cost_words, trial_words
from l2kd_ray.study import plan
from l2kd_ray.study.changes import changes_since
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.loading import to_yaml
from l2kd_ray.study.plan import seconds_of
from l2kd_ray.study.trial import stages_of
from l2kd_ray.testing.studies import tiny

THREE = ("gen.rest", "gen.hotel", "gen.intent")
GRID = {"kd.temperature": {"grid": [1, 2, 4, 8]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "2 of 2 orders x 1 seed of finetune, lamol, l2kd: 6 trials"),
        (
            {"tasks": THREE, "orders": {"random": 2}, "seeds": [1, 2, 3], "search": GRID},
            "2 of 6 orders x 3 seeds of finetune, lamol, l2kd (4 settings): 36 trials",
        ),
    ],
)
def test_the_first_line_says_what_will_run(changes: Mapping[str, Any], words: str) -> None:
    study = planned(**changes)
    assert trial_words(study).startswith(words)
    assert "multi-task and single-task" in trial_words(study)
    counted = int(words.rpartition(": ")[2].split()[0])
    assert counted == sum(not trial.is_reference for trial in study.trials())


def swept(store: Store, **changes: Any) -> Folder:
    """The folder of a study that was swept."""
    study = planned(**changes)
    folder = Folder(store, study.config.name)
    folder.add_keys(stages_of(study.trials()))
    folder.keep_study(to_yaml(study))
    return folder


def changed(folder: Folder, **changes: Any) -> Any:
    study = planned(**changes)
    return changes_since(folder, study, stages_of(study.trials()))


def test_what_has_changed_since_the_last_sweep_is_said(store: Store) -> None:
    assert changed(Folder(store, "tiny")) is None
    folder = swept(store)
    assert changed(folder) is None
    train = {"epochs": 3, "batch_size": 8, "lr": 5e-3}
    found = changed(folder, train=train, seeds=[531, 532], keep="leaves")
    assert found.settings == {
        "train.epochs": ("2", "3"),
        "seeds": ("[531]", "[531, 532]"),
        "keep": ("not set", "leaves"),
    }
    words = " ".join(change_words(found))
    assert "train.epochs: 2 -> 3" in words
    assert 0 < found.used < found.former
    assert found.first == "multitask"


def test_another_task_moves_a_tokenizer_of_the_studys_own_tasks(store: Store) -> None:
    found = changed(swept(store), tasks=THREE)
    assert found.first == "tokenizer"
    assert "tasks.gen.hotel.name" in found.settings
    assert "tokenizer.tasks" in " ".join(change_words(found))


def test_an_estimate_is_of_the_studys_own_stages_or_a_guess(store: Store) -> None:
    other = planned(seeds=[1])
    finish(other, store)
    study = planned(seeds=[2])
    guess = plan(study.trials(), StoreView(store))
    assert {"learn", "multitask"} <= set(guess.guessed)
    finish(study, store, learned=1)
    own = plan(study.trials(), StoreView(store))
    assert "learn" not in own.guessed


def test_evaluating_that_takes_longer_than_training_is_said(store: Store) -> None:
    study = planned(seeds=[1], methods=["finetune"])
    finish(study, store, learned=1)
    found = plan(study.trials(), StoreView(store))
    assert found.seconds_by_kind is not None
    said = "Evaluating takes longer than training"
    assert set(found.seconds_by_kind) == {"learn", "evaluate"}
    for learn, expected in ((1e6, False), (0.1, True)):
        times = {**found.seconds_by_kind, "learn": learn}
        assert (said in cost_words(replace(found, seconds_by_kind=times))) is expected


@dataclass(frozen=True, eq=False)
class Reads(Stage):
    """A stage that reads some examples."""

    kind = "reads"
    examples: int

    @property
    def amount(self) -> float:
        return float(self.examples)


def test_time_grows_with_the_amount_of_work_of_the_studys_own_stages(store: Store) -> None:
    small, large = Reads(10), Reads(30)
    publish(store, small, 0.0)  # in 2 seconds
    done = [*store.manifests({small.key: small.kind}).values()]
    assert seconds_of([Reads(20), large], done, {small.key: small}) == pytest.approx(10)
    assert seconds_of([Reads(20), large], done, {}) == 4  # a guess


def test_the_amount_of_a_training_is_its_examples_in_each_epoch() -> None:
    def amounts(**train: Any) -> set[float]:
        study = planned(methods=["lamol"], train={"batch_size": 8, "lr": 5e-3, **train})
        stages = stages_of(study.trials())
        return {s.amount for s in stages if s.kind in {"learn", "multitask"}}

    alone, replayed, both = sorted(amounts(epochs=1))
    assert (alone, both) == (16, 32)
    assert replayed == 16 + 8  # half as many
    assert amounts(epochs=3) == {3 * alone, 3 * replayed, 3 * both}
    assert amounts(steps=5) == {40}
    drawing = planned(methods=["der++"], der={"batch_size": 2}, train={"steps": 5, "batch_size": 8})
    learned = {s.amount for s in stages_of(drawing.trials()) if s.kind == "learn"}
    assert learned == {40, 50}  # from the second task on two more are drawn at each step
    whole = next(s for s in stages_of(planned().trials()) if s.kind == "multitask")
    assert isinstance(whole, TrainingStage)
    part = replace(whole, optimisation=replace(whole.optimisation, epochs=3)).in_parts([1, 3])
    assert (part.amount, part.at(1).amount) == (2 * both, both)


@pytest.mark.parametrize(
    ("method", "settings", "kind", "amount"),
    [
        ("ssr", {"ssr": {"ratio": 0.37}}, "replay", 6),
        ("ssr", {"ssr": {"ratio": 0.37}}, "learn", 16 + 6),
        ("replay", {"real_replay": {"ratio": 0.25}}, "learn", 16 + 4),
        ("der++", {"der": {"ratio": 0.25}}, "annotate", 4),
        ("der++", {"der": {"ratio": 0.25}}, "learn", 16 + 2 * 4),  # 4 at each of two steps
        ("ewc", {"ewc": {"samples": 5}}, "importance", 5),
    ],
)
def test_the_amount_of_a_stage_is_known_by_each_method(
    method: str, settings: dict[str, Any], kind: str, amount: float
) -> None:
    study = planned(methods=[method], train={"epochs": 1, "batch_size": 8, "lr": 5e-3}, **settings)
    assert max(s.amount for s in stages_of(study.trials()) if s.kind == kind) == amount


def test_measuring_makes_an_estimate_of_the_studys_own_stages(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(tiny(methods=["lamol"], storage=str(tmp_path / "s"))))
    study = load_study(file)
    assert study.plan().seconds is None
    measured = [*study.measure()]
    found = study.plan()
    assert found.seconds
    assert not found.guessed
    assert {"learn", "multitask", "replay", "evaluate"} <= {one.kind for one in measured}
    assert len(measured) == len({one.kind for one in measured})
    assert {one.key for one in measured} <= {stage.key for stage in found.every}
    assert found.stages["learn"].todo > 0
    assert not [*study.measure()]
