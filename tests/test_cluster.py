"""Ray: three executors with one contract, the pool, and sweeps."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from typer.testing import CliRunner

from l2kd_ray import cli
from l2kd_ray.api import submit_study
from l2kd_ray.cluster.executors import DRIVER, Job, Notice, submit, this_cluster
from l2kd_ray.cluster.pool import Admission, StageFailed, StagePool
from l2kd_ray.core.device import device_of
from l2kd_ray.core.execute import execute, obtain
from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.core.store import Damaged, Store
from l2kd_ray.errors import InputError
from l2kd_ray.families.evaluate import Evaluate
from l2kd_ray.families.language.methods.merge import Merge
from l2kd_ray.families.language.stages.learn import Learn, Multitask
from l2kd_ray.families.language.stages.replay import SAMPLES, RealSamples, Replay
from l2kd_ray.families.language.stages.start import Initial
from l2kd_ray.study.sections import Scale, Workers
from l2kd_ray.testing.executors import ExecutorSuite, Fails, Run

# No dropout: then one worker and two differ by rounding alone.
STUDENT = {
    "arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96,
    "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip


def student(tiny: Any, **changes: Any) -> Learn:
    """The last student of an L2KD path: replay, a teacher, everything."""
    study = tiny(methods=["l2kd"], student=STUDENT, **changes)
    trial = next(trial for trial in study.trials() if trial.method == "l2kd")
    model = trial.steps[-1][0].stage.model
    assert isinstance(model, Learn)
    return model


def prepare(stage: Stage, store: Store) -> None:
    for _, source in stage.inputs():
        obtain(source, store)


def task(stage: Stage, store: Store) -> Scores:
    return ray.get(submit(Job(stage, Workers(), 60.0), store, stage.kind))


def train(stage: Stage, store: Store) -> Scores:
    return ray.get(submit(Job(stage, Workers(workers=2), 60.0), store, stage.kind))


class TestInline(ExecutorSuite):
    @pytest.fixture
    def run(self) -> Run:
        return obtain


class TestTask(ExecutorSuite):
    @pytest.fixture
    def run(self, local_ray: None) -> Run:
        return task


class TestTrain(ExecutorSuite):
    workers = 2

    @pytest.fixture
    def run(self, local_ray: None) -> Run:
        return train

    @pytest.mark.drill  # Ray Train starts its workers four times before it gives up
    def test_a_failure_is_raised_and_nothing_is_published(self, run: Run, store: Store) -> None:
        super().test_a_failure_is_raised_and_nothing_is_published(run, store)

    @pytest.mark.drill  # it starts Ray Train to find nothing to do
    def test_a_stage_that_is_there_already_is_not_run_again(
        self, run: Run, store: Store, stage: Stage
    ) -> None:
        super().test_a_stage_that_is_there_already_is_not_run_again(run, store, stage)


SILENT_HEAD = """
import os, signal, subprocess
import ray
import torch
from l2kd_ray.cluster.session import leave

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
children = ["pgrep", "-P", str(os.getpid()), "-f", "gcs_server"]
(head,) = map(int, subprocess.run(children, capture_output=True, text=True).stdout.split())
os.kill(head, signal.SIGSTOP)
leave(patience=2)
print("left", head)
"""


@pytest.mark.drill  # a Ray of its own, which is slow to end
def test_a_head_that_does_not_answer_is_left() -> None:
    """The process ends by itself, with its own exit code, and the head with it."""
    command = [sys.executable, "-c", SILENT_HEAD]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    _, head = ended.stdout.split()[-2:]
    assert not Path("/proc", head).exists()


@pytest.mark.drill
def test_workers_share_out_what_is_generated(tiny: Any, tmp_path: Path, local_ray: None) -> None:
    """Replay by two workers is, sample by sample, that by one: each row has draws of its own."""
    replay = next(s for _, s in student(tiny).inputs() if s.kind == "replay")
    assert Scale(replay=Workers(workers=2)).of(Replay) == Workers(workers=2)
    texts = {}
    for run in (obtain, train):
        store = Store(str(tmp_path / run.__name__))
        prepare(replay, store)
        scores = run(replay, store)
        samples = store.fetch(replay.kind, replay.key) / SAMPLES
        texts[run.__name__] = samples.read_text(), scores
    assert texts["obtain"] == texts["train"]
    assert len(texts["train"][0].splitlines()) > 2


def test_a_driver_asks_its_own_cluster(local_ray: None, tmp_path: Path) -> None:
    """Also where `ray start` was run on this machine, once or for somebody else."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.2:1")

    @ray.remote
    def address() -> str:
        return ray._private.services.canonicalize_bootstrap_address_or_die(None)

    elsewhere = {"RAY_TMPDIR": str(tmp_path)}
    guessed = address.options(runtime_env={"env_vars": elsewhere})
    told = address.options(runtime_env={"env_vars": elsewhere | this_cluster()["env_vars"]})
    here = ray.get_runtime_context().gcs_address
    assert ray.get([guessed.remote(), told.remote()]) == ["127.0.0.2:1", here]


def test_a_stage_that_cannot_be_distributed_is_not() -> None:
    scale = Scale(workers=4, multitask=Workers(workers=(2, 8)))
    assert scale.of(Evaluate).workers == 1
    assert scale.of(Learn).workers == 4
    assert scale.of(Multitask).maximum == 8


def test_a_stage_that_uses_no_gpu_holds_none() -> None:
    scale = Scale(gpus_per_worker=0.5, replay=Workers(workers=2))
    assert scale.of(Replay).gpus_per_worker == 0.5
    assert [scale.of(one).gpus_per_worker for one in (RealSamples, Merge, Initial)] == [0, 0, 0]


@dataclass(frozen=True, eq=False)
class Slow(Stage):
    """Notes each of its starts in a file, and fails where it is told to."""

    kind = "evaluate"
    log: str
    fails: bool = False
    source: Stage | None = None

    def run(self, context: Context) -> Mapping[str, float]:
        time.sleep(0.3)
        with open(self.log, "a") as file:
            file.write(f"{self.key}\n")
        if self.fails:
            raise ValueError("it was told to fail")
        return {"score": 1.0}


def start_pool(store: Store) -> Any:
    pool = ray.remote(StagePool).options(num_cpus=0, max_concurrency=1000)
    return pool.remote(store, Scale(), 2.0, {}, {}, "x")


def test_a_stage_that_many_ask_for_is_run_once(
    store: Store, tmp_path: Path, local_ray: None
) -> None:
    pool, log = start_pool(store), tmp_path / "log"
    shared = Slow(str(log))
    above = [Slow(str(log), source=shared) for _ in range(3)]
    asked = [pool.scores.remote(stage) for stage in [shared] * 16 + above]
    assert [scores["score"] for scores in ray.get(asked)] == [1.0] * 19
    assert len(log.read_text().splitlines()) == 2  # `shared`, and the one stage above it
    again = start_pool(store)
    assert ray.get(again.scores.remote(above[0])) == {"score": 1.0}
    assert len(log.read_text().splitlines()) == 2  # the store answers


def test_what_is_expected_is_begun_before_anyone_asks(
    store: Store, tmp_path: Path, local_ray: None
) -> None:
    """An autoscaler sees it; a failure among it takes nothing else with it, and is told."""
    log = tmp_path / "log"
    shared, broken = Slow(str(log)), Slow(str(tmp_path / "broken"), fails=True)
    last = [Slow(str(log), source=shared), Slow(str(tmp_path / "other"), source=shared)]
    pool = start_pool(store)
    ray.get(pool.expect.remote([broken, *last]))
    deadline = time.monotonic() + 30
    while not all(store.manifest(one.kind, one.key) for one in last):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert ray.get(pool.scores.remote(last[0])) == {"score": 1.0}
    with pytest.raises(StageFailed, match="told to fail"):
        ray.get(pool.scores.remote(broken))
    assert len(log.read_text().splitlines()) == 2


def test_no_more_is_begun_ahead_than_the_head_can_hold(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr("l2kd_ray.cluster.pool.AHEAD", 2)

    async def everything() -> None:
        pool = StagePool(store, Scale(), 2.0, {}, {}, "x")

        async def once(stage: Stage) -> Mapping[str, float]:
            begun.append(stage.key)
            await asyncio.sleep(0.01)
            return {}

        monkeypatch.setattr(pool, "_once", once)
        stages = [Slow(str(tmp_path / name)) for name in "abcde"]
        await pool.expect(stages[:4])
        await pool.expect(stages[4:])
        await asyncio.sleep(0)
        assert begun == [stage.key for stage in stages[:2]]
        await asyncio.sleep(0.2)
        assert begun == [stage.key for stage in stages]

    asyncio.run(everything())


def test_prometheus_is_told_of_waiting_running_done_and_failed_stages(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, float]] = [{}]

    class Fake:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert (name, tag_keys) == ("l2kd_stages", ("study", "state"))

        def set_default_tags(self, tags: dict[str, str]) -> None:
            assert tags == {"study": "x"}

        def set(self, value: float, tags: dict[str, str]) -> None:
            told.append({**told[-1], tags["state"]: value})

    async def submit(job: Any, *_: object) -> Mapping[str, float]:
        await asyncio.sleep(0.01)
        if job.stage.fails:
            raise ValueError
        return {"score": 1.0}

    async def everything() -> None:
        pool = StagePool(store, Scale(), 1.0, {}, {}, "x")
        stages = [Slow(str(tmp_path / "a")), Slow(str(tmp_path / "b"))]
        stages.append(Slow(str(tmp_path / "c"), fails=True))
        await asyncio.gather(*map(pool.scores, stages), return_exceptions=True)

    monkeypatch.setattr("l2kd_ray.cluster.pool.Gauge", Fake)
    monkeypatch.setattr("l2kd_ray.cluster.pool.submit", submit)
    asyncio.run(everything())
    assert {"waiting": 2, "running": 1, "done": 0, "failed": 0} in told
    assert told[-1] == {"waiting": 0, "running": 0, "done": 2, "failed": 1}


def test_a_stage_runs_where_its_labels_say_or_waits(
    store: Store, tmp_path: Path, local_ray: None
) -> None:
    """Where no node has the label, Ray reports a demand for one that does, and the stage waits
    while another that was submitted later runs."""
    label = {"ray.io/market-type": "on-demand"}
    nowhere = Slow(str(tmp_path / "nowhere"))
    waiting = submit(Job(nowhere, Workers(labels=label), 60.0), store, "nowhere")
    deadline = time.monotonic() + 60
    while label not in demanded():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    node = ray.get_runtime_context().get_node_id()
    here = Slow(str(tmp_path / "here"))
    job = Job(here, Workers(labels={"ray.io/node-id": node}), 60.0)
    assert ray.get(submit(job, store, "here")) == {"score": 1.0}
    assert ray.wait([waiting], timeout=0)[0] == []
    assert not (tmp_path / "nowhere").exists()
    ray.cancel(waiting)


def demanded() -> list[dict[str, str]]:
    """The labels of each kind of task that waits for a node, as an autoscaler reads them."""
    from ray._raylet import GcsClient
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    state = get_cluster_resource_state(GcsClient(ray.get_runtime_context().gcs_address))
    return [
        {one.label_key: value for one in selector.label_constraints for value in one.label_values}
        for waiting in state.pending_resource_requests
        for selector in waiting.request.label_selectors
    ]


def test_a_notice_is_true_once_for_each_node_that_concerns_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drained: dict[str, int] = {}
    monkeypatch.setattr("ray._private.state.state.get_draining_nodes", lambda: drained)
    monkeypatch.setattr(Notice, "EVERY_S", 0.0)
    mine, any_of_group = Notice("a"), Notice()
    assert not mine()
    drained["b"] = 0
    assert not mine()
    assert any_of_group()
    drained["a"] = 0
    assert [mine(), mine()] == [True, False]
    assert [any_of_group(), any_of_group()] == [True, False]


def test_a_failure_is_remembered_and_takes_its_path_alone(
    store: Store, tmp_path: Path, local_ray: None
) -> None:
    pool, log = start_pool(store), tmp_path / "log"
    broken = Slow(str(log), fails=True)
    above, beside = Slow(str(log), source=broken), Slow(str(tmp_path / "other"))
    asked = [pool.scores.remote(stage) for stage in (above, beside, broken)]
    assert ray.get(asked[1]) == {"score": 1.0}
    for reference in (asked[0], asked[2], pool.scores.remote(above)):
        with pytest.raises(StageFailed, match="told to fail"):
            ray.get(reference)
    assert log.read_text().splitlines() == [broken.key]
    failures = ray.get(pool.progress.remote())["failures"]
    assert [failure.key for failure in failures] == [broken.key]
    assert "it was told to fail" in failures[0].traceback


def test_a_damaged_input_is_computed_again(tiny: Any, store: Store, local_ray: None) -> None:
    stage = student(tiny)
    prepare(stage, store)
    teacher = dict(stage.inputs())["teacher"]
    first = store.manifest(teacher.kind, teacher.key)
    assert first is not None
    path = store.fetch(teacher.kind, teacher.key) / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    pool = start_pool(store)
    assert "loss" in ray.get(pool.scores.remote(stage))
    second = store.manifest(teacher.kind, teacher.key)
    assert second is not None
    assert second.attempt != first.attempt
    assert second.files == first.files  # the same bits


@pytest.mark.drill
def test_a_damaged_input_of_a_distributed_stage_is_said_as_such(
    tiny: Any, store: Store, local_ray: None
) -> None:
    stage = student(tiny)
    prepare(stage, store)
    teacher = dict(stage.inputs())["teacher"]
    path = store.fetch(teacher.kind, teacher.key) / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Damaged, match=teacher.key):
        train(stage, Store(store.root))
    assert store.manifest(teacher.kind, teacher.key) is None


class Wide(Slow):
    distributable = True


def test_distributed_stages_are_admitted_first_and_none_beyond_the_cpus(tmp_path: Path) -> None:
    small = Job(Slow(str(tmp_path / "a")), Workers(), 60.0)
    wide = Job(Wide(str(tmp_path / "b")), Workers(workers=2), 60.0)
    started: list[str] = []

    async def run(admission: Admission, job: Job, name: str) -> None:
        async with admission.of(job):
            started.append(name)
            await asyncio.sleep(0.01)

    async def everyone() -> None:
        admission = Admission(2)
        jobs = [("s1", small), ("s2", small), ("s3", small), ("wide", wide), ("s4", small)]
        await asyncio.gather(*(run(admission, job, name) for name, job in jobs))

    asyncio.run(everyone())
    assert started[:2] == ["s1", "s2"]
    assert started[2] == "wide"
    assert sorted(started[3:]) == ["s3", "s4"]


def test_who_is_cancelled_while_waiting_keeps_nobody_waiting(tmp_path: Path) -> None:
    small = Job(Slow(str(tmp_path / "a")), Workers(), 60.0)
    wide = Job(Wide(str(tmp_path / "b")), Workers(workers=2), 60.0)

    async def everyone() -> None:
        admission = Admission(2)

        async def run(job: Job, until: asyncio.Event) -> None:
            async with admission.of(job):
                await until.wait()

        end = asyncio.Event()
        running = asyncio.create_task(run(small, end))
        first = asyncio.create_task(run(wide, end))  # needs what `running` holds
        behind = asyncio.create_task(run(small, done := asyncio.Event()))
        await asyncio.sleep(0)
        done.set()
        first.cancel()
        await asyncio.wait_for(behind, 5)
        end.set()
        await running

    asyncio.run(everyone())


def test_a_notice_makes_the_loop_save_itself(
    tiny: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = student(tiny)
    prepare(stage, store)
    saved: list[int] = []
    monkeypatch.setattr(Store, "save_checkpoint", lambda *words: saved.append(words[3]))
    notices = iter([False, True, *[False] * 1000])
    execute(stage, store, checkpoint_seconds=1e9, leaving=lambda: next(notices))
    assert saved == [2]


class Dashboard:
    """What `submit` asks a cluster for."""

    given: Mapping[str, Any] = {}
    study = ""

    def __init__(self, address: str) -> None:
        if not address.endswith("8265"):
            raise ConnectionError("nobody is there")

    def submit_job(self, **given: Any) -> str:
        type(self).given = given
        type(self).study = Path(given["runtime_env"]["working_dir"], "study.yaml").read_text()
        return "job-1"


def test_a_study_is_handed_over_with_nothing_of_this_machine(
    study_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2kd_ray.cluster.submit.JobSubmissionClient", Dashboard)
    monkeypatch.setenv("WANDB_API_KEY", "planted-secret")
    file, address = study_file(storage="s3://bucket/x"), "http://127.0.0.1:8265"
    words = ["kd.temperature=2", "name=sub", "wandb.entity=it's"]
    assert submit_study(file, {"kd.temperature": 2}, words, address) == "job-1"
    assert Dashboard.study == file.read_text()
    command = shlex.split(Dashboard.given["entrypoint"])
    assert command == ["l2kd", "sweep", "study.yaml", *words, "--address", "auto"]
    assert Dashboard.given["entrypoint_resources"] == {DRIVER: 1}
    assert Dashboard.given["entrypoint_num_cpus"] == 0
    assert "planted-secret" not in repr(Dashboard.given)
    done = CliRunner().invoke(cli.app, ["submit", str(file), *words, "--no-follow"])
    assert shlex.join(["l2kd", "status", str(file), *words]) in done.output
    assert Dashboard.given["metadata"] == {"study": "sub"}
    with pytest.raises(InputError, match="a folder of this machine"):
        submit_study(study_file(storage="./results"), {}, [], address)
    with pytest.raises(InputError, match="ray attach"):
        submit_study(study_file(storage="s3://bucket/x"), {}, [], "http://127.0.0.1:1")


def test_stages_are_admitted_by_their_gpus() -> None:
    """Ten stages of a tenth of the one card, with CPUs for more; the eleventh waits for one."""
    scale = Scale(gpus_per_worker=0.1)
    jobs = [Job(Fails(), scale, 60.0) for _ in range(11)]
    running, most = 0, 0

    async def run(admission: Admission, job: Job) -> None:
        nonlocal running, most
        async with admission.of(job):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

    async def everyone() -> None:
        admission = Admission(16, 1)
        await asyncio.gather(*(run(admission, job) for job in jobs))

    asyncio.run(everyone())
    assert most == 10


def test_a_gpu_that_torch_does_not_see_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("it sees one")
    with pytest.raises(InputError, match="torch sees none") as refused:
        device_of(0.5)
    assert refused.value.key == "scale.gpus_per_worker"
