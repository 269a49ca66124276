"""A benchmark's rows, printed as a Markdown table and saved as JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def save(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """`results/<name>.{json,md}`, with commit and machine."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in columns] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs{_card()}"
    FOLDER.mkdir(exist_ok=True)
    found = {"commit": commit, "machine": machine, "rows": rows}
    (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (FOLDER / f"{name}.md").write_text(f"{name}: commit {commit}, {machine}\n\n{table}")
    print(table)


def timing(
    part: str, what: str, times: Sequence[float], unit: str, *, scale: float = 1, digits: int = 3
) -> dict[str, Any]:
    """A row of the median, the least and the most of some times in seconds, `scale` units each; it
    is printed, too."""
    values = [scale * seconds for seconds in times]
    low, median, high = (
        round(one, digits) for one in (min(values), statistics.median(values), max(values))
    )
    print(f"{part:<12} {what:<58} {median:>10} {unit}", file=sys.stderr, flush=True)
    row = {"part": part, "what": what, "median": median, "low": low, "high": high}
    return {**row, "n": len(values), "unit": unit}


def _card() -> str:
    """The GPU that this process, or one that it started, used or could have used; "" for none."""
    import torch

    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
