"""What analysis returns as values, a report says in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from l2kd_ray.analysis import (
    Advice,
    Caveat,
    NoInterval,
    Note,
    OrderPopulation,
    Outcome,
    Reach,
    Undefined,
    Verdict,
)
from l2kd_ray.analysis.estimate import Estimate
from l2kd_ray.analysis.looks import Look
from l2kd_ray.report.sentences import (
    CAVEATS,
    NO_INTERVAL,
    UNDEFINED,
    advice_words,
    apart_words,
    flip_words,
    note_words,
    verdict_words,
)

SAMPLE = Reach(OrderPopulation.RANDOM, 24, 120)


@pytest.mark.parametrize(
    ("note", "words", "beside_counts"),
    [
        (Note(), "", ""),
        (Note(reach=Reach(OrderPopulation.ALL, 6, 6)), "all 6 orders", ""),
        (Note(reach=Reach(OrderPopulation.ALL, 1, 1)), "the one order that there is", ""),
        (Note(reach=Reach(OrderPopulation.NONE, 1, 1)), "seeds alone, as there is no order", ""),
        (
            Note(reach=Reach(OrderPopulation.LISTED, 2, 6)),
            "2 of 6 orders: holds for these only",
            "holds for these only",
        ),
        (
            Note(reach=SAMPLE, left_out=1, look=0.98875),
            "24 of 120 orders, drawn at random: holds for all 120; 1 left out, as a trial failed "
            "or has no score on them; a planned look, level 98.88 %: all looks together hold at "
            "95 %",
            "drawn at random: holds for all 120; 1 left out, as a trial failed or has no score "
            "on them; a planned look, level 98.88 %: all looks together hold at 95 %",
        ),
        (
            Note(no_interval=NoInterval.ONE_SEED, first_look=8),
            "one seed: no interval; no interval before the first planned look, at 8 orders",
            "no interval; no interval before the first planned look, at 8 orders",
        ),
        (
            Note(Undefined.BASELINE_UNBOUNDED, no_interval=NoInterval.ONE_SEED),
            "undefined, as lamol has no interval (one seed: no interval)",
            "undefined, as lamol has no interval (no interval)",
        ),
        (
            Note(descriptive=(9, 360)),
            *2 * ("descriptive: 9 of 360 trials, no order is finished for all methods and seeds",),
        ),
    ],
)
def test_a_note_in_words(note: Note, words: str, beside_counts: str) -> None:
    assert note_words(note) == words
    assert note_words(note, counted=True) == beside_counts
    assert bool(note) == bool(words)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Undefined.NO_COMPLETE_TRIAL, "no trial is complete with its multi-task score"),
        (Undefined.NO_SHARED_INSTANCE, "no complete instance is shared with lamol"),
        (Undefined.BASELINE_ABOVE_BOUND, "undefined, as lamol ends above multi-task"),
        (Undefined.BASELINE_MAY_BE_ZERO, "undefined, as the interval of lamol's own gap holds 0"),
        (NoInterval.ONE_ORDER, "no interval, as one order shows no spread over orders"),
        (
            NoInterval.SEEDS_DIFFER,
            "unfinished: the seeds have run different orders, no interval",
        ),
    ],
)
def test_a_reason_in_words(reason: Undefined | NoInterval, words: str) -> None:
    undefined = isinstance(reason, Undefined)
    note = Note(undefined=reason) if undefined else Note(no_interval=reason)
    assert note_words(note) == words


LOOK = Look(8, 0.99, Estimate(1.0, 0.0, 2.0))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict(Outcome.REACHED, "l2kd", "gap/abs", 1.5, 8, 24, 3, LOOK), "at most 1.5"),
        (Verdict(Outcome.OPEN, "l2kd", "gap/abs", 0.5, 8, 24, 3, LOOK, 0.4), "above 0.5; all"),
        (
            Verdict(Outcome.NO_ORDER_LEFT, "l2kd", "gap/abs", 0.5, 8, 8, 3, LOOK, seeds_needed=7),
            "above 0.5, and no planned order is left; about 7 seeds would do",
        ),
        (
            Verdict(Outcome.NO_ORDER_LEFT, "l2kd", "gap/abs", 0.5, 8, 8, 3, LOOK, seeds_needed=3),
            "above 0.5, and no planned order is left; add seeds",
        ),
        (
            Verdict(Outcome.OUT_OF_REACH, "l2kd", "gap/abs", 0.5, 8, 24, 3, LOOK, 0.8, 0.7),
            "0.5 is out of reach with 3 seeds: all 24 orders would leave about 0.8",
        ),
    ],
)
def test_a_verdict_in_words(verdict: Verdict, words: str) -> None:
    said = verdict_words(verdict)
    assert said.startswith("gap/abs of l2kd: half-width 1 after 8 of ")
    assert words in said


def test_a_verdict_before_the_first_look() -> None:
    early = verdict_words(Verdict(Outcome.EARLY, "l2kd", "gap/abs", 0.5, 2, 24, 3))
    assert early.startswith("gap/abs of l2kd: 2 of the ")
    assert early.endswith("orders of the first look are finished")
    alone = verdict_words(Verdict(Outcome.ONE_SEED, "l2kd", "gap/abs", 0.5, 2, 24, 1))
    assert "one seed has no interval, so half_width 0.5 is never reached" in alone


def test_every_reason_has_its_words() -> None:
    assert set(UNDEFINED) == set(Undefined)
    assert set(NO_INTERVAL) == set(NoInterval)
    assert set(CAVEATS) == set(Caveat)


def test_a_note_is_a_plain_value_in_a_csv_file() -> None:
    assert str(Note()) == ""
    assert str(Note(reach=SAMPLE, left_out=1)) == "reach=random:24/120; left_out=1"
    assert str(Caveat.PROVISIONAL) == "provisional"


def test_advice_names_what_narrows_the_interval_more() -> None:
    orders = Advice(2.0, 1.0, 1.5, 2, seed_trials=13, order_trials=12, seeds=6)
    assert advice_words(orders) == (
        "More orders: about 1.5 points either side with one more seed (13 trials), 1 with 2 more "
        "orders (12 trials; now 2)."
    )
    few = Advice(2.0, 1.7, 1.5, 1, seed_trials=4, order_trials=5, seeds=5)
    assert advice_words(few) == (
        "More seeds: about 1.5 points either side with one more seed (4 trials), 1.7 with 1 more "
        "order (5 trials; now 2)."
    )
    assert advice_words(replace(orders, seeds=2)).startswith("A third seed: with two, the spread")
    finished = advice_words(Advice(2.0, float("nan"), 1.5, 0, 7, 0, 3))
    assert finished.startswith("More seeds: every order of the study has run")
    assert finished.endswith("(one more: about 1.5 points either side; now 2).")


def test_what_is_left_after_failures_is_no_sample_of_all() -> None:
    left = Note(reach=Reach(OrderPopulation.UNFAILED, 4, 6), left_out=2)
    assert note_words(left).startswith("4 of 6 orders: holds for the orders that did not fail; 2 ")
    assert "holds for all" not in note_words(left)


def test_one_order_of_many_is_said_to_hold_for_no_other() -> None:
    alone = Note(reach=Reach(OrderPopulation.RANDOM, 1, 6), no_interval=NoInterval.ONE_ORDER)
    assert note_words(alone) == (
        "1 of 6 orders; no interval, as one order shows no spread over orders"
    )
    assert "holds" not in note_words(alone, counted=True)


def test_the_price_of_a_stop_rule_is_said() -> None:
    end = Verdict(Outcome.NO_ORDER_LEFT, "l2kd", "gap/abs", 0.5, 24, 24, 3, LOOK)
    assert end.price == pytest.approx(6.554 / 4.303, rel=0.001)  # t(2) at 1 - 0.0225 / 2 and 0.975
    assert verdict_words(end).endswith("the looks before have made it 1.5 times as wide")
    alone = Verdict(Outcome.NO_ORDER_LEFT, "l2kd", "gap/abs", 0.5, 6, 6, 3, LOOK)
    assert alone.price == 1
    assert "wide" not in verdict_words(alone).split("half-width 1 ")[1]


def test_a_comparison_without_a_decision_says_what_it_excludes() -> None:
    assert apart_words(2.1, 3.94) == (
        "no difference is established; one of 2.1 points would have been found with 80 % power, "
        "and one of more than 3.9 either way is excluded"
    )
    assert "11 seeds are the fewest" in flip_words(5, 28, 11)
    assert "orders that ran alone" in flip_words(8, 28, float("nan"))
