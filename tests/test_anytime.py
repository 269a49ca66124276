"""Sweeps that end before their last trial, through the command and under Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers.studies import tiny_data

pytestmark = pytest.mark.drill
THREE = ["gen.rest", "gen.intent", "gen.tv"]
FOUR = [*THREE, "gen.hotel"]


def write(folder: Path, **changes: Any) -> Path:
    small = {"train": {"epochs": 1, "batch_size": 8, "lr": 5e-3}, "max_train": 8, "max_test": 2}
    data = tiny_data(**{**small, "storage": str(folder / "results"), **changes})
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def run(file: Path, verb: str = "sweep", *more: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "l2kd_ray.cli", verb, str(file), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=file.parent, check=False)
    return done.returncode, done.stdout + done.stderr


def results(file: Path, name: str = "tiny") -> pd.DataFrame:
    return pd.read_parquet(file.parent / "results" / "studies" / name / "results.parquet")


def test_a_narrow_interval_ends_the_sweep_at_a_look(tmp_path: Path) -> None:
    """24 orders, 6 of them run: the first planned look is wide enough for an eps of 500 points."""
    stop = {"half_width": 500.0, "method": "finetune"}
    file = write(tmp_path, tasks=FOUR, seeds=[1, 2, 3], methods=["finetune"], tune={"stop": stop})
    code, said = run(file)
    assert code == 0, said
    assert "half-width" in said
    frame = results(file)
    assert frame[frame["method"] == "finetune"]["order"].nunique() == 6
    report = (tmp_path / "results" / "studies" / "tiny" / "report.md").read_text()
    assert "6 of 24 orders" in report
    code, again = run(file)  # it is not taken up again
    assert code == 0, again
    assert len(results(file)) == len(frame)


def test_an_interval_that_these_seeds_cannot_reach_is_said(tmp_path: Path) -> None:
    stop = {"half_width": 1e-6, "method": "finetune"}
    file = write(tmp_path, tasks=THREE, seeds=[1, 2], methods=["finetune"], tune={"stop": stop})
    code, said = run(file)
    assert code == 0, said
    frame = results(file)
    assert frame[frame["method"] == "finetune"]["order"].nunique() == 6  # all there are


def test_a_budget_ends_with_its_own_exit_code_and_loses_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, tasks=THREE, tune={"stop": {"budget_hours": 0.008}})
    code, said = run(file)
    assert code == 3, said
    assert "budget" in said
    kept = json.loads(run(file, "plan", "--json")[1])["stages"]
    done = sum(count["stored"] for count in kept.values())
    missing = sum(count["unique"] - count["stored"] for count in kept.values())
    assert done > 0
    assert missing > 0
    code, said = run(file, "sweep", "tune.stop.budget_hours=1")
    assert code == 0, said
    assert results(file)["complete"].all()


def test_a_race_gives_up_settings_and_reports_the_winner(tmp_path: Path) -> None:
    """A learning rate that learns nothing loses; every method keeps a winner on all orders."""
    file = write(
        tmp_path,
        tasks=THREE,
        seeds=[1, 2, 3],
        methods=["finetune"],
        search={"train.lr": {"grid": [1e-12, 5e-3, 1e-2]}},
        tune={"scheduler": "race"},
        train={"epochs": 4, "batch_size": 4, "lr": 5e-3},
        max_dev=8,
    )
    code, said = run(file)
    assert code == 0, said
    frame = results(file)
    own = frame[frame["method"] == "finetune"]
    assert own.groupby("setting")["order"].nunique().max() == 6
    assert (tmp_path / "results" / "studies" / "tiny" / "report.html").is_file()


def test_settings_are_selected_on_one_half_and_reported_on_the_other(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        tasks=THREE,
        seeds=[1, 2, 3, 4],
        methods=["finetune"],
        search={
            "train.lr": {"grid": [1e-12, 1e-2]},
            "select_on": {"orders": "half", "seeds": "half"},
        },
    )
    code, said = run(file)
    assert code == 0, said
    own = results(file)
    own = own[own["method"] == "finetune"]
    both = own.groupby("setting").size()
    # 3 orders x 2 seeds for each setting, then as many other instances for the winner alone.
    assert sorted(both) == [6, 12]
    report = (tmp_path / "results" / "studies" / "tiny" / "report.md").read_text()
    assert "selected on one half" in report
