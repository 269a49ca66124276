"""Slot errors of data-to-text: the values that a text mentions against those its act asks for.

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
_ACCENTS = re.compile(r"(?<=[A-Za-z])[\u0300-\u036f]+")
_ARTICLES = frozenset({"a", "an", "the"})
_UNSAID = frozenset({"", "yes", "no", "true", "false", "none", "dontcare", "dont_care"})
"""Values that a text does not repeat."""
_FREE = frozenset({"type"})
"""Slots that every text of a set may mention or leave out (`restaurant`)."""
_KEYWORDS = {
    "kidsallowed": frozenset(words("child children kid")),
    "dogsallowed": frozenset(words("dog puppy")),
    "hasinternet": frozenset(words("internet wifi")),
    "acceptscreditcards": frozenset(words("card")),
    "hasusbport": frozenset(words("usb")),
    "isforbusinesscomputing": frozenset(words("business nonbusiness home personal general")),
    "familyfriendly": frozenset(words("family families child children kid")),
}
"""Slots that a text mentions if it holds one of these words, whether it says yes or no."""


class SlotErrors:
    """Counts the slot errors of texts, knowing all slot values of the inputs `contexts`."""

    def __init__(self, contexts: Iterable[str]) -> None:
        self._slots: dict[Value, set[str]] = {}
        self._topics: set[str] = set()
        for slot, text in (pair for context in contexts for pair in parse(context)):
            if _is_topic(slot, text):
                self._topics.add(slot)
            for value in _values(slot, text):
                # A restaurant is named `range`, which is also a common word.
                if slot != "name" or len(value) > 1:
                    self._slots.setdefault(value, set()).add(slot)

    def count(self, context: str, text: str) -> tuple[int, int]:
        """(missing and redundant slots of the text, slots of the act)."""
        act = parse(context)
        wanted = Counter(value for pair in act for value in _values(*pair))
        topics = [slot for slot, value in act if _is_topic(slot, value)]
        mentioned, rest = self._find(plain(text), wanted)
        mentioned_topics = {slot for slot in self._topics if not _KEYWORDS[slot].isdisjoint(rest)}
        missing = (wanted - mentioned).total() + sum(
            slot not in mentioned_topics for slot in topics
        )
        # A text that asks for a slot, or says that it does not matter, may list its values.
        asked = {slot for slot, value in act if value.lower() in _UNSAID}
        more = (mentioned - wanted).items()
        redundant = sum(n for value, n in more if asked.isdisjoint(self._slots.get(value, ())))
        redundant += len(mentioned_topics - {slot for slot, _ in act})
        return missing + redundant, wanted.total() + len(topics)

    def _find(self, text: Sequence[str], wanted: Counter[Value]) -> tuple[Counter[Value], set[str]]:
        """The values in a text, searched from its start, longest first, and the other words."""
        longest = max(map(len, [*self._slots, *wanted]), default=0)
        mentioned: Counter[Value] = Counter()
        rest: set[str] = set()
        start = 0
        while start < len(text):
            for size in range(longest, 0, -1):
                value = tuple(text[start : start + size])
                if value in self._slots or value in wanted:
                    mentioned[value] += 1
                    break
            else:
                rest.add(text[start])
                size = 1
            start += size
        return mentioned, rest


def parse(context: str) -> list[tuple[str, str]]:
    """The (slot in lower case, value) pairs of an act in either form; empty for other text."""
    call = _CALL.fullmatch(context)
    if call is None:
        return [(slot.strip().lower(), value) for slot, value in _BRACKETS.findall(context)]
    pairs = (part.partition("=") for part in call[1].split(";") if part)
    return [(slot.strip().lower(), value.strip(" '\"")) for slot, _, value in pairs]


def plain(text: str) -> list[str]:
    """A text's words as for ROUGE, without Latin accents and articles; "a+" differs from "a"."""
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.replace("+", " plus ")))
    return ["street" if word == "st" else word for word in words(bare) if word not in _ARTICLES]


def _values(slot: str, text: str) -> list[Value]:
    """The values to be mentioned for a slot: each part of `x or y`."""
    if slot in _FREE or text.lower() in _UNSAID:
        return []
    return [value for part in _OR.split(text) if (value := tuple(plain(part)))]


def _is_topic(slot: str, text: str) -> bool:
    return slot in _KEYWORDS and text != "" and text.lower() in _UNSAID
