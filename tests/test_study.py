"""Trials, keys, and the counts of the trie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.studies import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.language.stages.tokens import Tokens
from l2kd_ray.study import Study, load, plan
from l2kd_ray.study.reading import parse_study
from l2kd_ray.study.search import settings_of
from l2kd_ray.tasks import registered

FOUR = ["gen.hotel", "gen.intent", "gen.rest", "gen.tv"]
SHIPPED = Path(__file__).parent.parent / "tune_configs"


def counts(study: Study) -> dict[str, tuple[int, int]]:
    planned = plan(study.trials(), Store("memory://empty"))
    return {role: (count.naive, count.unique) for role, count in planned.stages.items()}


@pytest.mark.parametrize(("n", "naive", "unique"), [(3, 18, 15), (4, 96, 64)])
def test_orders_share_their_prefixes(tiny: Any, n: int, naive: int, unique: int) -> None:
    study = tiny(tasks=FOUR[:n], methods=["l2kd"])
    found = counts(study)
    assert found["learn"] == (naive, unique)
    assert found["teacher"][1] == n


def test_a_first_task_of_lamol_is_the_teacher(tiny: Any) -> None:
    found = counts(tiny(tasks=FOUR[:3], methods=["lamol"]))
    assert found["teacher"][1] == 3
    assert found["learn"][1] == 12


def test_temperatures_and_weights_share_teachers(tiny: Any) -> None:
    search = {"kd.temperature": {"grid": [1, 2, 4]}, "kd.weight": {"grid": [0.5, 0.7, 1]}}
    found = counts(tiny(tasks=FOUR[:3], methods=["l2kd"], search=search))
    assert found["teacher"][1] == 3
    assert found["learn"] == (9 * 18, 9 * 15)


def test_a_method_that_reads_nothing_searched_runs_once(tiny: Any) -> None:
    study = tiny(search={"kd.temperature": {"grid": [1, 2, 4]}})
    by_method = {
        name: [trial for trial in study.trials() if trial.method == name]
        for name in ("finetune", "lamol", "l2kd")
    }
    assert {name: len(trials) for name, trials in by_method.items()} == {
        "finetune": 2,
        "lamol": 2,
        "l2kd": 6,
    }
    assert by_method["lamol"][0].setting == {}


def test_what_an_arm_sets_itself_is_not_searched(tiny: Any) -> None:
    """Its own value stands; where nothing else is searched, it runs once."""
    fixed = {"name": "hot", "method": "l2kd", "settings": {"kd.temperature": 8}}
    search = {"kd.temperature": {"grid": [1, 2]}}
    trials = tiny(methods=["l2kd", fixed], search=search).trials()
    found = [
        (trial.method, trial.steps[-1][-1].stage.model.objective.temperature)
        for trial in trials
        if not trial.is_reference and trial.order[0] == "gen.rest"
    ]
    assert found == [("l2kd", 1), ("l2kd", 2), ("hot", 8)]


def keys_of(study: Study) -> set[str]:
    return {stage.key for trial in study.trials() for stage in trial.stages()}


def test_a_study_that_grows_keeps_every_stage(tiny: Any) -> None:
    base = keys_of(tiny(task_prompt="text"))
    for grown in (
        tiny(task_prompt="text", seeds=[531, 532]),
        tiny(task_prompt="text", search={"kd.temperature": {"grid": [2.0, 3.0]}}),
        tiny(task_prompt="text", methods=["finetune", "lamol", "l2kd", {"name": "l2kd-separate",
             "method": "l2kd", "settings": {"replay.weight": "separate"}}]),
    ):  # fmt: skip
        assert base < keys_of(grown)
    wider = keys_of(tiny(task_prompt="text", tasks=[*TINY["tasks"], "gen.tv"]))
    students = {s.key for t in tiny(task_prompt="text").trials() for s in t.stages()
                if s.kind in ("learn", "replay", "initial")}  # fmt: skip
    assert students < wider


def test_with_task_tokens_the_vocabulary_is_the_studys(tiny: Any) -> None:
    """They share what has no vocabulary yet: the examples as they are read."""
    one, other = ({s for t in study.trials() for s in t.stages()}
                  for study in (tiny(), tiny(tasks=["gen.rest", "gen.tv"])))  # fmt: skip
    assert {stage.kind for stage in one & other} == {"examples"}


def test_fields_that_do_not_matter_do_not_enter_the_key(tiny: Any) -> None:
    def last(**changes: Any) -> str:
        study = tiny(methods=["l2kd"], **changes)
        return next(t for t in study.trials() if t.method == "l2kd").steps[-1][0].stage.model.key

    zero = [last(kd={"weight": 0, "temperature": T}) for T in (1, 2)]
    assert zero[0] == zero[1]
    study = tiny(methods=["lamol"])
    lamol = next(t for t in study.trials() if t.method == "lamol").steps[-1][0].stage.model.key
    assert zero[0] == lamol  # L2KD at weight 0 is LAMOL: the very same stage
    with pytest.raises(InputError, match=r"replay\.temperature: it has no effect"):
        last(replay={"top_k": 1, "temperature": 2})
    bounds = [
        tiny(train={"answer_weight": w}).trials()[0].steps[0][0].stage.model.key for w in (1, 5)
    ]
    assert bounds[0] == bounds[1]  # the QA loss has no `<ans>` to predict
    assert last(scale={"workers": 2}) == last()
    assert last(storage="elsewhere", name="other", wandb={"project": "p"}) == last()


@given(
    st.sampled_from(["kd.temperature", "train.lr", "train.epochs", "replay.ratio", "train.clip"]),
    st.integers(3, 9),
)
@settings(max_examples=20)
def test_fields_that_matter_change_the_key(key: str, value: int) -> None:
    config = parse_study({**TINY, "methods": ["l2kd"]})
    changed = parse_study({**TINY, "methods": ["l2kd"]}, {key: value})
    resolved = _RESOLVED or _RESOLVED.setdefault("it", load_tiny().resolved)
    students = {
        Study(one, _RESOLVED["it"]).trials()[-1].steps[-1][0].stage.model.key
        for one in (config, changed)
    }
    assert resolved is not None
    assert len(students) == 2


_RESOLVED: dict[str, Any] = {}


def load_tiny() -> Study:
    import tempfile

    import yaml

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(TINY), file)
        file.flush()
        return load(file.name)


def test_keys_are_the_same_in_another_process(tiny: Any, tmp_path: Path) -> None:
    mine = sorted(keys_of(tiny()))
    code = (
        "from l2kd_ray.study import load; "
        "print(*sorted({s.key for t in load('study.yaml').trials() for s in t.stages()}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert output.stdout.decode().split() == mine


def test_where_a_file_lies_is_not_what_it_is(tiny: Any) -> None:
    study = tiny()
    stages = (stage for trial in study.trials() for stage in trial.stages())
    tokens = next(s for s in stages if isinstance(s, Tokens))
    data = tokens.source.data
    moved = replace(data, source=replace(data.source, location="/elsewhere"))
    other = replace(data, source=replace(data.source, digest="0" * 64))
    assert replace(tokens, source=Examples(moved)).key == tokens.key
    assert replace(tokens, source=Examples(other)).key != tokens.key


def test_a_new_option_that_is_off_keeps_every_stage(tiny: Any) -> None:
    @dataclass(frozen=True, eq=False, kw_only=True)
    class Grown(Learn):
        option: int | None = None

    Grown.__name__ = Learn.__name__  # a later version of it
    learn = next(s for t in tiny().trials() for s in t.stages() if s.kind == "learn")
    fields = {field.name: getattr(learn, field.name) for field in dataclass_fields(learn)}
    assert Grown(**fields).key == learn.key
    assert Grown(**fields, option=1).key != learn.key


def test_stages_see_only_the_splits_that_they_read(tiny: Any) -> None:
    assert keys_of(tiny(max_test=3)) != keys_of(tiny())
    learns = [
        {s.key for t in tiny(max_test=cap).trials() for s in t.stages() if s.kind == "learn"}
        for cap in (3, 4)
    ]
    assert learns[0] == learns[1]


def test_dev_is_evaluated_where_selection_reads_it(tiny: Any) -> None:
    """At the end of a path; every other model, and every teacher, is evaluated on test alone."""
    searched = tiny(methods=["l2kd"], search={"kd.temperature": {"grid": [1, 2]}})
    for trial in searched.trials():
        *before, last = trial.steps
        assert {cell.split for step in before for cell in step} <= {"test"}
        assert {cell.split for cell in last} == {"dev", "test"}
        assert {cell.split for cell in trial.teachers} <= {"test"}
    for trial in tiny(methods=["l2kd"]).trials():
        assert {cell.split for cell in trial.cells} == {"test"}


def test_the_first_wave_begins_with_different_tasks(tiny: Any) -> None:
    study = tiny(tasks=FOUR[:3], methods=["l2kd"])
    trials = study.trials()
    assert [trial.method for trial in trials[:2]] == ["multitask", "single"]
    assert len({trial.order[0] for trial in trials[2:5]}) == 3


def test_the_multitask_bound_has_one_setting(tiny: Any) -> None:
    study = tiny(search={"train.lr": {"grid": [1e-3, 1e-2]}}, multitask={"lr": 3e-3, "epochs": 4})
    bounds = [trial for trial in study.trials() if trial.method == "multitask"]
    assert len(bounds) == 1
    model = bounds[0].steps[0][0].stage.model
    assert isinstance(model, Learn)
    how = model.optimisation
    assert (how.lr, how.epochs, model.lm_weight) == (3e-3, 4, 0)


def test_replay_is_shared_out_as_lamol_does(tiny: Any) -> None:
    study = tiny(tasks=FOUR[:3], methods=["lamol"], replay={"ratio": 0.2}, max_train=16)
    sizes = {
        (len(stage.quotas), *{quota.count for quota in stage.quotas})
        for trial in study.trials()
        for stage in trial.stages()
        if stage.kind == "replay"
    }
    assert sizes == {(1, 4), (2, 2)}  # ceil(0.2 * 16) = 4: four of one task, two of each of two


def test_searched_keys_are_drawn_independently() -> None:
    """Neither with the same number, which would be one diagonal of the space, nor correlated."""
    unit = {"uniform": [0.0, 1.0]}
    search = {"kd.weight": unit, "replay.ratio": unit, "train.weight_decay": unit}
    drawn = settings_of(parse_study({**TINY, "search": search}, {"tune.num_samples": 300}))
    table = np.array([[setting[key] for key in search] for setting in drawn])
    between = np.corrcoef(table.T) - np.eye(3)
    assert np.abs(between).max() < 0.2  # four standard errors
    assert 0.4 < table.mean() < 0.6


def test_another_searched_key_leaves_the_draws_of_the_first() -> None:
    space = {"uniform": [0.0, 1.0]}
    one, two = (
        settings_of(parse_study({**TINY, "search": dict.fromkeys(keys, space)}))
        for keys in (["kd.weight"], ["train.weight_decay", "kd.weight"])
    )
    assert [setting["kd.weight"] for setting in one] == [setting["kd.weight"] for setting in two]


def test_loguniform_draws_each_power_of_ten_as_often() -> None:
    search = {"train.lr": {"loguniform": [1e-6, 1e-2]}}
    drawn = settings_of(parse_study({**TINY, "search": search}, {"tune.num_samples": 400}))
    powers = np.floor(np.log10([setting["train.lr"] for setting in drawn]))
    counts = [int((powers == power).sum()) for power in (-6, -5, -4, -3)]
    assert sum(counts) == 400
    assert min(counts) > 65  # of 100; drawn uniformly, 90 % would be in the last


def test_random_search_draws_the_same_settings_again() -> None:
    search = {"kd.temperature": {"loguniform": [1, 8]}, "kd.weight": {"grid": [0.5, 1]}}
    drawn = [
        settings_of(parse_study({**TINY, "search": search}, {"tune.num_samples": k}))
        for k in (3, 3, 5)
    ]
    assert drawn[0] == drawn[1] == drawn[2][:6]
    assert len({setting["kd.temperature"] for setting in drawn[0]}) == 3
    assert all(1 <= setting["kd.temperature"] <= 8 for setting in drawn[0])


def test_crossed_seeds_are_told_apart(tiny: Any) -> None:
    study = tiny(methods=["lamol"], seeds={"train": [1, 2], "replay": [7, 8]})
    found = {(str(trial.seed)) for trial in study.trials()}
    assert found == {"1r7", "1r8", "2r7", "2r8"}
    teachers = {
        s.key for t in study.trials() for s, role in t.stages().items() if role == "teacher"
    }
    ends = {
        str(trial.seed): trial.steps[-1][0].stage.model.key
        for trial in study.trials()
        if trial.method == "lamol" and trial.order == study.orders[0]
    }
    assert len(set(ends.values())) == 4  # the seed of replay is read, too
    backwards = tiny(methods=["lamol"], seeds={"train": [2, 1], "replay": [8, 7]})
    alone = backwards.trial("lamol", {}, study.orders[0], "1r8")
    assert alone.steps[-1][0].stage.model.key == ends["1r8"]  # whatever was built before it
    assert len(teachers) == 4  # two tasks, two training seeds: replay's seed is not theirs


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(TINY["tasks"]))
def test_how_the_tasks_are_listed_changes_no_stage(tiny: Any, tasks: list[str]) -> None:
    assert keys_of(tiny(tasks=tasks)) == keys_of(tiny())


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_plan(path: Path, tmp_path: Path) -> None:
    """With stand-ins of the named data and models, where they are not generated."""
    data = yaml.safe_load(path.read_text())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    save_file({"weight": np.zeros(1)}, tmp_path / "model.safetensors")
    overrides: dict[str, Any] = {
        f"{role}.model": str(tmp_path)
        for role in ("student", "teacher")
        if "model" in data.get(role, {})
    }
    tasks = [stand_in(task, tmp_path) for task in data["tasks"]]
    overrides["tasks"] = tasks
    if isinstance(data.get("orders"), list):
        overrides["orders"] = [[task["name"] for task in tasks]]
    assert plan(load(path, overrides).trials(), Store("memory://empty")).missing


def test_what_the_best_study_runs_has_been_confirmed(tmp_path: Path) -> None:
    tasks = yaml.safe_load((SHIPPED / "best.yaml").read_text())["tasks"]
    own = {"tasks": [stand_in(task, tmp_path) for task in tasks]}
    best, confirmed = (load(SHIPPED / f"{name}.yaml", own) for name in ("best", "l2kd_confirm"))
    assert keys_of(best) < keys_of(confirmed)


def stand_in(task: Any, folder: Path) -> Any:
    """A named task of files as one of our own, of the same kind."""
    name = task["name"] if isinstance(task, dict) else task
    known = registered()[name]
    if not known.files and known.hub is None:
        return task  # generated
    answers = {"regress": ["1.5", "2"], "tag": ["O O", "B-x E-x"], "parse": ["2:a 0:b", "0:b 1:a"]}
    rows = [
        {
            "context": f"{name} {k}",
            "question": f"what {k}?",
            "answer": answers.get(known.kind, ["yes", "no"])[k % 2],
        }
        for k in range(4000 if known.kind in ("tag", "parse") else 40)
    ]
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"name": f"my.{name}", "kind": known.kind, "metric": known.metric, "format": "jsonl"}
    if known.metric in ("dsem", "lfem"):  # they read answers of their own form
        own["metric"] = "em"
    return {**own, "train": str(file), "test": str(file), "max_test": 5}


def test_what_an_arm_reads_is_told_from_stages_of_no_owner_and_several_orders(tiny: Any) -> None:
    plain = tiny(methods=["finetune"], search={"train.lr": {"grid": [1e-3, 2e-3]}})
    assert plain.reads_search(plain.config.arms[0])
    alone = tiny(
        share=False,
        methods=["finetune", "l2kd"],
        search={"kd.temperature": {"grid": [1, 3]}},
    )
    assert [alone.reads_search(arm) for arm in alone.config.arms] == [False, True]
    small = {"name": "gen.tv", "max_train": 8}
    unlike = tiny(
        tasks=["gen.rest", "gen.intent", small],
        orders=["gen.rest>gen.intent>gen.tv", "gen.tv>gen.rest>gen.intent"],
        methods=["lamol"],
        search={"replay.shares": {"grid": ["equal", "size"]}},
    )
    assert unlike.reads_search(unlike.config.arms[0])  # only the second order's quotas differ


ADAPTIVE = {"searcher": "optuna", "num_samples": 1}


def test_an_adaptive_searchs_settings_are_those_of_the_present_search(tiny: Any) -> None:
    hot = {"name": "hot", "method": "l2kd", "settings": {"kd.temperature": 8.0}}
    search = {"kd.temperature": {"uniform": [1, 4]}, "replay.ratio": {"uniform": [0.1, 0.5]}}
    study = tiny(methods=["lamol", hot, "l2kd"], search=search, tune=ADAPTIVE)
    tried = {"kd.temperature": 2.7, "replay.ratio": 0.2}
    given = {arm.name: [tried] for arm in study.config.arms}
    shown = {trial.method: trial.setting for trial in study.trials(given)}
    assert shown["l2kd"] == tried
    assert shown["hot"] == shown["lamol"] == {"replay.ratio": 0.2}
    former = [tried, {"kd.temperature": 5.0, "replay.ratio": 0.2}, {"kd.temperature": 2.0}, {}]
    assert study.of_this_search({"l2kd": former})["l2kd"] == [tried]


def test_each_method_is_searched_in_its_own_options_alone(tiny: Any) -> None:
    """And not in the product of all: that of these grids has 3^11 points."""
    own = {"ewc": ["strength", "samples"], "mas": ["strength", "samples"], "gem": ["margin"]}
    own |= {"lwf": ["weight", "temperature"], "der": ["alpha", "beta"], "merge": ["scale"]}
    own |= {"agem": ["ratio"]}
    keys = {name: {f"{name}.{key}" for key in own[name]} for name in own}
    search = {
        key: {"grid": [1, 2, 3] if key.endswith("samples") else [0.2, 0.3, 0.4]}
        for key in set().union(*keys.values())
    }
    study = tiny(methods=[{"der": "der++"}.get(name, name) for name in own], search=search)
    for arm in study.config.arms:
        found = study.settings(arm)
        wanted = keys[arm.name.replace("++", "")]
        assert all(one.keys() == wanted for one in found)
        assert len(found) == 3 ** len(wanted)


def test_a_choice_that_a_draw_would_miss_is_searched(tiny: Any) -> None:
    search = {"kd.objective": {"choice": ["word", "seq"]}}
    for seed in range(4):
        study = tiny(methods=["l2kd"], search=search, tune={**ADAPTIVE, "seed": seed})
        assert study.reads_search(study.config.arms[0])


def test_a_setting_holds_only_the_searched_keys_that_its_arm_reads(tiny: Any) -> None:
    """Values that change nothing in an arm are no settings of their own: it runs once for all."""
    study = tiny(
        methods=["finetune", "lamol", "l2kd"],
        search={"kd.temperature": {"grid": [1, 3]}, "replay.ratio": {"grid": [0.25, 0.5]}},
    )
    settings = {arm.name: study.settings(arm) for arm in study.config.arms}
    ratios = [{"replay.ratio": 0.25}, {"replay.ratio": 0.5}]
    assert settings["finetune"] == ({},)
    assert settings["lamol"] == ratios
    assert settings["l2kd"] == [{"kd.temperature": t} | ratio for t in (1, 3) for ratio in ratios]
    unlike = {
        (trial.method, str(trial.setting)): trial.steps[-1][0].stage.key
        for trial in study.trials()
        if trial.order == study.orders[0] and trial.seed == study.config.replicates[0]
    }
    assert len(set(unlike.values())) == len(unlike)
