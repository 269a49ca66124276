"""Temporary folders: removed at the end, and after a kill by a later process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from l2kd_ray.core.scratch import Scratch, remove_abandoned

HOLD = """
import sys, time
from l2kd_ray.core.scratch import Scratch
with Scratch("stage") as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def age(folder: Path) -> None:
    os.utime(folder, (time.time() - 3600,) * 2)


def test_only_the_folders_of_processes_that_are_gone_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    (left / "out").mkdir()
    (tmp_path / "l2kd-results").mkdir()
    (tmp_path / "l2kd-scratch-link").symlink_to(tmp_path / "l2kd-results")
    age(tmp_path / "l2kd-results")
    with Scratch("tune") as mine:
        for folder in (left, Path(mine)):
            age(folder)
        remove_abandoned()
        assert left.is_dir()
        process.kill()
        process.wait()
        remove_abandoned()
        assert not left.exists()
        assert Path(mine).is_dir()
    assert not Path(mine).exists()
    assert (tmp_path / "l2kd-results").is_dir()


def test_a_folder_that_has_just_been_made_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process may not have locked it yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    young = tmp_path / "l2kd-scratch-stage-young"
    young.mkdir()
    remove_abandoned()
    assert young.is_dir()
    age(young)
    remove_abandoned()
    assert not young.exists()
