"""What analysis returns as values, a report says in words."""

from __future__ import annotations

import pytest

from l2kd_ray.analysis import Advice, Caveat, NoInterval, Note, OrderPopulation, Reach, Undefined
from l2kd_ray.report.sentences import CAVEATS, NO_INTERVAL, UNDEFINED, advice_words, note_words

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
            "on them; a planned look, level 98.88 %: all looks together hold at 95 %",
            "drawn at random: holds for all 120; 1 left out, as a trial failed on them; a planned "
            "look, level 98.88 %: all looks together hold at 95 %",
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


def test_every_reason_has_its_words() -> None:
    assert set(UNDEFINED) == set(Undefined)
    assert set(NO_INTERVAL) == set(NoInterval)
    assert set(CAVEATS) == set(Caveat)


def test_a_note_is_a_plain_value_in_a_csv_file() -> None:
    assert str(Note()) == ""
    assert str(Note(reach=SAMPLE, left_out=1)) == "reach=random:24/120; left_out=1"
    assert str(Caveat.PROVISIONAL) == "provisional"


def test_advice_names_what_narrows_the_interval_more() -> None:
    orders = Advice(now=2.0, more_orders=1.0, more_seeds=1.5, orders=2)
    assert advice_words(orders) == (
        "More orders: for the cost of one more seed, about 1.5 points either side with the seed, 1 "
        "with 2 more orders (now 2)."
    )
    assert advice_words(Advice(2.0, 1.7, 1.5, 1)).startswith("More seeds: for the cost")
    finished = advice_words(Advice(2.0, float("nan"), 1.5, 0))
    assert finished.startswith("More seeds: every order of the study has run")
    assert finished.endswith("(one more: about 1.5 points either side; now 2).")
