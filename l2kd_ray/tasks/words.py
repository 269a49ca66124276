"""The words of a text in any script, as the metrics compare them.

A word is a run of letters and digits of any script with the marks (vowel signs, accents) upon them.
Scripts that are written without blanks have no such runs: there each letter is a word of its own,
as in sacreBLEU's `zh` tokenizer. Texts are compared in the form NFKC (Unicode Annex 15), so that
full-width letters and decomposed accents make no difference, and without case. ASCII text has the
words `[a-z0-9]+`.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

# Thai, Lao; Myanmar; Khmer; Han; Hiragana and Katakana with their extensions.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_ASCII_WORD = re.compile("[a-z0-9]+")
_INVISIBLE = re.compile("[\u00ad\u034f\u200c\u200d\ufe00-\ufe0f]")
"""Soft hyphen, joiners, and selectors of a glyph: they change the look of a word, not the word."""


def folded(text: str) -> str:
    """The text in NFKC, without case and without characters that are not seen."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    return unicodedata.normalize("NFKC", plain.casefold())


def words(text: str) -> list[str]:
    """The words of a text, folded."""
    pattern = _ASCII_WORD if text.isascii() else _word()
    return pattern.findall(folded(text))


def apart(text: str) -> str:
    """The text with blanks round each letter (and full-width sign) of a script without blanks."""
    return text if text.isascii() else _lone().sub(r" \g<0> ", text)


@cache
def _marks() -> str:
    """All combining marks but those that enclose a letter, as ranges of a regular expression."""
    every = map(chr, range(sys.maxunicode + 1))
    found = "".join("1" if unicodedata.category(c) in ("Mn", "Mc") else "0" for c in every)
    spans = (match.span() for match in re.finditer("1+", found))
    return "".join(f"{chr(start)}-{chr(end - 1)}" for start, end in spans)


@cache
def _word() -> re.Pattern[str]:
    marks, letter = f"[{_marks()}]*", r"[^\W_]"
    return re.compile(f"(?=[{_ALONE}]){letter}{marks}|(?:(?![{_ALONE}]){letter}{marks})+")


@cache
def _lone() -> re.Pattern[str]:
    return re.compile(f"[{_ALONE}\u3000-\u303f\uff00-\uffef][{_marks()}]*")
