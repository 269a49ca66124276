"""Metrics against hand-computed cases and against the reference implementations."""

# ruff: noqa: RUF001  (letters of other scripts that look like Latin ones)

from __future__ import annotations

import itertools
import os
import random
import re
import string
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.reading import read
from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.errors import InputError
from l2kd_ray.tasks import METRICS, Example, judge, score
from l2kd_ray.tasks.agreement import normal
from l2kd_ray.tasks.metrics import _plain_words, check_references, parse_state, unscorable
from l2kd_ray.tasks.porter import stem
from l2kd_ray.tasks.readers import squad
from l2kd_ray.tasks.rouge import rouge_average, rouge_l, rouge_n, words
from l2kd_ray.tasks.spec import Metric
from l2kd_ray.tasks.sql import Query, parse, render
from l2kd_ray.tasks.words import apart
from l2kd_ray.tasks.words import words as unicode_words


def examples(*answers: tuple[str, ...], group: str | None = None) -> list[Example]:
    return [Example(str(n), "c", "q", texts, group) for n, texts in enumerate(answers)]


def one(metric: Metric, prediction: str, *answers: str) -> float:
    aggregate, (single,) = score(metric, [prediction], examples(answers))
    assert aggregate == pytest.approx(single)
    return single


GOLD: dict[str, list[str]] = {
    "dsem": ["food: thai; phone", "None", "area: north, food: greek;"],
    "lfem": ["SELECT a FROM table WHERE b = 1"] * 3,
    "pearson": ["1.0", "-2", "3e-1"],
    "spearman": ["1.0", "-2", "3e-1"],
    "f1": ["yes", "no", "yes"],
    "span_f1": ["B-x E-x O", "O S-y", "O O"],
    "uas": ["2:a 0:b", "0:a", "0:a 1:b 2:b"],
    "las": ["2:a 0:b", "0:a", "0:a 1:b 2:b"],
    "las_udeprel": ["2:a:x 0:b", "0:a", "0:a 1:b 2:b"],
}
TEXTS = ["the blue moon serves thai food", "two words here now", "it is cheap and good"]


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_best_on_gold_and_aligned(metric: Metric) -> None:
    gold, best = GOLD.get(metric, TEXTS), 0 if metric == "slot_error" else 100
    aggregate, singles = score(metric, gold, examples(*((text,) for text in gold)))
    assert aggregate == pytest.approx(best)
    assert singles == pytest.approx([best] * 3)
    assert score(metric, [], []) == (0.0, [])
    with pytest.raises(ValueError, match="1 predictions for 0 examples"):
        score(metric, ["x"], [])


@pytest.mark.parametrize("metric", sorted(METRICS.keys() - {"dsem"}))
def test_the_aggregate_over_a_part_is_the_score_of_that_part(metric: Metric) -> None:
    gold = GOLD.get(metric, TEXTS)
    rows = examples(*((text, "and another one here") for text in gold))
    predictions = [gold[0], gold[1], "another text , one of no use here"]
    judged = judge(metric, predictions, rows)
    assert judged.over(range(3)) == score(metric, predictions, rows)[0]
    for part in ([1, 2], [2, 0], [0]):
        alone = score(metric, [predictions[i] for i in part], [rows[i] for i in part])
        assert judged.over(part) == pytest.approx(alone[0])


def test_exact_match_ignores_case_and_white_space_only() -> None:
    assert one("em", "CAFE\u0301", "caf\u00e9") == 100  # one text in two encodings
    assert one("em", " Very  Negative\n", "very negative") == 100
    assert one("em", "negative", "very negative", "negative") == 100
    assert one("em", "negative.", "negative") == 0
    assert one("em", "", "negative") == 0


def test_normalised_f1() -> None:
    assert one("nf1", "The cat, sat!", "a cat sat") == 100
    # Two of three words predicted, two of four wanted: 2 * 2 / (3 + 4).
    assert one("nf1", "cat sat down", "cat sat on mat") == pytest.approx(100 * 4 / 7)
    assert one("nf1", "dog", "cat", "the dog") == 100
    assert one("nf1", "", "the") == 100
    assert one("nf1", "", "cat") == 0
    assert one("nf1", "cat cat", "cat") == pytest.approx(100 * 2 / 3)


@pytest.mark.parametrize(
    ("prediction", "reference", "points"),
    [
        ("abcd", "abxd", 75),  # abd is common: 2 * 3 / (4 + 4)
        ("AB", "ab", 0),
        (" a = 1 ", "a = 1", 100),
        ("x = <NUM_LIT>", "x = 0", 100),
        ("x = <NUM_LIT:12>", "x = 10", 100 * 2 * 5 / 12),
        ('f("<STR_LIT>")', 'f("")', 100),
        ("'<STR_LIT:a\nb>' <CHAR_LIT:c>", "'a\nb' c", 100),
        ("<STR_LIT>", "<CHAR_LIT>", 100),  # nothing is left of both
        ("", "<STR_LIT:x>", 0),
        ("<OTHER_LIT>", "<OTHER_LIT:x>", 100 * 2 * 11 / 24),
    ],
)
def test_edit_similarity_reads_literals_as_codexglue_does(
    prediction: str, reference: str, points: float
) -> None:
    assert one("edit_similarity", prediction, reference) == pytest.approx(points)
    assert one("edit_similarity", reference, prediction) == pytest.approx(points)


# Words in any script -----------------------------------------------------------------------------

ASCII = st.text(st.characters(max_codepoint=127), max_size=60)


@settings(max_examples=300)
@given(ASCII)
def test_the_words_of_ascii_text_are_those_of_the_published_scripts(text: str) -> None:
    runs = re.findall(r"[a-z0-9]+", text.lower())  # rouge-score
    assert words(text) == [stem(word) if len(word) > 3 else word for word in runs]
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))  # SQuAD
    assert _plain_words(text) == re.sub(r"\b(a|an|the)\b", " ", bare).split()
    assert normal(text).split() == text.lower().split()
    assert apart(text) == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Второй ответ.", ["второй", "ответ"]),
        ("caf\u00e9, CAFE\u0301!", ["café", "café"]),  # composed or not
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs belong to their letters
        ("서울 역", ["서울", "역"]),
        ("العربية، ١٢", ["العربية", "١٢"]),
        ("東京駅は2階", ["東", "京", "駅", "は", "2", "階"]),
        ("ＡＢＣ１２", ["abc12"]),
        ("กินข้าว", ["กิ", "น", "ข้", "า", "ว"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("😊 ❤️ — …", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_of_any_script(text: str, wanted: list[str]) -> None:
    assert unicode_words(text) == wanted


@pytest.mark.parametrize("metric", ["rouge", "rouge_mean", "nf1", "bleu", "em"])
@pytest.mark.parametrize(
    ("gold", "near"),
    [
        ("это второй длинный ответ", "это третий длинный ответ"),
        ("我爱北京天安门", "我爱南京天安门"),
    ],
)
def test_other_scripts_are_scored(metric: Metric, gold: str, near: str) -> None:
    assert one(metric, gold, gold) == pytest.approx(100)
    assert one(metric, near, gold) == 0 if metric == "em" else 0 < one(metric, near, gold) < 100
    assert one("rouge", "caf", "café") == 0


def test_bleu_of_chinese_is_that_of_sacrebleus_chinese_tokenizer() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    gold, said = (
        ["我爱北京天安门，很大。", "今天 rains 3 次！"],
        ["我爱南京天安门，大。", "今天 rain 3 次"],
    )
    wanted = sacrebleu.corpus_bleu(said, [gold], tokenize="zh").score
    assert score("bleu", said, examples(*((text,) for text in gold)))[0] == pytest.approx(wanted)


def test_rouge_of_several_references_is_of_the_best_or_their_mean() -> None:
    assert one("rouge", "a b c", "a b c", "z") == 100
    assert one("rouge_mean", "a b c", "a b c", "z") == 50
    assert one("rouge_mean", "a b c", "a x c") == one("rouge", "a b c", "a x c")


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [
        ("rouge", "да", "😊 !"),
        ("nf1", "da", "The ..."),
        ("bleu", "!", " "),
        ("lfem", "SELECT a FROM table", "a"),
        ("dsem", "None", "thai food"),
        ("span_f1", "O B-x", "thai food"),
        ("las", "0:root 1:x", "thai food"),
        ("uas", "0 1", "thai food"),
        ("pearson", "-1e3", "four"),
    ],
)
def test_references_that_leave_nothing_to_compare_are_counted(
    metric: Metric, good: str, bad: str
) -> None:
    found = unscorable(metric, examples((good,), (bad,), (bad, good)))
    assert ([each.id for each in found.examples], found.needs != "") == (["1"], True)
    with pytest.raises(InputError, match="can compare with no reference of this split"):
        check_references(metric, examples((bad,), (bad, bad)), where="study", key="tasks.a.test")
    check_references(metric, examples((good,), (bad,)), where="study", key="tasks.a.test")
    assert unscorable("em", examples((bad,))).examples == ()


def test_a_mean_over_references_needs_words_in_all_of_them() -> None:
    rows = examples(("one", "!"), ("one", "two"))
    assert [each.id for each in unscorable("rouge_mean", rows).examples] == ["0"]


def test_words_of_three_letters_are_not_stemmed() -> None:
    assert (stem("was"), stem("bees")) == ("wa", "bee")
    assert words("Was bees") == ["was", "bee"]


def test_rouge_by_hand() -> None:
    # Unigrams 2 of 3 and 3; bigrams 0 of 2 and 2; longest common subsequence "a c" 2 of 3 and 3.
    assert one("rouge", "a b c", "a x c") == pytest.approx(100 * (2 / 3 + 0 + 2 / 3) / 3)
    assert one("rouge", "a b c", "z", "a b c") == 100
    assert one("rouge", "", "a") == 0
    assert words("Serving the CITIES , don't!") == ["serv", "the", "citi", "don", "t"]


def test_stems_agree_with_the_oracle() -> None:
    porter = pytest.importorskip("nltk.stem.porter").PorterStemmer()
    rng = random.Random(0)
    ends = re.findall(
        "[a-z]+",
        "s ss es ies sses ied ed eed ing at bl iz y ational tional enci anci izer bli alli entli"
        " eli ousli ization ation ator alism iveness fulness ousness aliti iviti biliti fulli logi"
        " icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion"
        " ou ism ate iti ous ive ize e l ll tt zz ly ying",
    )
    made = [
        "".join(rng.choice("aeiouybcdlmnprstvwxz") for _ in range(rng.randint(0, 6)))
        + "".join(rng.choices(ends, k=rng.randint(0, 2)))
        for _ in range(4_000)
    ]
    known = "sky skies dying lying tying news innings outing cannings howe proceed exceed succeed"
    for word in [*made, *known.split(), "relational", "hopping", "falling", "generalizations"]:
        if word:
            assert stem(word) == porter.stem(word), word


Pairs = list[tuple[str, str]]


def assert_rouge_is_the_oracles(pairs: Pairs) -> None:
    """Each F of each pair, and their mean."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(
        ["rouge1", "rouge2", "rougeL"], use_stemmer=True
    )
    for prediction, reference in pairs:
        parts = scorer.score(reference, prediction)
        wanted = [parts[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")]
        texts = words(prediction), words(reference)
        found = [rouge_n(*texts, 1), rouge_n(*texts, 2), rouge_l(*texts)]
        assert found == pytest.approx(wanted, rel=0, abs=1e-9), (prediction, reference)
        assert rouge_average(prediction, reference) == pytest.approx(sum(wanted) / 3, abs=1e-9)


def test_rouge_of_the_summary_level_is_the_oracles() -> None:
    """The package takes a sentence a line."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(
        ["rouge1", "rouge2", "rougeLsum"], use_stemmer=True
    )
    rng = random.Random(2)
    vocabulary = ["the", "blue", "moon", "serving", "served", "is", "is", ".", ".", "Thai", "3.5"]
    for n, m in itertools.product(range(0, 25, 3), repeat=2):
        said, gold = (" ".join(rng.choices(vocabulary, k=k)) for k in (n, m))
        parts = scorer.score(gold.replace(".", "\n"), said.replace(".", "\n"))
        wanted = sum(part.fmeasure for part in parts.values()) / 3
        assert rouge_average(said, gold, summary=True) == pytest.approx(wanted, abs=1e-9)
    two = ["the moon is blue . it serves food", "it serves food . the moon is blue"]
    assert one("rouge_lsum", *two) > one("rouge", *two)
    assert one("rouge_lsum_mean", two[0], *two) < one("rouge_lsum", two[0], *two) == 100


def test_rouge_agrees_with_the_oracle_on_made_text() -> None:
    rng = random.Random(1)
    text = "the blue-moon serving served cities City's running 42 $20 e_1 thai, is is is"
    vocabulary = text.split(" ")
    assert_rouge_is_the_oracles(
        [
            (" ".join(rng.choices(vocabulary, k=n)), " ".join(rng.choices(vocabulary, k=m)))
            for n in range(12)
            for m in range(12)
            for _ in range(3)
        ]
    )


@pytest.mark.skipif("L2KD_DATA" not in os.environ, reason="L2KD_DATA names no real data")
@pytest.mark.parametrize("task", ["e2enlg", "rnnlg.rest", "rnnlg.hotel"])
def test_rouge_agrees_with_the_oracle_on_real_pairs(task: str) -> None:
    path = Path(os.environ["L2KD_DATA"]) / "l2kd" / f"{task}_to_squad-test-v2.0.json"
    answers = [example.answers for example in read(squad.read, str(path), {})]
    # A reference against that of another input, and against its own other.
    pairs = [(a[0], b[-1]) for a, b in pairwise(answers[:501])]
    pairs += [(a[0], a[1]) for a in answers[:500] if len(a) > 1]
    assert len(pairs) == (500 if task == "e2enlg" else 1000)
    assert_rouge_is_the_oracles(pairs)


def test_bleu_is_sacrebleus_corpus_bleu_with_any_number_of_references() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    gold = examples(("the cat sat on the mat", "a cat was on the mat"), ("there is a dog here",))
    predictions = ["the cat was on the mat", "there is a dog"]
    aggregate, singles = score("bleu", predictions, gold)
    streams = [
        ["the cat sat on the mat", "there is a dog here"],
        ["a cat was on the mat", None],
    ]
    assert aggregate == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score)
    assert 0 < singles[0] < 100
    assert 0 < singles[1] < 100


# Dialogue states --------------------------------------------------------------------------------


def test_sari_has_the_values_published_with_evaluates() -> None:
    """Those of its card, with the operations' parts, and of two texts in its discussion."""
    texts = {
        "About 95 species are currently accepted.": "About 95 you now get in.",
        "The cat perched on the mat.": "Cat on mat.",
    }
    references = [
        ("About 95 species are currently known.", "About 95 species are now accepted.",
         "95 species are now accepted."),
        ("The cat sat on the mat.", "The cat is on the mat.", "The cat sat."),
    ]  # fmt: skip
    rows = [
        Example(source, source, "", gold) for source, gold in zip(texts, references, strict=True)
    ]
    found, each = score("sari", [*texts.values()], rows)
    assert each[0] == pytest.approx(26.953601953601954)
    assert each[0] == pytest.approx((22.527472527472526 + 50 + 8.333333333333332) / 3)
    assert found == pytest.approx(29.13266517433184)


def test_state_is_read_as_decanlp_reads_it() -> None:
    assert parse_state("food: Thai, price range: cheap; phone, address") == {
        "food": "thai",
        "price range": "cheap",
    }
    for text in ("None", "", ";", "; phone", "food: thai", "food: a; b; c", "food thai;", "a:b:c;"):
        assert parse_state(text) == {}, text


def test_joint_goal_accuracy_accumulates_over_the_dialogue() -> None:
    gold = [
        Example("0", "", "", ("food: thai;",), "d"),
        Example("1", "", "", ("; phone",), "d"),
        Example("2", "", "", ("food: greek, area: north;",), "d"),
        Example("3", "", "", ("None",), "e"),
        Example("4", "", "", ("area: north;",), None),
        Example("5", "", "", ("None",), None),
    ]
    predictions = [
        "food: indian;",  # wrong
        "; address",  # still wrong: the state holds indian; requests do not count
        "area: north, food: greek;",  # overwritten, hence right
        "; phone",  # another dialogue, nothing informed
        "area: south;",  # a dialogue of its own
        "None",
    ]
    assert score("dsem", predictions, gold) == (
        pytest.approx(100 * 3 / 6),
        [0, 0, 100, 100, 0, 100],
    )


def test_a_part_of_a_dialogue_is_scored_by_its_whole_state() -> None:
    gold = [Example("0", "", "", ("food: thai;",), "d"), Example("1", "", "", ("None",), "d")]
    assert judge("dsem", ["None", "None"], gold).over([1]) == 0
    assert judge("dsem", ["food: thai;", "None"], gold).over([1]) == 100


# Logical forms ----------------------------------------------------------------------------------


def test_sql_is_compared_as_a_logical_form() -> None:
    gold = "SELECT COUNT a b FROM table WHERE c = x and y AND d > 3"
    assert one("lfem", "select count A B from table where d > 3 and c = x and y", gold) == 100
    for wrong in (
        "select a b from table where c = x and y and d > 3",
        "select count a b from table where c = x and y",
        "select count a b from table where c = x and y and d < 3",
        "select count a b from table",
        "count a b",
        "",
    ):
        assert one("lfem", wrong, gold) == 0, wrong
    # What cannot be parsed is wrong, even where the gold answer cannot be parsed either.
    assert one("lfem", "DROP table", "DROP table") == 0
    assert parse("select a from table where b") is None
    assert parse("SELECT max speed FROM table") == Query("speed", "max", frozenset())


@pytest.mark.parametrize("count", range(1, 9))
def test_every_condition_of_a_query_counts(count: int) -> None:
    where = [(f"column {k}", "=", f"{k}") for k in range(count)]
    gold = render("a", "", where)
    assert one("lfem", render("a", "", reversed(where)), gold) == 100
    for k in range(count):
        changed = [*where[:k], (f"column {k}", "=", "other"), *where[k + 1 :]]
        assert one("lfem", render("a", "", changed), gold) == 0
        assert one("lfem", render("a", "", [*where[:k], *where[k + 1 :]]), gold) == 0


names = st.text("abcdefg", min_size=1, max_size=4)
values = st.lists(st.text("xyz09", min_size=1, max_size=4), min_size=1, max_size=3).map(
    " and ".join
)
conditions = st.lists(st.tuples(names, st.sampled_from("=<>"), values), max_size=4)


@settings(max_examples=100)
@given(column=names, aggregate=st.sampled_from(["", "MAX", "AVG"]), where=conditions)
def test_what_is_rendered_is_parsed(
    column: str, aggregate: str, where: list[tuple[str, str, str]]
) -> None:
    expected = Query(column, aggregate.lower(), frozenset(where))
    assert parse(render(column, aggregate, where)) == expected
