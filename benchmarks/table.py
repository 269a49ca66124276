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


def _card() -> str:
    """The GPU that this process, or one that it started, used or could have used; "" for none."""
    import torch

    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
