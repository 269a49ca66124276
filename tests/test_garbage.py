"""What a storage may lose, what it may not, and why two stages differ."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from helpers.studies import age, keys

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store, stage_folder
from l2kd_ray.errors import InputError
from l2kd_ray.experiment import Experiment
from l2kd_ray.study import Study, plan
from l2kd_ray.study.explain import differences, find
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.garbage import collect, find_garbage
from l2kd_ray.study.plan import intermediate


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here reads a report, which takes most of the time of a sweep so small."""
    monkeypatch.setattr(Experiment, "_write_report", lambda *_: None)


def swept(study: Study, store: Store) -> Experiment:
    experiment = Experiment(study, store, "l2kd sweep")
    assert experiment.sweep("inline").failures == []
    return experiment


def test_what_a_study_lists_stays_and_the_rest_goes(tiny: Any, store: Store) -> None:
    first = tiny(methods=["finetune"], name="first")
    second = tiny(methods=["lamol"], name="second")
    swept(first, store)
    swept(second, store)
    assert find_garbage(store) == []
    assert find_garbage(store, ["first"]) == []  # nothing young goes
    store.write("studies/README", b"whose these are")
    age(store)
    assert find_garbage(store) == []
    garbage = find_garbage(store, ["first"])
    assert {item.folder.split("/")[-1] for item in garbage} == keys(first) - keys(second)
    assert all(item.bytes > 0 for item in garbage)
    assert set(store.listing().finished) == keys(first) | keys(second)  # saying removes nothing
    collect(store, garbage, ["first"])
    assert set(store.listing().finished) == keys(second)
    assert plan(second.trials(), store).missing == frozenset()
    with pytest.raises(InputError, match="second"):
        find_garbage(store, ["third"])


def test_a_damaged_list_of_keys_is_no_reason_to_remove_anything(tiny: Any, store: Store) -> None:
    study = tiny(methods=["finetune"])
    swept(study, store)
    age(store)
    path = Path(store.base, "studies/tiny/keys")
    whole = path.read_bytes()
    for damaged in (None, b"", whole[:400], b"keys\n", b"\xff"):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"sweep tiny again.*--drop tiny"):
            find_garbage(store)
        assert {item.reason for item in find_garbage(store, ["tiny"])} == {"of no study"}
        path.write_bytes(whole)
    path.write_bytes(b"")
    swept(study, store)
    age(store)
    assert find_garbage(store) == []
    assert path.read_bytes() == whole


def test_a_study_that_was_dropped_may_be_dropped_again(tiny: Any, store: Store) -> None:
    swept(tiny(methods=["finetune"]), store)
    for _ in range(2):
        age(store)
        collect(store, find_garbage(store, ["tiny"]), ["tiny"])
        assert store.listing().finished == {}
    assert find_garbage(store) == []


def interrupted(study: Study, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a sweep that is ended before its first stage."""

    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("l2kd_ray.study.inline.obtain", end)
        with pytest.raises(KeyboardInterrupt):
            Experiment(study, store, "").sweep("inline")


@pytest.mark.parametrize(
    "later",
    [
        {"tune": {"stop": {"half_width": 50.0}}},
        {
            "tasks": ["gen.rest", "gen.intent", "gen.hotel", "gen.tv"],
            "search": {"replay.weight": {"grid": [1.0, 2.0]}},
            "tune": {"scheduler": "race"},
        },
        {"search": {"replay.weight": {"grid": [1.0, 2.0]}, "select_on": {"orders": "half"}}},
    ],
    ids=["stop rule", "race", "selection"],
)
def test_an_unfinished_study_keeps_all_that_it_could_reach(
    later: Any, tiny: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although its results so far do not call for it yet."""
    study = tiny(methods=["lamol"], name="later", **later)
    last = study.trials()[-1].steps[-1][-1].stage
    obtain(last, store)  # by a study that is dropped before
    interrupted(study, store, monkeypatch)
    age(store)
    assert find_garbage(store) == []


class Asked(Exception):
    """A stage was asked for."""


class Pool:
    """A stage pool that ends its caller at the first question."""

    class scores:
        @staticmethod
        def remote(stage: Stage) -> None:
            raise Asked


def test_what_a_search_proposes_is_kept_before_it_is_run(tiny: Any, store: Store) -> None:
    from l2kd_ray.cluster.sweep import cursor

    study = tiny(methods=["l2kd"], search={"kd.temperature": {"uniform": [1, 4]}})
    setting = {"kd.temperature": 2.0}
    trials = study.instances(study.arm("l2kd"), setting)
    obtain(trials[0].steps[0][0].stage, store)
    own = Folder(store, "tiny")
    own.add_keys([])
    with pytest.raises(Asked):
        cursor({"trial": {"method": "l2kd", "setting": setting}}, study, Pool(), own)
    age(store)
    assert find_garbage(store) == []
    own.settle_keys([])  # the search chose others
    assert find_garbage(store) == []
    age(store)
    assert {item.reason for item in find_garbage(store)} == {"of no study", "of a former sweep"}


def test_what_a_study_needed_until_now_is_kept_for_the_grace(tiny: Any, store: Store) -> None:
    swept(tiny(methods=["finetune", "lamol"]), store)
    swept(tiny(methods=["finetune"]), store)
    for path in Path(store.base, "stages").rglob("*"):
        os.utime(path, (0, 0))
    assert find_garbage(store) == []
    age(store)
    garbage = find_garbage(store)
    assert {item.reason for item in garbage} == {"of no study", "of a former sweep"}
    collect(store, garbage)
    assert set(store.listing().finished) == keys(tiny(methods=["finetune"]))
    assert find_garbage(store) == []


def test_a_sweep_that_ends_leaves_what_another_of_its_name_needs(tiny: Any, store: Store) -> None:
    both, one = tiny(methods=["finetune", "lamol"]), tiny(methods=["finetune"])
    with Folder(store, "tiny").live():
        swept(both, store)
        swept(one, store)
        age(store)
        assert find_garbage(store) == []
    swept(one, store)
    age(store)
    assert {item.reason for item in find_garbage(store)} == {"of no study", "of a former sweep"}


def test_what_a_cut_off_write_left_goes(tiny: Any, store: Store) -> None:
    names = ("scores.parquet", "keys", f"keys-{'a' * 32}")
    for name in names:
        store.write(f"studies/x/{name}.0123abcd.tmp", b"half")
    assert find_garbage(store) == []
    age(store)
    garbage = find_garbage(store)
    assert len(garbage) == len(names)
    collect(store, garbage)
    assert store.files("studies") == []


def test_lost_attempts_and_checkpoints_go(tiny: Any, store: Store, tmp_path: Path) -> None:
    study = tiny(methods=["finetune"])
    swept(study, store)
    key, kind = next((k, kind) for k, kind in store.listing().finished.items() if kind == "learn")
    folder = stage_folder(kind, key)
    store.write(f"{folder}/loser/model.safetensors", b"lost the race")
    store.write(f"{folder}/checkpoint/000000001-x.safetensors", b"left behind")
    age(store)
    garbage = find_garbage(store)
    assert {item.folder for item in garbage} == {f"{folder}/loser", f"{folder}/checkpoint"}
    collect(store, garbage)
    assert find_garbage(store) == []
    assert store.fetch(kind, key).is_dir()


def test_keep_leaves_drops_what_nothing_reads_any_more(tiny: Any, store: Store) -> None:
    study = tiny(methods=["lamol"], keep="leaves")
    whole = swept(tiny(methods=["lamol"]), Store(store.root + "-whole"))
    experiment = swept(study, store)
    dropped = {model.key for model in intermediate(plan(study.trials(), store).every)}
    assert dropped
    assert store.listing().dropped == dropped
    assert experiment.scores().equals(whole.scores())
    assert plan(study.trials(), store).missing == frozenset()
    # A model that is needed again is to do again, and gives the same bits.
    grown = tiny(methods=["lamol", "l2kd"], keep="leaves")
    again = {stage.key for stage in plan(grown.trials(), store).missing} & dropped
    assert again
    before = {key: manifest_of(store, "learn", key) for key in again}
    swept(grown, store)
    for key, manifest in before.items():
        assert manifest_of(store, "learn", key).files == manifest.files


def manifest_of(store: Store, kind: str, key: str) -> Manifest:
    manifest = store.manifest(kind, key)
    assert manifest is not None
    return manifest


def test_models_of_another_study_are_not_dropped(tiny: Any, store: Store) -> None:
    swept(tiny(methods=["lamol"], name="other"), store)
    swept(tiny(methods=["lamol"], keep="leaves"), store)
    assert store.listing().dropped == frozenset()


def test_without_sharing_every_trial_does_its_own(tiny: Any, store: Store) -> None:
    shared, alone = tiny(methods=["l2kd"]), tiny(methods=["l2kd"], share=False)
    students = [trial for trial in alone.trials() if trial.method == "l2kd"]
    stages: list[Stage] = [stage for trial in students for stage in trial.stages()]
    assert len({stage.key for stage in stages}) == len(stages)
    for study, saves in ((shared, True), (alone, False)):
        counts = plan((t for t in study.trials() if t.method == "l2kd"), store).stages.values()
        assert (sum(c.naive for c in counts) > sum(c.unique for c in counts)) is saves


def test_differences_name_the_first_cause(tiny: Any, store: Store) -> None:
    def last(**changes: Any) -> str:
        study = tiny(methods=["lamol"], **changes)
        trial = next(trial for trial in study.trials() if trial.method == "lamol")
        obtain(trial.steps[-1][0].stage.model, store)
        return trial.steps[-1][0].stage.model.key

    keys = [last(train={"epochs": 1, "lr": lr}) for lr in (1e-3, 1e-2)]
    reader = StoreView(store)
    one, other = (find(reader, key[:12]) for key in keys)
    found = differences(reader, one, other)
    assert found["optimisation"] == {"lr": [1e-3, 1e-2]}
    assert found["start"]["optimisation"] == {"lr": [1e-3, 1e-2]}
    assert set(found) == {"start", "optimisation", "replay"}
    assert differences(reader, one, one) == {}
    with pytest.raises(InputError, match="no finished stage"):
        find(reader, "zzz")


def starts(store: Store) -> int:
    return sum("/starts/" in entry.path for entry in store.files("stages"))


def test_a_second_study_does_only_its_own(tiny: Any, store: Store) -> None:
    first, second = tiny(methods=["lamol"]), tiny(methods=["lamol", "l2kd"], name="second")
    swept(first, store)
    before = starts(store)
    assert before == len(keys(first))  # each stage once
    todo = plan(second.trials(), store).missing
    swept(second, store)
    assert {stage.key for stage in todo} == keys(second) - keys(first)
    assert starts(store) - before == len(todo)
