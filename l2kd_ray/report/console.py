"""Tables on a terminal of any width and any encoding, or in a pipe."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_ANY_WIDTH = 100_000


def print_table(table: Table) -> None:
    """Print a table with all of its cells; where it is too wide for the terminal, one a line.

    Columns of texts (on the left) are folded at blanks, columns of numbers (on the right) never. A
    pipe has no width, unless COLUMNS is set. The cells are texts, without rich's markup.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.measure import Measurement

    headers = [str(column.header) for column in table.columns]
    rows = list(zip(*(map(str, column.cells) for column in table.columns), strict=True))
    for column, header, *cells in zip(table.columns, headers, *rows, strict=True):
        if column.justify == "right":
            column.no_wrap, column.min_width = True, max(map(cell_len, (header, *cells)))
    width = shutil.get_terminal_size((0, 0)).columns or _ANY_WIDTH
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    wide = console.options.update_width(_ANY_WIDTH)
    needed = Measurement.get(console, wide, table)
    if needed.minimum <= width:
        console.width = min(width, max(needed.maximum, cell_len(str(table.title or ""))))
        console.print(table)
        return
    lines = [str(table.title)] if table.title else []
    for name, *cells in rows:
        lines.append(name)
        named = zip(headers[1:], cells, strict=True)
        lines += [f"  {header}: {cell}" for header, cell in named if cell]
    lines += [str(table.caption)] if table.caption else []
    print("\n".join(lines))
