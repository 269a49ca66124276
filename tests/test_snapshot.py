"""A verb reads a study once: one listing of the stages, each manifest at most once."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.studies import TINY

import l2kd_ray
from l2kd_ray.cli import app
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.stage import CURVE, Stage
from l2kd_ray.core.store import MANIFEST, Damaged, Listing, Store
from l2kd_ray.experiment import Experiment
from l2kd_ray.study import garbage
from l2kd_ray.study.agenda import Wanted
from l2kd_ray.study.curves import curves_of
from l2kd_ray.study.evidence import _Predictions
from l2kd_ray.study.snapshot import Snapshot

SMALL = {**TINY, "methods": ["lamol"], "train": {**TINY["train"], "epochs": 1}}
# What is asked of the study that was not swept: it stops, searches, and is not finished.
OTHERS: dict[str, dict[str, Any]] = {
    "another seed": {"seeds": [531, 532]},
    "a stop rule": {"tune": {"stop": {"half_width": 50.0}}},
    "a race": {
        "search": {"replay.weight": {"grid": [1.0, 2.0]}},
        "tune": {"scheduler": "race"},
    },
    "a half": {
        "search": {"replay.weight": {"grid": [1.0, 2.0]}, "select_on": {"orders": "half"}},
    },
}


class Counted:
    """How often each file was read and each folder listed."""

    def __init__(self) -> None:
        self.read, self.listed = Counter[str](), Counter[str]()

    @property
    def manifests(self) -> dict[str, int]:
        return {path: n for path, n in self.read.items() if path.endswith(MANIFEST)}


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    counted, read, files = Counted(), Store.read, Store.files

    def counted_read(store: Store, path: str) -> bytes | None:
        counted.read[path] += 1
        return read(store, path)

    def counted_files(store: Store, path: str, **how: Any) -> Any:
        counted.listed[path] += 1
        return files(store, path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", counted_read)
        patch.setattr(Store, "files", counted_files)
        yield counted


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study file and the storage of its sweep."""
    folder = tmp_path_factory.mktemp("finished")
    data = {**SMALL, "storage": str(folder / "results")}
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    l2kd_ray.load_study(folder / "study.yaml").sweep("inline")
    return folder


@pytest.fixture(scope="module", params=["local", "s3"])
def storage(request: pytest.FixtureRequest, finished: Path) -> str:
    if request.param == "local":
        return str(finished / "results")
    bucket = uuid.uuid4().hex
    store = Store(f"s3://{bucket}/prefix?{request.getfixturevalue('s3')}")
    store.filesystem.create_dir(bucket)
    for path in (finished / "results").rglob("*"):
        if path.is_file():
            store.upload(path, str(path.relative_to(finished / "results")))
    return store.root


def command(*words: str) -> Callable[[str, str], None]:
    """A verb of the command line, on a study file and a storage, in this process."""

    def ask(file: str, storage: str) -> None:
        with patch("l2kd_ray.cluster.guard.guarded", return_value=None):
            app([*words, file, f"storage={storage}"], standalone_mode=False)

    return ask


def export(file: str, storage: str) -> None:
    trial = l2kd_ray.load_study(file).study.trials()[-1].id
    words = ["export", trial, "model", "--study", file, "--set", f"storage={storage}"]
    app(words, standalone_mode=False)
    assert Path("model", "model.safetensors").is_file()


def gc(file: str, storage: str) -> None:
    app(["gc", "--storage", storage], standalone_mode=False)


def explain(file: str, storage: str) -> None:
    cells = l2kd_ray.load_study(file).study.trials()[-1].steps
    keys = [step[0].stage.key for step in (cells[-1], cells[-2])]
    app(["explain", *keys, "--storage", storage], standalone_mode=False)


def results(file: str, storage: str) -> None:
    assert len(l2kd_ray.load_study(file, storage=storage).results())


def forecast(file: str, storage: str) -> None:
    l2kd_ray.load_study(file, storage=storage).forecast("head + 2 x local")


VERBS: dict[str, Callable[[str, str], None]] = {
    "plan": command("plan"),
    "data": command("data"),
    "status": command("status"),
    "report": command("report"),
    "sweep": command("sweep"),
    "sweep inline": command("sweep", "--inline"),
    "results": results,
    "forecast": forecast,
    "export": export,
    "explain": explain,
    "gc": gc,
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_reads_each_manifest_at_most_once(
    verb: str, finished: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "GRACE", timedelta(0))  # gc looks at young stages, too
    with counting(monkeypatch) as counted:
        VERBS[verb](str(finished / "study.yaml"), storage)
    assert set(counted.manifests.values()) <= {1}
    assert counted.listed["stages"] == 1
    stages = len((finished / "results/studies/tiny/keys").read_text().splitlines()) - 1  # the seal
    # Counts need no manifest; a training and a test stage of each task tell what is cut.
    wanted = {"plan": 4, "data": 4, "status": 0, "gc": 0, "forecast": 0, "export": 1}
    if verb in wanted:
        assert len(counted.manifests) == wanted[verb]
    elif verb not in ("results", "explain"):  # they read what they show
        assert len(counted.manifests) == stages


@pytest.mark.parametrize("verb", ["plan", "status", "report", "results"])
@pytest.mark.parametrize("name", OTHERS)
def test_so_it_does_of_a_study_that_its_results_decide(
    name: str, verb: str, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("l2kd_ray.analysis.looks.FEWEST_WITH_A_LOOK", 0)  # the race is of 2 orders
    file, storage = tmp_path / "other.yaml", str(finished / "results")
    file.write_text(yaml.safe_dump({**SMALL, "name": "other", **OTHERS[name]}))
    with counting(monkeypatch) as counted:
        VERBS[verb](str(file), storage)
    assert set(counted.manifests.values()) <= {1}
    assert counted.listed["stages"] == 1


def test_trials_are_made_once_a_verb(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from l2kd_ray.study import Study

    made, trials = list[Any](), Study._trials

    def counted(study: Study, settings: Any) -> Any:
        made.append(settings)
        return trials(study, settings)

    monkeypatch.setattr(Study, "_trials", counted)
    experiment: Experiment = l2kd_ray.load_study(finished / "study.yaml")
    made.clear()
    experiment.sweep("inline")
    assert len(made) <= 1


class Known:
    """A storage of which the listing is known; it counts nothing."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.finished = {stage.key: stage.kind for stage in stages}

    def listing(self) -> Listing:
        return Listing(self.finished, frozenset())

    def manifests(self, stages: Mapping[str, str]) -> dict[str, Manifest]:
        return {}


def test_a_trial_is_done_with_its_last_evaluation(tiny: Any) -> None:
    study = tiny(methods=["finetune", "lamol"])
    first, second, *_ = trials = study.trials()
    stages = {stage for trial in trials for stage in trial.stages()}
    cells: list[set[Stage]] = [{cell.stage for cell in trial.cells} for trial in trials]
    for missing, done in [
        (set[Stage](), trials),
        (cells[0] - cells[1], [trial for trial in trials if trial != first]),
        ({trials[-1].steps[-1][-1].stage}, trials[:-1]),
        (set.union(*cells), []),
    ]:
        found = Snapshot(study, cast("StoreView", Known(stages - missing)))
        assert found.done == done
    assert second != first


def test_a_trial_that_failed_is_not_waited_for(tiny: Any) -> None:
    study = tiny(methods=["lamol"])
    trials = study.trials()
    lost = trials[-1].steps[-1][-1].stage
    known = Known({stage for trial in trials for stage in trial.stages()} - {lost})
    failures = [{"kind": lost.kind, "key": lost.key, "error": "", "traceback": ""}]
    for found, complete in [
        (Snapshot(study, cast("StoreView", known)), False),
        (Snapshot(study, cast("StoreView", known), failures), True),
    ]:
        assert found.wanted.complete == complete
        assert len(found.failed_instances) == int(complete)
    bound = next(stage for stage in trials[0].stages() if stage.kind == "multitask")
    lost_bound = [{"kind": "multitask", "key": bound.key, "error": "", "traceback": ""}]
    found = Snapshot(study, cast("StoreView", Known([])), lost_bound)
    assert not found.failed_instances  # a reference is no instance of an order


def test_of_an_adaptive_search_the_settings_tried_are_wanted(tiny: Any) -> None:
    study = tiny(methods=["l2kd"], search={"kd.temperature": {"uniform": [1, 4]}})
    tried = {"l2kd": [{"kd.temperature": 2.0}, {"kd.temperature": 3.0}]}
    found = Snapshot(study, cast("StoreView", Known([])), tried=tried)
    settings = [trial.setting for trial in found.trials if trial.method == "l2kd"]
    assert {value["kd.temperature"] for value in settings} == {2.0, 3.0}
    assert len(settings) == 2 * len(study.orders)


def test_no_selection_reads_a_setting_that_a_race_gave_up(tiny: Any) -> None:
    found = Snapshot(tiny(methods=["lamol"]), cast("StoreView", Known([])))
    rows = [
        {"method": "lamol", "setting": setting, "split": split}
        for setting in ("{}", "lost")
        for split in ("dev", "test")
    ]
    found.__dict__["wanted"] = Wanted((), dropped={"lamol": {"lost": 6}})
    found.__dict__["scores"] = pd.DataFrame(rows)
    assert found.selectable.to_dict("records") == [rows[0], rows[1], rows[3]]


def test_files_that_were_dropped_are_not_there_and_what_was_read_is_forgotten(
    tiny: Any, store: Store
) -> None:
    stage = tiny(methods=["finetune"]).trials()[-1].steps[0][0].stage.examples
    obtain(stage, store)
    reader, asked = StoreView(store), {stage.key: stage.kind}
    assert reader.has_files(stage.key)
    assert set(reader.manifests(asked)) == {stage.key}
    store.drop_files(stage.kind, stage.key)
    assert reader.has_files(stage.key)  # as it was at the first question
    reader.renew()
    assert not reader.has_files(stage.key)
    assert set(reader.manifests(asked)) == {stage.key}
    store.withdraw(Damaged(stage.kind, stage.key, "by hand"))
    reader.renew()
    assert reader.manifests(asked) == {}


def test_what_was_run_is_listed_anew(tiny: Any, store: Store) -> None:
    """A snapshot stays as it was; the sweep's own has what the sweep did."""
    experiment = Experiment(tiny(methods=["lamol"]), store, "l2kd sweep")
    before = experiment.snapshot()
    assert before.scores.empty
    ended = experiment.sweep("inline")
    assert len(before.scores) == 0
    assert len(ended.snapshot.done) == len(ended.snapshot.trials)
    assert ended.snapshot.wanted.complete
    assert experiment.scores().equals(ended.snapshot.scores)
    trained = {m.key for m in ended.snapshot.manifests.values() if CURVE in m.files}
    curves = curves_of(ended.snapshot, ended.snapshot.trials)
    assert set(curves["key"]) == trained & set(ended.snapshot.scores["model"])
    assert curves["loss"].notna().all()


@pytest.mark.parametrize(
    ("aggregate", "known"), [(25.0, True), (31.0, False)], ids=["mean", "corpus"]
)
def test_the_gaps_on_test_examples_are_of_metrics_that_are_means(
    aggregate: float, known: bool
) -> None:
    """By seed, orders averaged; a task whose score is no mean over examples has none."""
    each = {"m": [90.0, 50.0], "a": [40.0, 10.0], "b": [20.0, 30.0]}
    scores = {"m": 70.0, "a": aggregate, "b": 25.0}
    trials = {
        name: SimpleNamespace(steps=[[SimpleNamespace(split="test", task="t", stage=_stage(name))]])
        for name in each
    }
    snapshot = SimpleNamespace(
        manifests={name: SimpleNamespace(key=name, scores={"em": scores[name]}) for name in each},
        reader=SimpleNamespace(
            each=lambda stages, *_: {s.key: (np.array(each[s.key]), ["d", "e"]) for s in stages}
        ),
    )
    read = _Predictions(cast("Any", snapshot), cast("Any", trials.values()))
    bound = pd.DataFrame({"seed": ["531"], "trial": ["m"]})
    rows = pd.DataFrame({"seed": ["531r7", "531r8"], "trial": ["a", "b"]})
    found = read.gaps(
        read.by_seed(bound, cast("Any", trials)), read.by_seed(rows, cast("Any", trials))
    )
    assert bool(found) is known
    if known:
        assert found["t"].gaps.tolist() == [[60.0, 30.0]]
        assert list(found["t"].clusters) == ["d", "e"]


def _stage(key: str) -> SimpleNamespace:
    return SimpleNamespace(key=key, metric_name="em")
