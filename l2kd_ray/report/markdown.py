"""A document as Markdown, its figures beside it in `figures/`."""

from __future__ import annotations

from collections.abc import Iterable

from l2kd_ray.report.blocks import Block, Document, Fold, Picture, Prose, Table, Verbatim, text


def markdown(document: Document) -> str:
    parts = [f"# {document.title}", document.subtitle]
    parts += [*(f"> {doubt}" for doubt in document.doubts), document.headline]
    parts += [f"> {notice}" for notice in document.notices]
    for section in document.sections:
        parts += [f"## {section.title}", *(_block(block) for block in section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Prose):
        return block.words
    if isinstance(block, Verbatim):
        fence = "```"
        while fence in block.text:
            fence += "`"
        return f"{fence}\n{block.text.rstrip()}\n{fence}"
    if isinstance(block, Picture):
        return f"![{block.alt}](figures/{block.name}.png)\n\n{block.caption}"
    if isinstance(block, Fold):
        inner = "\n\n".join(_block(inner) for inner in block.blocks)
        return f"<details>\n<summary>{_safe(block.summary)}</summary>\n\n{inner}\n\n</details>"
    return _table(block)


def _table(table: Table) -> str:
    names = list(table.frame.columns)
    rule = ["---:" if table.is_number(name) else "---" for name in names]
    lines = [_line(map(str, names)), _line(rule)]
    for k, row in enumerate(table.rows()):
        cells = [(name, _safe(text(value, table.digits_of(name)))) for name, value in row]
        lines.append(
            _line(
                f"**{cell}**" if (k, name) in table.strong and cell else cell
                for name, cell in cells
            )
        )
    return f"{table.caption}\n\n" + "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _safe(words: str) -> str:
    """Text that a table or a summary takes as text."""
    return words.replace("<", "&lt;").replace("|", "\\|")
