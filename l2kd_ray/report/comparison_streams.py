"""Two methods over several streams: a table with a row a stream, and what they say together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from l2kd_ray.analysis.streams import Comparison
from l2kd_ray.names import NO_SETTING
from l2kd_ray.report.blocks import (
    MINUS,
    PROBABILITY,
    Measured,
    Prose,
    ReportSection,
    Table,
    measured,
    text,
)
from l2kd_ray.report.labels import count, level_label, method_label, p_words, setting_label
from l2kd_ray.report.sentences import doubt_words, looked_words, note_words, selected_words
from l2kd_ray.study.streams import Stream


def stream_sections(found: Comparison) -> Iterator[ReportSection]:
    """A section for each pair of methods."""
    rows = found.streams.groupby(["method", "against"], sort=False)
    for pair, (_, own) in zip(found.pairs.to_dict("records"), rows, strict=True):
        one, other = method_label(pair["method"]), method_label(pair["against"])
        words = [*_counts(own, one, other), _mean(pair, len(found.pairs)), *_reach(own)]
        table = _table(own.reset_index(drop=True))
        yield ReportSection(f"{one} {MINUS} {other}", (table, *map(Prose, words)))


def _table(rows: pd.DataFrame) -> Table:
    frame = pd.DataFrame({"Stream": rows["stream"]})
    for name, column in (("Setting", "setting"), ("Other's setting", "against/setting")):
        if (rows[column] != NO_SETTING).any():
            frame[name] = rows[column].map(setting_label)
    frame["Difference"] = measured(rows, "difference", "low", "high")
    frame["p"], frame["p (Holm)"] = rows["p"], rows["p_adjusted"]
    frame["Orders"], frame["Seeds"] = rows["n_orders"], rows["n_seeds"]
    caption = (
        "Points of gap, first minus second. The interval (95 %, or of a look that is named below) "
        "and p are those of the stream alone. "
        "p (Holm): corrected for all streams, both directions and all pairs; below 0.05, a "
        "difference of this sign is shown."
    )
    return Table("streams", caption, frame, digits=dict.fromkeys(("p", "p (Holm)"), PROBABILITY))


def _counts(rows: pd.DataFrame, one: str, other: str) -> Iterator[str]:
    shown = rows[rows["shown"]]
    for near, far, own in (
        (one, other, shown[shown["difference"] < 0]),
        (other, one, shown[shown["difference"] > 0]),
    ):
        if len(own):
            yield (
                f"{near} ends nearer to multi-task than {far} in at least {len(own)} of "
                f"{len(rows)} streams: {', '.join(own['stream'])}."
            )
    if shown.empty:
        yield f"None of the {len(rows)} streams shows a difference."


def _mean(pair: Mapping[str, Any], pairs: int) -> str:
    words = f"Mean of these {count(pair['n_streams'], 'stream')}: "
    mean = Measured(pair["difference"], pair["low"], pair["high"])
    note = note_words(pair["note"])
    if mean.bounded:
        together = f", simultaneous over {pairs} pairs" if pairs > 1 else ""
        level = level_label(pair["note"].look)
        note = "; ".join(filter(None, [f"{level} interval{together}; {p_words(pair['p'])}", note]))
    return f"{words}{text(mean)}; {note}."


def _reach(rows: pd.DataFrame) -> Iterator[str]:
    """The orders that each stream's difference holds for, and why one has no interval."""
    for note, own in rows.groupby(rows["note"].map(note_words), sort=False):
        yield f"{', '.join(own['stream'])}: {note}."


def stream_notes(streams: Mapping[str, Stream]) -> Iterator[str]:
    """One sentence for each fact that weakens a stream, led by its name."""
    for name, stream in streams.items():
        words = [word.replace("**", "").removesuffix(".") for word in doubt_words(stream.doubts)]
        words += [looked_words(stream.looks)] if stream.looks else []
        words.append(selected_words(stream.selected_of))
        yield from (f"{name}: {word}." for word in words if word)
