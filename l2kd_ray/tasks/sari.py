"""SARI of a rewritten text against its source and its references (Xu et al., TACL 2016).

As in Hugging Face's `evaluate`: 0 / 0 is 1, and the recall of kept n-grams is over the sum of what
the references keep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import Any

from l2kd_ray.tasks.words import apart, folded

Grams = Counter[tuple[str, ...]]
_LONGEST = 4


def sari(source: str, prediction: str, references: Sequence[str]) -> float:
    """The mean over n = 1 to 4 of (F of kept + precision of deleted + F of added n-grams) / 3."""
    given, told, *wanted = (_tokens(text) for text in (source, prediction, *references))
    return fmean(fmean(_operations(given, told, wanted, n)) for n in range(1, _LONGEST + 1))


def _operations(
    source: list[str], prediction: list[str], references: list[list[str]], n: int
) -> tuple[float, float, float]:
    """The F of the kept n-grams, the precision of the deleted, and the F of the added."""
    given, told = _grams(source, n), _grams(prediction, n)
    wanted: Grams = sum((_grams(one, n) for one in references), Counter())
    # Counts of source and prediction stand against those of all references together.
    given, told = (_times(grams, len(references)) for grams in (given, told))
    kept, right = given & told, given & wanted
    good = kept & wanted
    keeping = _f(
        _ratio(sum(good[gram] / kept[gram] for gram in good), len(kept)),
        _ratio(good.total(), right.total()),
    )
    deleted = given - told
    removed = deleted - wanted
    deleting = _ratio(sum(removed[gram] / deleted[gram] for gram in removed), len(deleted))
    added, missing = set(told) - set(given), set(wanted) - set(given)
    both = len(added & missing)
    return keeping, deleting, _f(_ratio(both, len(added)), _ratio(both, len(missing)))


def _grams(tokens: list[str], n: int) -> Grams:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _times(grams: Grams, factor: int) -> Grams:
    return Counter({gram: count * factor for gram, count in grams.items()})


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else 1.0


def _f(precision: float, recall: float) -> float:
    both = precision + recall
    return 2 * precision * recall / both if both else 0.0


def _tokens(text: str) -> list[str]:
    """Words and punctuation marks, in sacreBLEU's standard tokenization, without case."""
    return str(_tokenizer()(apart(folded(text)))).split()


@cache
def _tokenizer() -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    made: Any = Tokenizer13a
    return made()
