"""A document as one HTML file that asks nothing of the network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from string import Template

import pandas as pd

from l2kd_ray.report import style
from l2kd_ray.report.blocks import (
    Block,
    Document,
    Fold,
    Measured,
    Picture,
    Prose,
    ReportSection,
    Table,
    Verbatim,
    between,
    text,
)


def html(document: Document, drawings: Mapping[str, bytes]) -> str:
    """The page; `drawings` are the SVG files of the document's pictures, by name."""
    facts = "".join(
        f"<div><dd>{escape(value)}</dd><dt>{escape(what)}</dt></div>"
        for value, what in document.facts
    )
    return Template(asset("page.html")).substitute(
        title=escape(document.title),
        subtitle=escape(document.subtitle),
        style=f"{variables()}\n{asset('page.css')}",
        headline=marks(document.headline),
        facts=f'<dl class="facts">{facts}</dl>' if facts else "",
        doubts=_notices(document.doubts),
        notices=_notices(document.notices),
        links="".join(
            f'<a href="#{_anchor(section.title)}">{escape(section.title)}</a>'
            for section in document.sections
        ),
        sections="\n".join(_section(section, drawings) for section in document.sections),
        script=asset("report.js"),
    )


def _notices(lines: Iterable[str]) -> str:
    return "".join(f'<p class="notice">{marks(line)}</p>' for line in lines)


def asset(name: str) -> str:
    """A file that the page is made of; the style sheet's colours are `style.COLOURS`."""
    return files("l2kd_ray.report").joinpath(name).read_text(encoding="utf-8")


def _section(section: ReportSection, drawings: Mapping[str, bytes]) -> str:
    anchor = _anchor(section.title)
    blocks = "\n".join(_block(block, drawings) for block in section.blocks)
    return (
        f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(section.title)}</h2>\n'
        f"{blocks}\n</section>"
    )


def _block(block: Block, drawings: Mapping[str, bytes]) -> str:
    if isinstance(block, Prose):
        return f"<p>{marks(block.words)}</p>"
    if isinstance(block, Verbatim):
        return f'<pre tabindex="0"><code>{escape(block.text)}</code></pre>'
    if isinstance(block, Fold):
        inner = "\n".join(_block(inner, drawings) for inner in block.blocks)
        return f"<details><summary>{escape(block.summary)}</summary>\n{inner}\n</details>"
    if isinstance(block, Picture):
        drawing = style.inline(drawings[block.name], block.name, block.alt)
        caption = f"<figcaption>{marks(block.caption)}</figcaption>"
        return f'<figure><div class="scroll" tabindex="0">{drawing}</div>{caption}</figure>'
    return _table(block)


def _table(table: Table) -> str:
    kinds = {name: _kind(table, name) for name in table.frame.columns}
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(str(name))}</th>' for name, kind in kinds.items()
    )
    rows = []
    for k, row in enumerate(table.rows()):
        parts = []
        for column, (name, value) in enumerate(row):
            shown = _cell(value, table.digits_of(name))
            if name in table.codes and shown:
                shown = f"<code>{shown}</code>"
            if (k, name) in table.strong:
                shown = f"<strong>{shown}</strong>"
            tag = 'th scope="row"' if column == 0 else "td"
            number = value.value if isinstance(value, Measured) else value
            known = kinds[name] == "num" and not pd.isna(number)
            sorts_by = f' data-value="{number}"' if known else ""
            parts.append(f'<{tag} class="{kinds[name]}"{sorts_by}>{shown}</{tag[:2]}>')
        rows.append(f"<tr>{''.join(parts)}</tr>")
    label = f"table-{table.name}"
    return (
        f'<p class="caption" id="{label}">{marks(table.caption)}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{label}">'
        f'<table aria-labelledby="{label}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _kind(table: Table, name: str) -> str:
    if name in table.wrapped:
        return "long"
    return "num" if table.is_number(name) else ""


def _cell(value: object, digits: int) -> str:
    """A value as HTML; an interval stands below its number."""
    if isinstance(value, Measured) and value.bounded:
        number, interval = text(value.value, digits), between(value, digits)
        return f"{escape(number)} <small>({escape(interval)})</small>"
    return escape(text(value, digits))


def marks(words: str) -> str:
    """The two marks of `Prose` as HTML."""
    words = escape(words, quote=False)
    words = re.sub(r"(\d) %|\bp (=|&lt;) ", _unbroken, words)
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", words)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", words)


def _unbroken(match: re.Match[str]) -> str:
    """`95 %` and `p = 0.01` stay on one line."""
    return match[0].replace(" ", "\N{NO-BREAK SPACE}")


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def variables() -> str:
    """The colours as CSS variables, light and dark."""
    light, dark = (
        ";".join(f"--{name}:{pair[k]}" for name, pair in style.COLOURS.items()) for k in (0, 1)
    )
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
