"""The outlook of a study while it runs, and how it is shown."""

from __future__ import annotations

import heapq
import io
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from helpers.finished import finish
from helpers.studies import planned
from rich.console import Console
from typer.testing import CliRunner

from l2kd_ray.cli import app
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store
from l2kd_ray.report import live
from l2kd_ray.study import Study, evidence
from l2kd_ray.study.outlook import Outlook, Remaining, outlook
from l2kd_ray.study.plan import plan
from l2kd_ray.study.snapshot import Snapshot

STARTED = datetime.fromisoformat("2026-01-01T00:00:00+00:00").timestamp()
"""Of every finished stage; each took 2 seconds."""


@pytest.fixture
def half(store: Store) -> tuple[Study, Store]:
    """The references are done, and the students after one of two tasks."""
    study = planned(methods=("lamol", "l2kd"))
    finish(study, store, learned=1)
    return study, store


def seen(study: Study, store: Store, since: float | None = None, **more: Any) -> Outlook:
    return outlook(Snapshot(study, StoreView(store), **more), since)


def test_a_half_finished_study_says_how_far_it_is(half: tuple[Study, Store]) -> None:
    study, store = half
    found = seen(study, store)
    assert found.stages["multitask"] == (1, 1)
    done, wanted = found.stages["evaluate"]
    assert 0 < done < wanted
    assert not found.done
    assert found.remaining is None  # no sweep is running
    by_method = {arm.method: arm for arm in found.arms}
    assert (by_method["multitask"].done, by_method["multitask"].wanted) == (1, 1)
    arm = by_method["l2kd"]
    assert (arm.done, arm.wanted, arm.orders, arm.orders_wanted) == (0, 2, 0, 2)
    assert arm.gap != arm.gap
    finish(study, store)
    found = seen(study, store)
    assert found.done
    arm = {arm.method: arm for arm in found.arms}["l2kd"]
    assert (arm.done, arm.orders, arm.orders_wanted, arm.gap) == (2, 2, 2, 0.0)
    assert found.core_hours == pytest.approx(2 / 3600 * sum(n for n, _ in found.stages.values()))


def test_a_failed_stage_is_counted_by_the_arms_that_need_it(half: tuple[Study, Store]) -> None:
    study, store = half
    trial = next(t for t in study.trials() if t.method == "l2kd")
    failure = {"kind": "learn", "key": trial.steps[-1][0].stage.model.key}
    found = seen(study, store, failures=[{**failure, "error": "", "traceback": ""}])
    assert {arm.method: arm.failed for arm in found.arms}["l2kd"] == 1
    assert found.failures == 1


def test_what_runs_where_is_what_has_begun_and_not_ended(half: tuple[Study, Store]) -> None:
    study, store = half
    missing = Snapshot(study, StoreView(store)).plan.missing
    stage = next(stage for stage in missing if stage.kind == "learn")
    store.note_start(stage.kind, stage.key, "first")
    (one,) = seen(study, store, since=time.time() - 60).running
    assert (one.kind, one.key) == ("learn", stage.key)
    assert one.host
    assert one.seconds < 60
    assert seen(study, store, since=time.time() + 60).running == []  # of a former sweep
    finish(study, store)
    assert seen(study, store, since=time.time() - 60).running == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_time_left_holds_what_a_schedule_takes(
    workers: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = planned(methods=("lamol", "l2kd"), tasks=("gen.rest", "gen.hotel", "gen.intent"))
    finish(study, store, learned=2)
    busy = 2.0 * len(store.listing().finished)
    monkeypatch.setattr(time, "time", lambda: STARTED + busy / workers)
    snapshot = Snapshot(study, StoreView(store))
    left = outlook(snapshot, STARTED).remaining
    assert left is not None
    took = scheduled(snapshot.plan.missing, workers)
    assert left.low <= took <= left.high
    assert left.low <= left.seconds <= left.high
    assert left.unknown == []


def scheduled(stages: frozenset[Stage], workers: int) -> float:
    """The time that a schedule takes in which no worker is idle while a stage is ready."""
    ends: dict[Stage, float] = {}
    free = [0.0] * workers
    left = set(stages)
    while left:
        ready = {
            stage: max((ends.get(source, 0.0) for _, source in stage.inputs()), default=0.0)
            for stage in left
            if not any(source in left for _, source in stage.inputs())
        }
        stage = min(ready, key=lambda one: (ready[one], one.key))
        begin = max(heapq.heappop(free), ready[stage])
        ends[stage] = begin + 2.0
        heapq.heappush(free, ends[stage])
        left.remove(stage)
    return max(ends.values())


def test_kinds_that_have_not_finished_are_named(store: Store) -> None:
    study = planned(methods=("lamol",))
    finish(study, store, learned=0)
    left = seen(study, store, since=STARTED).remaining
    assert left is not None
    assert "replay" in left.unknown
    assert "without replay" in live.end_words(left, 0.0)


def test_words_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert live.end_words(Remaining(360, 300, 600, []), 0.0) == (
        "about 6 min left, ends 00:06 (00:05 to 00:10)"
    )
    assert "ends Fri 00:00" in live.end_words(Remaining(86400, 86400, 90000, []), 0.0)
    assert live.duration(40) == "40 s"
    assert live.duration(3 * 3600) == "3.0 h"


ROWS = [("learn", 3, 12, 2), ("evaluate", 5, 0, 0)]


def shown(found: Outlook | None, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as text:
        console.print(live.picture("1:05", ROWS, 1, found))
    return str(text.get())


def test_the_picture_and_the_line_say_the_same(half: tuple[Study, Store]) -> None:
    study, store = half
    finish(study, store)
    found = seen(study, store)
    for text in (shown(found), live.one_line("1:05", ROWS, 1, found)):
        for word in ("1:05", "1 failed", "learn", "lamol", "l2kd", "0.0", "2 of 2", "core-hours"):
            assert word in text
    assert "3 of 12" in shown(None)
    assert live.one_line("1:05", ROWS, 0, None) == "[1:05] learn 3/12, evaluate 5"


def test_of_one_order_a_gap_is_over_seeds(half: tuple[Study, Store]) -> None:
    found = seen(*half)
    arm = replace(found.arms[0], done=3, wanted=5, gap=1.5, orders=0)
    for orders, words in ((0, "(3 of 5 seeds)"), (1, "(3 of 5 seeds)"), (6, "(0 of 6 orders)")):
        now = replace(found, arms=[replace(arm, orders_wanted=orders)])
        assert f"1.5 {words}" in live.one_line("1:05", ROWS, 0, now)


def test_a_log_gets_a_line_a_minute_at_most(
    half: tuple[Study, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream, looks = io.StringIO(), list[float]()

    def look() -> Outlook:
        looks.append(now[0])
        raise OSError("the storage is away")

    with live.LiveView(look, stream) as view:
        for tick in range(600):
            now[0] = tick / 2
            view(ROWS, 0)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("[0:10]")
    assert len(lines) == 5  # of five minutes
    assert all(b - a >= 5 for a, b in pairwise(looks))


def test_watch_needs_no_sweep_and_ends_with_the_study(
    study_file: Any, store: Store, tiny: Any
) -> None:
    file, study = study_file(methods=["lamol"]), tiny(methods=["lamol"])
    finish(study, store, learned=1)
    once = CliRunner().invoke(app, ["watch", str(file), "--once"])
    assert once.exit_code == 0, once.output
    assert "No sweep is running" in once.output
    assert "0 of 2" in once.output
    finish(study, store)
    ended = CliRunner().invoke(app, ["watch", str(file)])
    assert ended.exit_code == 0
    assert "2 of 2" in ended.output


def test_an_outlook_that_is_renewed_reads_only_what_is_new(
    half: tuple[Study, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, store = half
    reader, read = StoreView(store), list[Mapping[str, str]]()
    manifests = store.manifests

    def counted(stages: Mapping[str, str]) -> Any:
        read.append(stages)
        return manifests(stages)

    monkeypatch.setattr(store, "manifests", counted)
    known = outlook(Snapshot(study, reader), None)
    read.clear()
    assert not reader.update()
    assert outlook(Snapshot(study, reader), None) == known
    assert not any(read)
    finish(study, store)
    assert reader.update()
    assert outlook(Snapshot(study, reader), None).done


def test_stages_of_different_devices_and_their_memory_are_said(store: Store) -> None:
    """In the status, in the report and in a plan of more of the same."""
    study = planned(methods=("lamol",))
    card = {"device": "cuda", "gpu": "NVIDIA H200", "peak_memory": 3 * 10**9}
    finish(study, store, where={"learn": card})
    found = seen(study, store)
    assert set(found.devices) == {"CPU", "NVIDIA H200"}
    assert "tokens" in found.stages  # such a stage would never use a card, and does not count
    assert sum(found.devices.values()) < sum(done for done, _ in found.stages.values())
    assert f"{found.devices['NVIDIA H200']} stages on NVIDIA H200" in shown(found, 300)

    inputs = evidence.shown(Snapshot(study, StoreView(store)))
    assert inputs["devices"] == found.devices
    peaks = dict(zip(inputs["costs"]["kind"], inputs["costs"]["peak_gb"], strict=True))
    assert peaks["learn"] == 3.0

    more = plan(planned(methods=("lamol",), seeds=[532]).trials(), StoreView(store))
    assert more.peak_memory == {"learn": 3 * 10**9}
