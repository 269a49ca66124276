"""The Porter stemmer (Porter, 1980) with NLTK's extensions, as `rouge-score` uses it.

Its rules read "(condition on the stem) suffix -> replacement". In each step the first rule whose
suffix matches decides, whether or not its condition holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Condition = Callable[[str], bool]

_IRREGULAR = {
    "sky": "sky", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news",
    "innings": "inning", "inning": "inning", "outings": "outing", "outing": "outing",
    "cannings": "canning", "canning": "canning", "howe": "howe", "proceed": "proceed",
    "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip


def _pairs(text: str) -> list[tuple[str, str]]:
    """ "ational:ate ful:" -> [("ational", "ate"), ("ful", "")]"""
    return [(suffix, end) for suffix, _, end in (rule.partition(":") for rule in text.split())]


_STEP_2 = _pairs(
    "ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e"
    " ousli:ous ization:ize ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous"
    " aliti:al iviti:ive biliti:ble fulli:ful"
)
_STEP_3 = _pairs("icate:ic ative: alize:al iciti:ic ical:ic ful: ness:")
_STEP_4 = _pairs(
    "al: ance: ence: er: ic: able: ible: ant: ement: ment: ent: ion: ou: ism: ate: iti: ous: ive:"
    " ize:"
)


def stem(word: str) -> str:
    """The stem of a lower-case word."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    for step in (_plural, _past, _final_y, _double_suffix, _step_3, _step_4, _final_e, _final_ll):
        word = step(word)
    return word


def _plural(word: str) -> str:
    # An extension of NLTK's: ties -> tie, but flies -> fli.
    if word.endswith("ies") and len(word) == 4:
        return word[:-1]
    return _first(word, _pairs("sses:ss ies:i ss:ss s:"), lambda stem: True)


def _past(word: str) -> str:
    # An extension of NLTK's: died -> die, but spied -> spi.
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        shorter = word.removesuffix(suffix)
        if shorter != word and "v" in _shape(shorter):
            break
    else:
        return word
    if shorter.endswith(("at", "bl", "iz")):
        return shorter + "e"
    if _is_double(shorter):
        return shorter if shorter[-1] in "lsz" else shorter[:-1]
    return shorter + "e" if _measure(shorter) == 1 and _is_cvc(shorter) else shorter


def _final_y(word: str) -> str:
    # An extension of NLTK's: only after a consonant that is not the first letter (enjoy stays).
    ends = word.endswith("y") and len(word) > 2 and _shape(word[:-1])[-1] == "c"
    return word[:-1] + "i" if ends else word


def _double_suffix(word: str) -> str:
    # An extension of NLTK's: alli -> al, after which the step is repeated.
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        return _double_suffix(word[:-2])
    # An extension of NLTK's: the condition is on what is left with the l (geologi -> geolog).
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _first(word, _STEP_2, lambda stem: _measure(stem) > 0)


def _step_3(word: str) -> str:
    return _first(word, _STEP_3, lambda stem: _measure(stem) > 0)


def _step_4(word: str) -> str:
    def condition(shorter: str) -> bool:
        fits = not word.endswith("ion") or shorter.endswith(("s", "t"))
        return _measure(shorter) > 1 and fits

    return _first(word, _STEP_4, condition)


def _final_e(word: str) -> str:
    shorter = word.removesuffix("e")
    measure = _measure(shorter)
    drops = shorter != word and (measure > 1 or (measure == 1 and not _is_cvc(shorter)))
    return shorter if drops else word


def _final_ll(word: str) -> str:
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _first(word: str, rules: Iterable[tuple[str, str]], condition: Condition) -> str:
    for suffix, end in rules:
        if word.endswith(suffix):
            shorter = word[: len(word) - len(suffix)]
            return shorter + end if condition(shorter) else word
    return word


def _shape(word: str) -> str:
    """Consonants as c, vowels as v; y is a vowel after a consonant: syzygy -> cvcvcv."""
    shape = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if vowel else "c"
    return shape


def _measure(word: str) -> int:
    """The number m of vowel-consonant groups in [C](VC)^m[V]: tree 0, trouble 1, private 2."""
    return len(re.findall("vc", _shape(word)))


def _is_double(word: str) -> bool:
    return len(word) >= 2 and word[-1] == word[-2] and _shape(word).endswith("c")


def _is_cvc(word: str) -> bool:
    shape = _shape(word)
    return shape == "vc" or (shape.endswith("cvc") and word[-1] not in "wxy")
