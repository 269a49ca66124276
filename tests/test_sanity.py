"""Reasons to doubt a study: each is found where it was built in, and none in a study without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from l2kd_ray.analysis import Doubt, Flaw, TaskFacts, doubted, sanity
from l2kd_ray.analysis.sanity import outlying
from l2kd_ray.analysis.trials import ScoredTrial
from l2kd_ray.report.sentences import doubt_words

TASKS = ("a", "b")
UNTAUGHT = np.full(2, np.nan)
FACTS = {"a": TaskFacts(400, majority=50.0), "b": TaskFacts(400)}
NO_ANSWERS = pd.DataFrame(columns=["method", "setting", "task", "answers", "references"])
ORDERS = (("a", "b"), ("b", "a"))


def trials(
    bound: Mapping[str, float] | None = None,
    single: Mapping[str, float] | None = None,
    learned: Mapping[str, float] | None = None,
    final: Mapping[str, float] | None = None,
    untrained: float = 0.0,
) -> list[ScoredTrial]:
    """A healthy study of two tasks, both orders and three seeds, or one with other scores."""
    every = []
    for seed in ("1", "2", "3"):
        for method, scores in (("multitask", bound), ("single", single)):
            R = np.full((3, 2), np.nan)
            R[-1] = [{"a": 80.0, "b": 70.0, **(scores or {})}[task] for task in TASKS]
            every.append(ScoredTrial(f"{method}{seed}", method, "{}", "", seed, TASKS, R, UNTAUGHT))
        for order in ORDERS:
            R = np.full((3, 2), untrained)
            for j, task in enumerate(order):
                R[j + 1, j] = {"a": 78.0, "b": 69.0, **(learned or {})}[task]
                R[2, j] = (final or {}).get(seed, 60.0)
            R[2, 1] = {"a": 78.0, "b": 69.0, **(learned or {})}[order[1]]
            if final and seed in final:
                R[2] = final[seed]
            name = f"l2kd{seed}{order}"
            every.append(ScoredTrial(name, "l2kd", "{}", ">".join(order), seed, order, R, UNTAUGHT))
    return every


def found(every: list[ScoredTrial], **frames: Any) -> list[tuple[Flaw, str, str]]:
    given = {"answers": NO_ANSWERS, "replay": pd.DataFrame(), **frames}
    return [(d.flaw, d.method, d.task) for d in sanity(every, FACTS, **given)]


def test_a_healthy_study_has_no_doubt() -> None:
    assert found(trials()) == []


@pytest.mark.parametrize(
    ("bound", "single", "untrained", "flaw", "task"),
    [
        ({"b": 63.0}, {}, 0.0, Flaw.BOUND_BELOW_SINGLE, "b"),
        ({"a": 50.0}, {"a": 50.0}, 0.0, Flaw.BOUND_AT_MAJORITY, "a"),
        ({"b": 13.0}, {"b": 13.0}, 10.0, Flaw.BOUND_UNTRAINED, "b"),
    ],
)
def test_a_bound_that_is_none_is_found(
    bound: dict[str, float], single: dict[str, float], untrained: float, flaw: Flaw, task: str
) -> None:
    assert (flaw, "multitask", task) in found(trials(bound, single, untrained=untrained))


def test_a_difference_within_the_noise_of_the_test_split_is_no_doubt() -> None:
    # 400 examples: two standard errors are at most 5 points, and less of a mean near 0 or 100.
    assert FACTS["b"].noise == FACTS["b"].noise_at(50.0) == 5.0
    few_right = np.array([100.0] * 40 + [0.0] * 360)
    two_errors = 2 * few_right.std() / np.sqrt(400)
    assert FACTS["b"].noise_at(0.0, few_right.mean()) == pytest.approx(two_errors)
    assert found(trials({"b": 66.0})) == []
    assert found(trials({"b": 64.9})) == [(Flaw.BOUND_BELOW_SINGLE, "multitask", "b")]


def test_what_was_never_learned_is_found() -> None:
    every = trials(learned={"a": 12.0}, untrained=9.0)
    assert (Flaw.LEARNT_NOTHING, "l2kd", "a") in found(every)
    assert (Flaw.LEARNT_NOTHING, "l2kd", "b") not in found(every)
    few = dict.fromkeys(TASKS, TaskFacts(40))  # where any score is within 15.8 points of another
    every = trials(learned={"a": 8.0, "b": 12.0}, untrained=0.0)
    doubts = sanity(every, few, NO_ANSWERS, pd.DataFrame())
    assert [d.task for d in doubts if d.flaw is Flaw.LEARNT_NOTHING] == ["a"]


def test_one_answer_to_nearly_everything_is_found_unless_that_is_right() -> None:
    rows = [("l2kd", "{}", "a", 97.0, 50.0), ("l2kd", "{}", "b", 97.0, 96.0)]
    answers = pd.DataFrame(rows, columns=NO_ANSWERS.columns)
    assert found(trials(), answers=answers) == [(Flaw.ONE_ANSWER, "l2kd", "a")]


def test_replay_that_is_hardly_ever_valid_is_found() -> None:
    rows = [("l2kd", "{}", 10.0), ("l2kd", "{}", 20.0), ("lamol", "{}", 80.0)]
    replay = pd.DataFrame(rows, columns=["method", "setting", "valid"])
    assert found(trials(), replay=replay) == [(Flaw.REPLAY_INVALID, "l2kd", "")]


def test_a_seed_that_lost_what_the_others_gained_is_found() -> None:
    (doubt,) = sanity(trials(final={"2": 5.0}), FACTS, NO_ANSWERS, pd.DataFrame())
    assert (doubt.flaw, doubt.seed, doubt.value) == (Flaw.SEED_COLLAPSED, "2", 5.0)


def test_unfinished_trials_raise_no_doubt() -> None:
    every = [one for one in trials() if one.method == "l2kd"]
    for trial in every:
        trial.R[1:] = np.nan
    assert found(every) == []


def test_each_trial_names_its_own_doubts_and_those_of_the_bound() -> None:
    results = pd.DataFrame({"method": ["l2kd", "lamol"], "setting": ["{}", "{}"]})
    doubts = [
        Doubt(Flaw.BOUND_UNTRAINED, "multitask", "{}", "a", 1.0, 1.0),
        Doubt(Flaw.REPLAY_INVALID, "l2kd", "{}", "", 3.0, 20.0),
    ]
    own = [str(Flaw.BOUND_UNTRAINED), str(Flaw.REPLAY_INVALID)]
    assert doubted(results, doubts) == ["; ".join(own), own[0]]
    assert doubted(results, []) == ["", ""]


def seeds_at(finals: Mapping[str, float]) -> list[ScoredTrial]:
    """A study of two tasks, both orders, and seeds that end at these scores."""
    every = []
    for seed, final in finals.items():
        for order in ORDERS:
            R = np.array([[0.0, 0], [78, 0], [final, final]])
            every.append(ScoredTrial(seed, "l2kd", "{}", ">".join(order), seed, order, R, UNTAUGHT))
    return every


def test_a_seed_far_from_the_others_is_found() -> None:
    alike = {"1": 60.0, "2": 61.0, "3": 59.5, "4": 60.2}
    far = sanity(seeds_at({**alike, "5": 40.0}), FACTS, NO_ANSWERS, pd.DataFrame())
    (doubt,) = [one for one in far if one.flaw is Flaw.SEED_OUTLYING]
    assert (doubt.seed, doubt.value, doubt.against) == ("5", 40.0, 60.0)
    near = sanity(seeds_at({**alike, "5": 58.0}), FACTS, NO_ANSWERS, pd.DataFrame())
    assert near == []  # within the noise of the test examples
    half_way = seeds_at({**alike, "5": 40.0})
    del half_way[0]  # seed 1 lacks an order, on which the others are not compared
    assert [one.flaw for one in sanity(half_way, FACTS, NO_ANSWERS, pd.DataFrame())] == [
        Flaw.SEED_OUTLYING
    ]


@pytest.mark.parametrize("seeds", [4, 5, 10])
def test_an_outlying_seed_is_found_in_a_hundredth_of_normal_ones(seeds: int) -> None:
    rng = np.random.default_rng(0)
    least = np.array([outlying(rng.normal(size=seeds)).min() for _ in range(4000)])
    assert np.mean(least < 0.01) == pytest.approx(0.01, abs=0.006)
    assert np.mean(least < 0.05) == pytest.approx(0.05, abs=0.012)
    assert np.isnan(outlying(np.array([1.0, 1, 50]))).all()
    assert np.isnan(outlying(np.ones(5))).all()


def test_one_sentence_for_each_flaw_with_its_numbers() -> None:
    doubts = [
        Doubt(Flaw.BOUND_BELOW_SINGLE, "multitask", "{}", "a", 13.0, 24.3),
        Doubt(Flaw.ONE_ANSWER, "l2kd", '{"kd.temperature": 2}', "b", 99.6, 50.0),
        Doubt(Flaw.SEED_COLLAPSED, "lamol", "{}", "", 3.1, 41.0, seed="2"),
        *[Doubt(Flaw.LEARNT_NOTHING, "l2kd", "{}", str(n), 1.0, 1.0) for n in range(9)],
    ]
    words = list(doubt_words(doubts))
    assert [line.count("\n") for line in words] == [0] * 4
    assert "a (13.0 against 24.3)" in words[0]
    assert "l2kd (kd.temperature 2) on b (100 %)" in words[1]
    assert "and 3 more" in words[2]
    assert "lamol, seed 2 (3.1 against 41.0)" in words[3]


def test_every_flaw_has_its_words() -> None:
    for flaw in Flaw:
        assert list(doubt_words([Doubt(flaw, "l2kd", "{}", "a", 1.0, 2.0)]))
