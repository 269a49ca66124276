"""On a device other than the CPU no stage mixes devices, and the host seldom waits for it.

The tests are in `pretended_stages`. They need a process of their own: torch counts its devices at a
process's first backward pass, and the pretended one must be among them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("chosen", ["not drill", pytest.param("drill", marks=pytest.mark.drill)])
def test_a_pretended_device(chosen: str) -> None:
    file = Path(__file__).with_name("pretended_stages.py")
    command = [sys.executable, "-m", "pytest", "-q", "-m", chosen, "-p", "no:cacheprovider"]
    ended = subprocess.run([*command, str(file)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-1000:]
