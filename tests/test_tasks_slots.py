"""Slot errors: by hand, by construction, and on texts that are known to be right."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.tasks import Example, judge, score
from l2kd_ray.tasks.grammars import grammars
from l2kd_ray.tasks.slots import SlotErrors, parse, plain

INFORM = "inform(name='blue moon';food=thai;area='hayes valley')"
E2E = "name[The Mill], eatType[pub], priceRange[less than £20], near[Café Rouge]"


def test_both_forms_of_an_act_are_parsed() -> None:
    assert parse(INFORM) == [("name", "blue moon"), ("food", "thai"), ("area", "hayes valley")]
    assert parse("?select(near=castro;near=dont_care;x='a=b')") == [
        ("near", "castro"),
        ("near", "dont_care"),
        ("x", "a=b"),
    ]
    assert parse("goodbye()") == []
    assert parse("?request(area)") == [("area", "")]
    assert parse(E2E) == [
        ("name", "The Mill"),
        ("eattype", "pub"),
        ("pricerange", "less than £20"),
        ("near", "Café Rouge"),
    ]
    assert parse("no act, but text") == []


def test_words_are_compared_without_case_accents_articles_endings_and_punctuation() -> None:
    assert plain("The CAFÉ , restaurants!") == plain("a cafe restaurant")
    assert plain("かき") != plain("かぎ")
    assert parse("inform(food=борщ)") == [("food", "борщ")]
    assert SlotErrors(["inform(food=борщ)"]).count("inform(food=борщ)", "суп") == (1, 1)
    assert plain("a+") != plain("a++")
    assert plain("12 Main St .") == plain("12 main street")


@pytest.mark.parametrize(
    ("context", "text", "errors", "slots"),
    [
        (INFORM, "Blue Moon serves Thai food in Hayes Valley.", 0, 3),
        (INFORM, "", 3, 3),
        (INFORM, "the blue moon serves thai food", 1, 3),
        (INFORM, "thai food in hayes valley at the blue moon , blue moon", 1, 3),  # said twice
        (INFORM, "blue moon , hayes valley : greek food", 2, 3),  # one missing, one redundant
        (INFORM, "blue sky , thai , hayes valley : the moon", 1, 3),  # values are whole
        ("inform(name='thai house';food=thai)", "thai house serves food", 1, 2),
        ("inform(name='thai house';food=thai)", "thai house serves thai food", 0, 2),
        # Parts of a choice are slots each.
        ("inform(area='noe valley or castro')", "in castro and in noe valley", 0, 2),
        ("inform(area='noe valley or castro')", "in castro", 1, 2),
        # What the set is about, and special values, need not be said; a keyword speaks for some.
        ("inform_count(type=restaurant;count='3';food=dont_care)", "there are 3 places", 0, 1),
        ("inform(name='blue moon';phone=none)", "blue moon has no phone number", 0, 1),
        ("inform(kidsallowed=no)", "children are not allowed", 0, 1),
        ("inform(kidsallowed='yes')", "kids are allowed , dogs are not", 1, 1),
        ("inform(dogsallowed=dont_care)", "there are three", 1, 1),
        ("goodbye()", "good bye", 0, 0),
        ("goodbye()", "good bye , greek dogs !", 2, 0),
        # A question for a slot may offer its values, and not those of another.
        ("?request(food)", "would you like greek or thai food ?", 0, 0),
        ("?select(food=thai;food=dont_care)", "thai or greek , or do you not care ?", 0, 1),
        ("?request(area)", "would you like greek food ?", 1, 0),
        # A name of one word may be any word; those of the act are found.
        ("inform(food=thai)", "thai is in the price range", 0, 1),
        ("inform(name=range)", "the range , the range", 1, 1),
        (E2E, "The mill is a pub near Cafe Rouge for less than £20.", 0, 4),
        (E2E, "The Mill, near Café Rouge, is a cheap pub.", 1, 4),
        (E2E, "The Mill is a family pub near Café Rouge: less than 20.", 1, 4),
    ],
)
def test_slot_errors_by_hand(context: str, text: str, errors: int, slots: int) -> None:
    others = {E2E: ["familyFriendly[yes]"]}  # of the same set
    known = others.get(context, [INFORM, "inform(food=greek;dogsallowed=yes;name=range)"])
    counter = SlotErrors([*known, context])
    assert counter.count(context, text) == (errors, slots)


def test_counting_one_text_leaves_no_trace_in_the_next() -> None:
    counter = SlotErrors(["inform(name=range)", "inform(food=thai)"])
    assert counter.count("inform(name=range)", "the range , the range") == (1, 1)
    assert counter.count("inform(food=thai)", "thai is in the price range") == (0, 1)


@pytest.mark.parametrize("name", ["gen.rest", "gen.hotel", "gen.tv"])
def test_generated_texts_say_what_their_acts_ask(name: str) -> None:
    items = [item[0] for kind in grammars()[name].items() for item in kind]
    rows = [Example(str(n), context, "", (text,)) for n, (context, _, text) in enumerate(items)]
    assert score("slot_error", [text for _, _, text in items], rows)[0] == 0
    assert score("slot_error", [""] * len(rows), rows)[0] == 100
    # Another act's text: each slot that differs is one missing and one redundant, at most.
    swapped = [text for _, _, text in items[1:] + items[:1]]
    assert 0 < score("slot_error", swapped, rows)[0] <= 200


def test_the_rate_is_of_the_corpus_and_an_act_of_no_slots_counts_as_one_alone() -> None:
    rows = [Example("0", INFORM, "", ("x",)), Example("1", "goodbye()", "", ("bye",))]
    aggregate, each = score("slot_error", ["thai food at blue moon", "thai"], rows)
    assert each == pytest.approx([100 / 3, 100])
    assert aggregate == pytest.approx(100 * 2 / 3)


def test_a_part_is_scored_with_the_values_of_all_inputs() -> None:
    acts = ["inform(food=thai)", "inform(food=greek)"]
    rows = [Example(str(n), act, "", ("x",)) for n, act in enumerate(acts)]
    judged = judge("slot_error", ["greek food", "greek food"], rows)
    assert judged.each == [200, 0]  # thai is missing, greek redundant
    assert judged.over([0]) == 200
    assert judged.over([0, 1]) == 100


WORDS = st.text("bcdfghjkmz", min_size=2, max_size=3)  # no two of one stem, no article
VALUES = st.lists(st.lists(WORDS, min_size=2, max_size=3).map(tuple), min_size=4, unique=True)


@settings(max_examples=100)
@given(values=VALUES, rng=st.randoms(use_true_random=False))
def test_errors_are_the_values_left_out_repeated_and_added(
    values: list[tuple[str, ...]], rng: Random
) -> None:
    half = len(values) // 2
    act = "inform(" + ";".join(f"s{n}='{' '.join(v)}'" for n, v in enumerate(values[:half])) + ")"
    other = "inform(" + ";".join(f"o{n}='{' '.join(v)}'" for n, v in enumerate(values[half:])) + ")"
    kept, added = rng.randint(0, half), rng.randint(0, len(values) - half)
    repeated = rng.randint(0, kept)
    said = values[:kept] + values[:repeated] + values[half : half + added]
    rng.shuffle(said)
    text = " , also , ".join(" ".join(value) for value in said)
    counter = SlotErrors([act, other])
    assert counter.count(act, text) == (half - kept + repeated + added, half)
