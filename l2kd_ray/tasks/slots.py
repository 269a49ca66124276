"""Slot errors of data-to-text: what a text says against what its dialogue act asks to say.

The count of Wen et al. (EMNLP 2015), (missing + redundant) / slots, on words instead of their
placeholders; `docs/metrics.md` defines it in full. Acts have one of two forms:

    inform(name='blue moon';food=thai;kidsallowed=yes)      RNNLG and the generated tasks
    name[Blue Moon], food[Thai], familyFriendly[yes]        E2E
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from l2kd_ray.tasks.rouge import words

Value = tuple[str, ...]
"""The plain words of a slot's value."""

_CALL = re.compile(r"\s*\??\w+\((.*)\)\s*", re.DOTALL)
_BRACKETS = re.compile(r"([^,\[\]]+)\[([^\]]*)\]")
_OR = re.compile(r"\s+or\s+")
_ARTICLES = frozenset({"a", "an", "the"})
_UNSAID = frozenset({"", "yes", "no", "true", "false", "none", "dontcare", "dont_care"})
"""Values that a text does not repeat."""
_FREE = frozenset({"type"})
"""What the set is about: any text may say `restaurant`, or leave it out."""
_KEYWORDS = {
    "kidsallowed": frozenset(words("child children kid")),
    "dogsallowed": frozenset(words("dog puppy")),
    "hasinternet": frozenset(words("internet wifi")),
    "acceptscreditcards": frozenset(words("card")),
    "hasusbport": frozenset(words("usb")),
    "isforbusinesscomputing": frozenset(words("business nonbusiness home personal general")),
    "familyfriendly": frozenset(words("family families child children kid")),
}
"""Slots of which a text speaks if it holds one of these words, whether it says yes or no."""


class SlotErrors:
    """Counts the slot errors of texts; `contexts` are the inputs whose values it knows."""

    def __init__(self, contexts: Iterable[str]) -> None:
        self._slots: dict[Value, set[str]] = {}
        self._topics: set[str] = set()
        for slot, text in (pair for context in contexts for pair in parse(context)):
            if _is_topic(slot, text):
                self._topics.add(slot)
            for value in _values(slot, text):
                if slot != "name" or len(value) > 1:  # a restaurant is called `range`
                    self._slots.setdefault(value, set()).add(slot)

    def count(self, context: str, text: str) -> tuple[int, int]:
        """(missing and redundant slots of the text, slots of the act)"""
        act = parse(context)
        wanted = Counter(value for pair in act for value in _values(*pair))
        topics = [slot for slot, value in act if _is_topic(slot, value)]
        said, rest = self._find(plain(text), wanted)
        spoken = {slot for slot in self._topics if not _KEYWORDS[slot].isdisjoint(rest)}
        missing = (wanted - said).total() + sum(slot not in spoken for slot in topics)
        # A question for a slot, or "it does not matter", may list values of it.
        asked = {slot for slot, value in act if value.lower() in _UNSAID}
        more = (said - wanted).items()
        redundant = sum(n for value, n in more if asked.isdisjoint(self._slots.get(value, ())))
        redundant += len(spoken - {slot for slot, _ in act})
        return missing + redundant, wanted.total() + len(topics)

    def _find(self, text: Sequence[str], wanted: Counter[Value]) -> tuple[Counter[Value], set[str]]:
        """The values in a text, from its start, longest first; and the words between them."""
        longest = max(map(len, [*self._slots, *wanted]), default=0)
        said: Counter[Value] = Counter()
        rest: set[str] = set()
        place = 0
        while place < len(text):
            for size in range(longest, 0, -1):
                value = tuple(text[place : place + size])
                if value in self._slots or value in wanted:
                    said[value] += 1
                    break
            else:
                rest.add(text[place])
                size = 1
            place += size
        return said, rest


def parse(context: str) -> list[tuple[str, str]]:
    """(slot in lower case, value) of an act in either form; of any other text, nothing."""
    call = _CALL.fullmatch(context)
    if call is None:
        return [(slot.strip().lower(), value) for slot, value in _BRACKETS.findall(context)]
    pairs = (part.partition("=") for part in call[1].split(";") if part)
    return [(slot.strip().lower(), value.strip(" '\"")) for slot, _, value in pairs]


def plain(text: str) -> list[str]:
    """A text's words as ROUGE takes them, but for accents and articles; "a+" is not "a"."""
    letters = unicodedata.normalize("NFKD", text.replace("+", " plus "))
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return ["street" if word == "st" else word for word in words(bare) if word not in _ARTICLES]


def _values(slot: str, text: str) -> list[Value]:
    """What must be said for a slot: each part of `x or y`."""
    if slot in _FREE or text.lower() in _UNSAID:
        return []
    return [value for part in _OR.split(text) if (value := tuple(plain(part)))]


def _is_topic(slot: str, text: str) -> bool:
    return slot in _KEYWORDS and text != "" and text.lower() in _UNSAID
