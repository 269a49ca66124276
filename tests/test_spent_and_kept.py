"""Learning against keeping, the cost of an arm, and their sections beside curves and answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.pages import check_whole
from helpers.studies import planned, tiny_data

from l2kd_ray.analysis.retention import kept, retained_by_setting
from l2kd_ray.analysis.tradeoff import tradeoff
from l2kd_ray.analysis.trials import ScoredTrial
from l2kd_ray.api import load_study
from l2kd_ray.forecast.machines import Prices, priced
from l2kd_ray.study.objectives import cells_of, objectives, value
from l2kd_ray.study.trial import Trial
from l2kd_ray.study.work import hours, hours_by_method


def scored(method: str, order: str, final: float, learned: float, **changes: Any) -> ScoredTrial:
    """A trial of two tasks, with these scores on the first one."""
    R = np.array([[0.0, 0.0], [learned, 0.0], [final, 80.0]])
    tasks = tuple(order.split(">"))
    return ScoredTrial(
        f"{method}{order}", method, "{}", order, "1", tasks, R, np.full(2, np.nan), **changes
    )


def test_the_tradeoff_is_over_the_instances_that_all_have() -> None:
    trials = [
        scored("a", "x>y", final=10, learned=60),
        scored("a", "y>x", final=90, learned=90),  # b has not run it
        scored("b", "x>y", final=30, learned=40),
        scored("c", "x>y", final=5, learned=40),
    ]
    found = tradeoff(trials).set_index("method")
    assert found.loc["a", ["learned", "kept", "trials"]].tolist() == [70.0, 10.0, 1]
    assert found.loc["b", ["learned", "kept"]].tolist() == [60.0, 30.0]
    assert found["front"].to_dict() == {"a": True, "b": True, "c": False}


def test_a_tradeoff_without_common_instances_is_over_what_each_has() -> None:
    found = tradeoff([scored("a", "x>y", 10, 60), scored("b", "y>x", 30, 40)])
    assert found["trials"].tolist() == [1, 1]
    assert tradeoff([]).empty


def test_equal_settings_are_both_on_the_front() -> None:
    assert tradeoff([scored("a", "x>y", 10, 60), scored("b", "x>y", 10, 60)])["front"].all()


def test_a_tradeoff_of_what_came_before_is_over_what_was_measured() -> None:
    """Points of a held-out task gained, and nats a token of general text: below 0 is lost."""
    values = {"texts": (5.0, 5.5), "other": (20.0, 15.0), "kl": (0.1, 0.3)}
    measured = pd.DataFrame(
        [
            {"trial": "ax>y", "i": i, "name": name, "value": value}
            for name, pair in values.items()
            for i, value in enumerate(pair, start=name == "kl")
        ]
    )
    found = kept(measured)
    assert {name: own.to_dict() for name, own in found.items()} == {
        "other": {"ax>y": -5.0}, "texts": {"ax>y": -0.5}
    }  # fmt: skip
    trials = [scored("a", "x>y", 10, 60), scored("b", "x>y", 10, 60)]
    table = tradeoff(trials, retained=found["texts"].to_dict())
    assert table[["method", "learned", "kept"]].to_numpy().tolist() == [["a", 70.0, -0.5]]
    (row,) = retained_by_setting(trials, measured).to_dict("records")
    assert row == {"method": "a", "setting": "{}", "kl": 0.2, "other/before": 20, "other/after": 15,
                   "texts/before": 5, "texts/after": 5.5}  # fmt: skip


def test_objectives_are_means_over_instances_and_the_front_is_a_methods() -> None:
    study = planned(methods=["finetune"], search={"train.lr": {"choice": [1e-3, 2e-3, 3e-3]}})
    arm, names = study.config.arms[0], ("new", "old")
    trials, known = list[Trial](), dict[str, float]()
    for number, lr in enumerate((1e-3, 2e-3, 3e-3)):
        own = study.instances(arm, {"train.lr": lr})
        trials += own
        for trial in own:
            old, new = cells_of(trial, "dev")
            known |= {old.stage.key: 10.0 * number, new.stage.key: 50.0 - 5 * (number // 2)}
    found = objectives(trials, names, known)
    assert found[["new", "old"]].to_numpy().tolist() == [[50, 0], [50, 10], [45, 20]]
    assert found["front"].tolist() == [False, True, True]
    assert value(trials[:2], "dev", known) == 25
    del known[cells_of(trials[0], "old")[0].stage.key]
    assert len(objectives(trials, names, known)) == 2


def test_hours_are_priced_by_the_cheapest_machine_of_the_table() -> None:
    hours = pd.DataFrame(
        {"method": ["m"], "setting": ["{}"], "core_hours": [10.0], "gpu_hours": [2.0]}
    )
    prices = Prices.read()
    core = min(m.on_demand / m.cpus for m in prices.machines.values() if not m.gpus and m.on_demand)
    gpu = min(m.on_demand / m.gpus for m in prices.machines.values() if m.gpus)
    found = priced(hours)
    assert found["usd"].tolist() == pytest.approx([10 * core + 2 * gpu])
    assert "assumption" in found["prices"].iloc[0]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("swept")
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_data(storage=str(folder / "results"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        study = load_study(file)
        study.sweep("inline")
    return study


def test_an_arm_pays_for_a_shared_stage_once(swept: Any) -> None:
    now = swept.snapshot()
    found = hours_by_method(now.trials, now.manifests).set_index("method")
    own = {s.key for t in now.trials if t.method == "l2kd" for s in t.stages()}
    seconds = sum(
        now.manifests[key].seconds * now.manifests[key].environment["threads"] for key in own
    )
    assert found.loc["l2kd", "core_hours"] == pytest.approx(seconds / 3600)
    assert not found["gpu_hours"].any()


def test_a_gpu_stage_pays_for_the_part_of_the_card_that_it_held(swept: Any) -> None:
    first = next(iter(swept.snapshot().manifests.values()))
    held = {"device": "cuda", "gpus": 0.25, "world_size": 2, "threads": 8}
    on_gpu = replace(first, seconds=3600.0, environment={**first.environment, **held})
    assert hours(on_gpu) == (0.0, 0.5)
    on_cpu = replace(on_gpu, environment={"device": "cpu", "world_size": 2, "threads": 8})
    assert hours(on_cpu) == (16.0, 0.0)


def test_a_report_has_curves_answers_the_tradeoff_and_costs(swept: Any) -> None:
    folder = Path(swept.folder)
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    paths.sort(key=lambda path: path.name != "report.html")
    kept = [path for path in paths if path.suffix in (".html", ".png", ".svg")]
    page = check_whole(kept, folder)
    for title in ("Training curves", "What was forgotten", "Learning against keeping", "Cost"):
        assert title in page.headings
    assert "Core-hours" in page.words
    forgotten = pd.read_csv(folder / "tables/forgotten.csv", keep_default_na=False)
    assert set(forgotten["method"]) == {"finetune", "lamol", "l2kd"}
    curves = pd.read_csv(folder / "tables/curves.csv")
    assert curves["trial"].nunique() == 3
    assert len(forgotten.groupby(["order", "seed"])) == 1
