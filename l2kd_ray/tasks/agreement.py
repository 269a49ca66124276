"""Agreement of the predicted labels or numbers of a whole split with the gold ones.

| score | definition |
|---|---|
| f1 | F of precision and recall of the positive class (GLUE's F1 of MRPC and QQP) |
| mcc | Matthews correlation; for several classes R_K (Gorodkin 2004; CoLA's score) |
| pearson, spearman | correlation of the numbers, or of their ranks (STS-B's scores) |

Correlations are in points, -100 to 100. An undefined one (one side is constant) counts as 0.
"""

from __future__ import annotations

import math
import operator
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from l2kd_ray.tasks.labelled import number

# GLUE's F1 is that of the positive class, which labels given as text do not mark.
_DENIALS = frozenset({"0", "no", "false", "negative"})


def normal(text: str) -> str:
    """A text without differences of case and white space, in Unicode's form NFC."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(text.lower().split())


def asserts(label: str) -> bool:
    """True if a label says that something is the case: not `no`, `not equivalent` and the like."""
    return label not in _DENIALS and not label.startswith(("not ", "not_", "non-"))


def positive_class(given: Iterable[str]) -> str | None:
    """The one of at most two labels that asserts something; "" if none of them does.

    None if the labels do not tell which it is.
    """
    labels = {normal(label) for label in given}
    positive = [label for label in labels if asserts(label)]
    if len(labels) > 2 or len(positive) > 1 or len(labels) > len(positive) + 1:
        return None
    return positive[0] if positive else ""


def f1(predicted: Sequence[str], given: Sequence[str], positive: str) -> float:
    """F1 of the label `positive`, 0 to 100: 100 * 2 TP / (2 TP + FP + FN); 0 where it is absent."""
    wanted = normal(positive)
    ours, theirs = ([normal(label) == wanted for label in side] for side in (predicted, given))
    total = sum(ours) + sum(theirs)
    return 200 * sum(map(operator.and_, ours, theirs)) / total if total else 0.0


def mcc(predicted: Sequence[str], given: Sequence[str]) -> float:
    """Matthews correlation: 100 (c s - sum_k p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)).

    s examples, c of them right; p_k predictions and t_k gold labels of class k.
    """
    ours, theirs = list(map(normal, predicted)), list(map(normal, given))
    size, right = len(ours), sum(map(str.__eq__, ours, theirs))
    p, t = Counter(ours), Counter(theirs)
    spread = math.sqrt(
        (size**2 - sum(n**2 for n in p.values())) * (size**2 - sum(n**2 for n in t.values()))
    )
    return 100 * (right * size - sum(p[k] * t[k] for k in t)) / spread if spread else 0.0


def correlation(
    predicted: Sequence[str], given: Sequence[str], kind: Literal["pearson", "spearman"]
) -> float:
    """100 * Pearson's r or Spearman's rho; a text that is not a number counts as 0."""
    from scipy import stats

    ours, theirs = numbers(predicted), numbers(given)
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return 0.0
    measure = stats.pearsonr if kind == "pearson" else stats.spearmanr
    return 100 * float(measure(ours, theirs).statistic)


def closeness(predicted: Sequence[str], given: Sequence[str]) -> list[float]:
    """Score per example: 100 minus the error in percent of the gold numbers' range, at least 0.

    A text that is not a number scores 0.
    """
    theirs = numbers(given)
    spread = (max(theirs) - min(theirs) if theirs else 0.0) or 1.0
    pairs = zip(map(number, predicted), theirs, strict=True)
    return [
        0.0 if one is None else 100 * max(0.0, 1 - abs(one - other) / spread)
        for one, other in pairs
    ]


def numbers(texts: Sequence[str]) -> list[float]:
    return [number(text) or 0.0 for text in texts]
