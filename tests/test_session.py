"""Ray that is started here or joined: what is refused, what is said, who may reach it."""

from __future__ import annotations

import logging
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
import ray
from helpers.finished import publish
from helpers.studies import planned

from l2kd_ray.cluster import progress, session, sweep
from l2kd_ray.cluster.executors import Job
from l2kd_ray.cluster.session import RayFailed
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.study.sections import Workers
from l2kd_ray.study.trial import stages_of


def test_a_folder_too_long_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", f"/tmp/{'x' * 140}")
    with pytest.raises(InputError, match=r"(?s)TMPDIR.*at most \d\d bytes.*RAY_TMPDIR"):
        session.scratch()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert session.scratch() == "/tmp"


def test_labels_are_refused_where_ray_is_started_here(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No node that is started here has them, and Ray would wait for one."""
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    stage = next(iter(tiny().trials())).steps[-1][0].stage
    asks = Workers(labels={"ray.io/market-type": "on-demand"})
    with (
        pytest.raises(InputError, match=rf"(?s)\({stage.kind}\)\.labels.*on-demand.*--address"),
        session.started([Job(stage, asks, 60.0)]),
    ):
        pass


def test_what_a_search_will_propose_is_refused_before_anything_starts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that never fits would wait in the pool for ever; no other trial has its kind."""
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    study = planned(
        methods=["lamol"],
        search={"replay.ratio": {"uniform": [0.1, 0.6]}},
        tune={"searcher": "optuna", "num_samples": 2},
        scale={"replay": {"workers": len(os.sched_getaffinity(0)) + 1}},
    )
    with pytest.raises(InputError, match=r"scale \(replay\): a stage needs more CPUs"):
        sweep.sweep(study, StoreView(store))


def test_a_full_temporary_folder_is_said(
    tiny: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever error the library raises that could not write there (safetensors has its own)."""
    stage = next(iter(tiny().trials())).steps[-1][0].stage
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr("l2kd_ray.core.execute.shutil.disk_usage", lambda folder: full)
    monkeypatch.setattr(type(stage), "run", lambda self, context: 1 / 0)
    with pytest.raises(OSError, match="set TMPDIR") as raised:
        obtain(stage, store)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("mode", [None, "token"])
def test_only_its_owner_can_read_the_token(
    found: bool, mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray/auth_token"
    if found:
        token.parent.mkdir()
        token.write_text("a" * 64)
        token.chmod(0o644)
    session._keep_token()
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    assert (token.read_text() == "a" * 64) is found


@pytest.fixture
def _prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `session` sets in Ray is put back."""
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", None)
    monkeypatch.setattr(logging.getLogger("ray"), "handlers", [])


@pytest.mark.usefixtures("_prepared")
def test_authentication_that_is_off_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    session._prepare()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    session._prepare()
    assert "can run code" in capsys.readouterr().err


@pytest.mark.usefixtures("_prepared")
def test_errors_of_the_cluster_are_one_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    session._prepare()
    page = "Raylet is terminated.\n" + "a line of its log\n" * 20
    for _ in range(3):
        ray._private.worker.print_to_stdstream({"lines": [page]})  # type: ignore[call-arg]
    cursors = "WARNING: 8 PYTHON worker processes have been started on node: 1, 4x the maximum"
    ray._private.worker.print_to_stdstream({"lines": [cursors]})  # type: ignore[call-arg]
    # Here stderr's descriptor, where Ray's messages go, is the terminal, too.
    said = capfd.readouterr().err
    assert said.count("Ray: Raylet is terminated.\n") == 1
    assert "Ray: WARNING" not in said


@pytest.mark.usefixtures("_prepared")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (b"Unauthenticated: RPC error: InvalidAuthToken: it is missing", "asks for a token"),
        (b"nothing", "no Ray cluster there"),
    ],
)
def test_another_token_is_told_from_no_cluster(
    words: bytes, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        os.write(2, words)  # as C++ does: the exception does not say it
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(session, "_knock", lambda address: None)
    monkeypatch.setattr(session, "_asks_for_token", lambda address: True)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InputError, match=says), session.joined("127.0.0.1:6379"):
        pass
    assert words.decode() in capfd.readouterr().err


@pytest.mark.parametrize("asks", [True, False])
def test_a_token_at_hand_is_used_where_the_head_asks_for_one(
    asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself looks for one for `auto` alone."""
    looked: list[bool] = []
    monkeypatch.setattr(session, "_prepare", lambda: None)
    monkeypatch.setattr(session, "_knock", lambda address: None)
    monkeypatch.setattr(session, "_asks_for_token", lambda address: asks)
    monkeypatch.setattr(
        session,
        "maybe_enable_token_auth_if_token_available",
        lambda warn_if_disabled: looked.append(warn_if_disabled),
    )
    monkeypatch.setattr(ray, "init", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError), session.joined("127.0.0.1:6379"):
        pass
    assert looked == [False] * asks


@pytest.mark.parametrize("asks", [True, False])
def test_a_head_that_asks_for_a_token_is_recognised(asks: bool) -> None:
    class Head(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def answer(request: bytes, context: Any) -> bytes:
                if asks:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Head()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert session._asks_for_token(f"127.0.0.1:{port}") is asks
    server.stop(0)
    assert not session._asks_for_token("auto")


def test_stages_are_named_by_task_method_and_setting() -> None:
    study = planned(methods=["l2kd"], search={"kd.temperature": {"grid": [1, 4]}})
    titles = set(sweep._titles(study.trials()).values())
    assert {
        "learn gen.rest l2kd temperature=4 seed 531",
        "evaluate gen.intent l2kd temperature=4 seed 531",
        "learn gen.intent single seed 531",
        "multitask multitask seed 531",
    } <= titles


def test_a_pool_that_does_not_stay_alive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callers would wait for ever: Ray starts it again without limit."""
    killed: list[Any] = []

    def never(call: object, timeout: float) -> None:
        raise TimeoutError

    pool = SimpleNamespace(progress=SimpleNamespace(remote=lambda: None))
    monkeypatch.setattr(ray, "get", never)
    monkeypatch.setattr(ray, "kill", killed.append)
    display = progress.SweepProgress(pool, (), lambda *_: None)
    display._answered = time.monotonic() - progress.PATIENCE_S + 5
    assert display._poll() is None
    assert killed == []
    display._answered -= 10
    display._poll()
    assert killed == [pool]
    with pytest.raises(RayFailed, match="does not stay alive"):
        sweep._failures(pool)


def test_the_progress_counts_over_all_batches(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool does, and what it finished for the first batch is not of the second."""
    study, wanted, totals = planned(methods=["finetune"]), set[Stage](), list[int]()

    def shows(pool: object, stages: set[Stage], show: object) -> AbstractContextManager[None]:
        totals.append(len(stages))
        return nullcontext()

    def run(*_: object, **tuning: object) -> None:
        for stage in wanted:
            publish(store, stage, 0.0)

    monkeypatch.setattr(sweep, "SweepProgress", shows)
    monkeypatch.setattr(sweep, "_run", run)
    monkeypatch.setattr(sweep, "_failures", lambda pool: [])
    trials, reader = study.trials(), StoreView(store)
    for batch in (trials[:1], trials[1:]):
        sweep._finish(study, reader, lambda: (None, 2.0), batch, wanted, math.inf, lambda *_: None)
    assert totals == [len(stages_of(trials[:1])), len(stages_of(trials))]


OUT_OF_MEMORY = """1 worker(s) were killed due to the node running low on memory. Memory on the node
(IP: 10.0.0.7, ID: 34f684bf) was 23.1GB used / 23.54GB limit (0.98)
OOM kill reason: Memory usage 24803205696B exceeded threshold of 24012676915B (95.0% of 25276502016B
limit)"""


def test_short_memory_is_said_with_node_and_numbers() -> None:
    short = sweep._SHORT_MEMORY.search(OUT_OF_MEMORY.replace("\n", " ", 1))
    assert short is not None
    assert short.groupdict() == {
        "node": "10.0.0.7",
        "used": "23.1GB used / 23.54GB limit",
        "threshold": "95.0%",
    }


def test_an_error_of_ray_is_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RayFailed, match=r"^Ray failed \(RaySystemError: .*lost"), sweep._told():
        raise ray.exceptions.RaySystemError("lost\na page of C++")
    assert "a page of C++" in capfd.readouterr().err  # where Ray's messages go
