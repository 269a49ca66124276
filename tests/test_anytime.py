"""Sweeps that end before their last trial, through the command and under Ray."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers.studies import tiny_data

from l2kd_ray.analysis import race
from l2kd_ray.api import load_study

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


LENGTH = """
def length(predictions, examples):
    return [min(100.0, 1.0 * len(text)) for text in predictions]
"""


def by_length(folder: Path) -> list[dict[str, str]]:
    """Four tasks with a metric on which students that have learned nothing differ."""
    (folder / "length.py").write_text(LENGTH)
    return [{"name": name, "metric": "./length.py:length"} for name in FOUR]


def test_a_narrow_interval_ends_the_sweep_at_a_look(tmp_path: Path) -> None:
    """24 orders, 12 of them run: the first planned look is narrow enough for an eps of 5000."""
    stop = {"half_width": 5000.0, "method": "finetune"}
    tasks = by_length(tmp_path)
    file = write(tmp_path, tasks=tasks, seeds=[1, 2], methods=["finetune"], tune={"stop": stop})
    code, said = run(file)
    assert code == 0, said
    assert "half-width" in said
    frame = results(file)
    assert frame[frame["method"] == "finetune"]["order"].nunique() == 12
    report = (tmp_path / "results" / "studies" / "tiny" / "report.md").read_text()
    assert "12 of 24 orders" in report
    code, again = run(file)  # it is not taken up again
    assert code == 0, again
    assert len(results(file)) == len(frame)


def test_an_interval_that_these_seeds_cannot_reach_is_said(tmp_path: Path) -> None:
    """All orders are run, and the sweep and the report say what was reached and what would help."""
    stop = {"half_width": 1e-6, "method": "finetune"}
    file = write(tmp_path, tasks=THREE, seeds=[1, 2], methods=["finetune"], tune={"stop": stop})
    code, said = run(file)
    assert code == 0, said
    frame = results(file)
    assert frame[frame["method"] == "finetune"]["order"].nunique() == 6  # all there are
    report = (tmp_path / "results" / "studies" / "tiny" / "report.md").read_text()
    for words in (said, report):
        (verdict,) = re.findall(r"finetune: half-width \S+ after (.*)", " ".join(words.split()))
        assert verdict.startswith("6 of 6 orders, above 1e-06, and no planned order is left; ")
        assert re.match(r".*; (about \d+ seeds would do|add seeds)", verdict)


def test_a_budget_ends_with_its_own_exit_code_and_loses_nothing(tmp_path: Path) -> None:
    """However fast the machine is: a budget of no time begins nothing, and one that is over in the
    middle keeps what was finished."""
    file = write(tmp_path, tasks=THREE, tune={"stop": {"budget_hours": 1e-9}})
    code, said = run(file)
    assert code == 3, said
    assert "tune.stop.budget_hours is over" in " ".join(said.split())
    before = stages(file)
    assert before["todo"] > 0
    code, said = run(file, "sweep", "tune.stop.budget_hours=0.008")
    between = stages(file)
    assert (code == 3) == (between["todo"] > 0), said  # a fast machine may have done all
    assert between["stored"] >= before["stored"]
    code, said = run(file, "sweep", "tune.stop.budget_hours=1")
    assert code == 0, said
    assert stages(file)["todo"] == 0
    assert results(file)["complete"].all()


def test_a_budget_ends_a_sweep_in_this_process_too(tmp_path: Path) -> None:
    file = write(tmp_path, methods=["finetune"], tune={"stop": {"budget_hours": 1e-9}})
    code, said = run(file, "sweep", "--inline")
    assert code == 3, said
    assert "tune.stop.budget_hours is over" in " ".join(said.split())


def stages(file: Path) -> dict[str, int]:
    """The stages of the study that are in the store, and those to do."""
    counts = json.loads(run(file, "plan", "--json")[1])["stages"].values()
    stored = sum(count["stored"] for count in counts)
    return {"stored": stored, "todo": sum(count["unique"] for count in counts) - stored}


def test_a_race_gives_up_what_its_dev_scores_say_and_reports_the_winner(tmp_path: Path) -> None:
    """By a metric of long answers, answers of one token lose: at the first look (12 of 24) or
    at the last, as `race` says of the dev scores that the sweep has left."""
    file = write(
        tmp_path,
        tasks=by_length(tmp_path),
        seeds=[1],
        methods=["finetune"],
        search={"evaluate.max_new_tokens": {"grid": [1, 8]}},
        evaluate=None,
        tune={"scheduler": "race"},
    )
    code, said = run(file)
    assert code == 0, said
    check_race(file)


def check_race(file: Path) -> None:
    folder = file.parent / "results" / "studies" / "tiny"
    scores = pd.read_parquet(folder / "scores.parquet").query("method == 'finetune' and i == 4")
    dev = scores[scores["split"] == "dev"].groupby(["setting", "order"])["score"].mean().unstack()
    drawn = [">".join(order) for order in load_study(file).study.orders]
    told = race(dev[drawn].to_numpy(), 24)
    names = list(dev.index)
    (winner,) = set(range(len(names))) - told.keys()
    wanted = {names[row]: at for row, at in told.items()} | {names[winner]: 24}
    assert json.loads(names[winner]) == {"evaluate.max_new_tokens": 8}
    assert dict(scores.groupby("setting")["order"].nunique()) == wanted
    gap = pd.read_csv(folder / "tables" / "gap.csv")
    chosen = gap[(gap["method"] == "finetune") & gap["selected"]]
    assert list(chosen["evaluate.max_new_tokens"]) == [8]


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
