"""The executors' contract as tests: subclass `ExecutorSuite` and override its fixture `run`.

    from l2kd_ray.testing.executors import ExecutorSuite

    class TestMyCluster(ExecutorSuite):
        workers = 2

        @pytest.fixture
        def run(self) -> Run:
            return lambda stage, store: my_cluster.submit(stage, store, workers=2).wait()

Needs pytest; see `testing.stores`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.stage import CURVE, Context, Scores, Stage
from l2kd_ray.core.store import Store, stage_folder
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.testing.studies import TINY, tiny

Run = Callable[[Stage, Store], Scores]
"""An executor: run a stage whose inputs are in the store, wait for it, return its scores."""


@dataclass(frozen=True, eq=False)
class Fails(Stage):
    """A stage that leaves a file and then fails."""

    kind = "evaluate"
    distributable = True
    because: str = "it was told to fail"

    def run(self, context: Context) -> Mapping[str, float]:
        (context.out / "half").write_text("half of the work")
        raise ValueError(self.because)


def student() -> Stage:
    """L2KD's student of a second task: it reads a teacher, a replay and the student before it."""
    # Without dropout, one worker and two differ by rounding alone.
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    model = {**TINY["language"]["student"], **off}
    study = resolve_study(parse_study(tiny(methods=["l2kd"], student=model)), "executors")
    trial = next(trial for trial in study.trials() if trial.method == "l2kd")
    stage: Stage = trial.steps[-1][0].stage.model
    return stage


def losses(store: Store, stage: Stage) -> list[float]:
    """The training loss of each step."""
    curve = (store.fetch(stage.kind, stage.key) / CURVE).read_text()
    return [row["loss"] for row in json.loads(curve)]


def starts(store: Store, stage: Stage) -> int:
    """How often the stage was started."""
    return len(store.files(f"{stage_folder(stage.kind, stage.key)}/starts"))


class ExecutorSuite:
    """The contract of every executor: the same stage gives the same result."""

    workers: int = 1
    """The workers that `run` uses for a stage that can be distributed."""

    @pytest.fixture
    def run(self) -> Run:
        raise NotImplementedError("override the fixture `run`")

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """An empty store that the executor's workers reach."""
        return Store(str(tmp_path / "results"))

    @pytest.fixture(scope="class")
    def stage(self) -> Stage:
        return student()

    @pytest.fixture(scope="class")
    def reference(self, stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Store:
        """A store in which the stage was run in this process, on one worker."""
        store = Store(str(tmp_path_factory.mktemp("reference")))
        obtain(stage, store)
        return store

    def test_a_stage_is_published_with_the_result_of_one_worker(
        self, run: Run, store: Store, stage: Stage, reference: Store
    ) -> None:
        """The scores returned are the manifest's and no checkpoint stays. With one worker the files
        have the same bits, with more the losses are the same but for rounding: the global batch is
        the setting."""
        for _, source in stage.inputs():
            obtain(source, store)
        scores = run(stage, store)
        found, expected = _manifest(store, stage), _manifest(reference, stage)
        assert found.scores == scores
        assert found.environment["world_size"] == self.workers
        assert (found.version, found.settings, found.inputs) == (
            expected.version, expected.settings, expected.inputs,
        )  # fmt: skip
        assert found.files.keys() == expected.files.keys()
        assert starts(store, stage) == 1
        assert not [entry for entry in store.files("stages") if "/checkpoint/" in entry.path]
        if self.workers == 1:
            assert found.files == expected.files
            assert found.scores == expected.scores
        else:
            first, *rest = losses(store, stage)
            wanted, *others = losses(reference, stage)
            assert first == pytest.approx(wanted, rel=1e-5)
            assert rest == pytest.approx(others, rel=1e-3)

    def test_a_stage_that_is_there_already_is_not_run_again(
        self, run: Run, store: Store, stage: Stage
    ) -> None:
        obtain(stage, store)
        before = _manifest(store, stage)
        assert run(stage, store) == before.scores
        assert _manifest(store, stage) == before
        assert starts(store, stage) == 1

    def test_a_failure_is_raised_and_nothing_is_published(self, run: Run, store: Store) -> None:
        stage = Fails()
        with pytest.raises(Exception, match=stage.because):
            run(stage, store)
        assert store.manifest(stage.kind, stage.key) is None
        assert not [entry for entry in store.files("stages") if entry.path.endswith("/half")]


def _manifest(store: Store, stage: Stage) -> Manifest:
    manifest = store.manifest(stage.kind, stage.key)
    assert manifest is not None
    return manifest
