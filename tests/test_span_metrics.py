"""Span F1 against a naive conlleval, attachment scores against counting by hand."""

from __future__ import annotations

import random

import pytest
from seqeval.metrics import f1_score

from l2kd_ray.tasks import Example, score
from l2kd_ray.tasks.spec import Metric

TAGS = ["O", *(f"{part}-{kind}" for part in "BIES" for kind in "xy")]


def rows(*answers: str) -> list[Example]:
    return [Example(str(n), "", "", (answer,)) for n, answer in enumerate(answers)]


def points(metric: Metric, prediction: str, gold: str) -> float:
    return score(metric, [prediction], rows(gold))[0]


# conlleval (Tjong Kim Sang) as a table of which pairs of tags end and begin a chunk, with BIOES as
# in its successors; written with no regard to `labels.spans`.


def ends(before: str, after: str) -> bool:
    if before[0] == "O":
        return False
    return before[0] in "ES" or after[0] in "BSO" or before[2:] != after[2:]


def begins(before: str, after: str) -> bool:
    if after[0] == "O":
        return False
    return after[0] in "BS" or before[0] in "ESO" or before[2:] != after[2:]


def chunks(tags: list[str]) -> set[tuple[int, int, str]]:
    found, start, padded = set(), 0, ["O", *tags, "O"]
    for place in range(1, len(padded)):
        if ends(padded[place - 1], padded[place]):
            found.add((start, place - 1, padded[place - 1][2:]))
        if begins(padded[place - 1], padded[place]):
            start = place
    return found


def conlleval(predicted: list[list[str]], gold: list[list[str]]) -> float:
    pairs = [(chunks(p), chunks(g)) for p, g in zip(predicted, gold, strict=True)]
    right = sum(len(p & g) for p, g in pairs)
    precision = right / max(1, sum(len(p) for p, _ in pairs))
    recall = right / max(1, sum(len(g) for _, g in pairs))
    return 200 * precision * recall / (precision + recall) if right else 0.0


def drawn(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Any tags, legal or not; predictions resemble the gold."""
    rng = random.Random(seed)
    gold = [rng.choices(TAGS, [6, *[1] * 8], k=rng.randint(1, 8)) for _ in range(6)]
    noisy = [[tag if rng.random() < 0.7 else rng.choice(TAGS) for tag in row] for row in gold]
    return noisy, gold


@pytest.mark.parametrize("seed", range(60))
def test_span_f1_is_conllevals(seed: int) -> None:
    predicted, gold = drawn(seed)
    texts = [" ".join(row) for row in predicted]
    aggregate, each = score("span_f1", texts, rows(*(" ".join(row) for row in gold)))
    assert aggregate == pytest.approx(conlleval(predicted, gold))
    for value, one, other in zip(each, predicted, gold, strict=True):
        if chunks(one) or chunks(other):
            assert value == pytest.approx(conlleval([one], [other]))
        else:
            assert value == 100


@pytest.mark.parametrize("seed", range(20))
def test_span_f1_agrees_with_seqeval(seed: int) -> None:
    predicted, gold = drawn(seed)
    texts = [" ".join(row) for row in predicted]
    aggregate, _ = score("span_f1", texts, rows(*(" ".join(row) for row in gold)))
    assert aggregate == pytest.approx(100 * f1_score(gold, predicted))


def test_span_f1_of_schemes_is_one() -> None:
    assert points("span_f1", "B-x I-x O B-y", "B-x E-x O S-y") == 100


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("B-x E-x O S-y", 100),
        ("B-x E-x", 200 * 1 / 3),  # too short: one of two found
        ("B-x E-x O S-y S-y", 200 * 2 / 5),  # too long: one too many
        ("B-y E-y O S-y", 50),
        ("", 0),
        ("what is this", 0),
        ("  ", 0),
        ("B-x  E-x O", 0),  # an empty label is a word's, and tears the span apart
    ],
)
def test_malformed_predictions_are_wrong(prediction: str, right: float) -> None:
    assert points("span_f1", prediction, "B-x E-x O S-y") == pytest.approx(right)


def test_attachment_by_hand() -> None:
    gold = rows("2:nsubj 0:root 2:obj:x", "0:root")
    predictions = ["2:nsubj 0:root 1:obj:x", "0:dep"]
    assert score("uas", predictions, gold) == (75.0, [pytest.approx(200 / 3), 100.0])
    assert score("las", predictions, gold) == (50.0, [pytest.approx(200 / 3), 0.0])
    assert points("las", "2:nsubj 0:root 2:obj", "2:nsubj 0:root 2:obj:x") == pytest.approx(200 / 3)


def test_las_without_subtypes_reads_a_relation_up_to_its_colon() -> None:
    """As the script of CoNLL 2018 does."""
    gold = "2:nsubj:pass 0:root 2:obl:agent 2:punct"
    predicted = "2:nsubj 0:root:x 2:obl 1:punct"
    assert points("las_udeprel", predicted, gold) == 75
    assert points("las", predicted, gold) == 0
    assert points("las_udeprel", "2 0:root 2:obj 2:punct", gold) == 50


@pytest.mark.parametrize("prediction", ["", "x", "nsubj", ":", "02:nsubj", "2", "0:root 2:nsubj"])
def test_malformed_parses_are_wrong(prediction: str) -> None:
    assert points("las", prediction, "2:nsubj 0:root") == 0


def test_words_beyond_the_sentence_are_not_read() -> None:
    assert points("las", "0:root 1:obj", "0:root") == 100
