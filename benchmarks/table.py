"""A benchmark's rows, printed as a Markdown table and saved as JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def save(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """`results/<name>.{json,md}`, with commit and machine."""
    cells = [[_cell(value) for value in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs"
    FOLDER.mkdir(exist_ok=True)
    found = {"commit": commit, "machine": machine, "rows": rows}
    (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (FOLDER / f"{name}.md").write_text(f"{name}: commit {commit}, {machine}\n\n{table}")
    print(table)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
