"""The style of figures, and SVG that a page can restyle for light and dark.

Figures are drawn once in the light colours below. On the page each of those becomes a CSS
variable, so that one drawing follows the reader's colour scheme; as files they stay as drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name of the CSS variable: (light, dark). c0..c6 are Okabe & Ito's colours, darkened or lightened
# where needed to stand 3:1 against the background, with which black text and thin lines stay clear.
COLOURS = {
    "ink": ("#16202b", "#e8edf2"),
    "muted": ("#566473", "#a3b0bd"),
    "line": ("#d9dfe5", "#36414d"),
    "paper": ("#ffffff", "#171d24"),
    "c0": ("#0072b2", "#56b4e9"),
    "c1": ("#c4520a", "#f5894a"),
    "c2": ("#00855f", "#2fc79a"),
    "c3": ("#a8568a", "#e39cc6"),
    "c4": ("#946800", "#e8b33d"),
    "c5": ("#5b4bb5", "#a79cf0"),
    "c6": ("#3d4a57", "#c5ced6"),
}
INK, MUTED, LINE, PAPER = (COLOURS[name][0] for name in ("ink", "muted", "line", "paper"))
SERIES = tuple(light for name, (light, _) in COLOURS.items() if re.fullmatch(r"c\d", name))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handletextpad": 0.2,
    "legend.columnspacing": 1.2,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "savefig.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class LineStyle:
    """Colour and marker of one method in every figure: either alone identifies it."""

    colour: str
    marker: str


def looks(methods: Sequence[str]) -> dict[str, LineStyle]:
    """A look for each method, by sorted name; 7 colours against 8 markers repeat after 56."""
    return {
        method: LineStyle(SERIES[k % len(SERIES)], _MARKERS[k % len(_MARKERS)])
        for k, method in enumerate(sorted(set(methods)))
    }


def drawn(figure: Figure, form: str, name: str = "") -> bytes:
    """The figure in one of matplotlib's formats; `name` makes the ids of an SVG its own.

    The same figure gives the same SVG, which stands alone.
    """
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {}
    with matplotlib.rc_context({**RC, "svg.hashsalt": name}):
        figure.savefig(buffer, format=form, dpi=200, metadata=metadata)
    figure.set_layout_engine("none")  # laid out once; the other format need not find it again
    return buffer.getvalue()


def inline(drawing: bytes, name: str, alt: str) -> str:
    """The SVG of `drawn` as an element of a page: described, restylable, in the page's font.

    It refers to nothing outside itself, and its ids are its own on a page of many figures.
    """
    text = drawing.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'\b(?:xlink:)?href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    body = re.sub(r"font: ([^'\";]*?)([\d.]+px) [^\";]*", _font, body)  # matplotlib before 3.11
    body = re.sub(r"font-family: [^\";]*", "font-family: inherit", body)
    # The background is the page's own.
    body = re.sub(r'<g id="[^"]*-patch_1">.*?</g>', "", body, count=1, flags=re.DOTALL)
    for variable, (light, _) in COLOURS.items():
        body = body.replace(light, f"var(--{variable})")
    return f'<svg role="img" aria-label="{escape(alt)}" {box[0] if box else ""}>{body}'


def _font(match: re.Match[str]) -> str:
    """`font: 700 9px 'DejaVu Sans', ...` without the family: weight and size only."""
    weight = "; font-weight: 700" if re.search("700|bold", match[1]) else ""
    return f"font-size: {match[2]}{weight}"
