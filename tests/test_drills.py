"""A short set of the drills: kill what runs, start the command again, get the same bytes."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import drills
import pytest
from drills import Run, descendants, disturb, make, start, wait_for_end

from l2kd_ray.core.store import Store

SMALL: dict[str, Any] = {
    "tasks": ["gen.rest", "gen.intent"],
    "methods": ["l2kd"],
    "scale": {"checkpoint_seconds": 0.2},
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The study after a sweep without Ray, which gives the same bytes in less time."""
    folder = make(tmp_path_factory.mktemp("drills"), "reference", **SMALL)
    return disturb(folder, "stage", 0, 0, ("--inline",))


@pytest.mark.drill
@pytest.mark.parametrize("target", ["stage", "command"])
def test_whatever_is_killed_the_bytes_are_the_same(
    target: str, reference: Run, tmp_path: Path
) -> None:
    kills = 1 if target == "command" else 2
    run = disturb(make(tmp_path, target, **SMALL), target, kills, seed=1)
    assert run.kills > 0
    assert run.results() == reference.results()
    assert run.begun_again() == []


@pytest.mark.drill
@pytest.mark.parametrize(
    ("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_before_the_work_is_done_and_leaves_no_process(
    asked: signal.Signals, code: int, reference: Run, tmp_path: Path
) -> None:
    folder = make(tmp_path, "interrupted", **SMALL)
    process = start(folder)
    published = folder / "results" / "stages"
    while not list(published.glob("learn/*/*/manifest.json")):
        time.sleep(0.1)
        assert process.poll() is None, (folder / "log").read_text()
    family = descendants(process.pid)
    process.send_signal(asked)
    assert process.wait(timeout=90) == code, (folder / "log").read_text()
    assert wait_for_end(family, 30) == []
    said = (folder / "log").read_text()
    assert said.count("goes on") == 1
    assert "Traceback" not in said
    assert "SIGABRT" not in said
    finished = set(Store(str(folder / "results")).listing().finished)
    everything = set(Store(str(reference.folder / "results")).listing().finished)
    assert finished
    assert finished < everything
    run = disturb(folder, "stage", 0, 0)
    assert run.results() == reference.results()
    assert run.begun_again() == []


@pytest.mark.drill
@pytest.mark.parametrize("part", ["raylet/raylet", "gcs_server", "l2kd_ray.cli"])
def test_ray_that_dies_is_said_in_a_few_lines_and_leaves_no_process(
    part: str, tmp_path: Path
) -> None:
    """Its raylet, its head, and the process that uses it (by the kernel, when memory is short)."""
    folder = make(tmp_path, "dies", **SMALL)
    process = start(folder)
    while not list((folder / "results" / "stages").glob("learn/*/*/starts/*")):
        time.sleep(0.1)
        assert process.poll() is None, (folder / "log").read_text()
    family = descendants(process.pid)
    (victim,) = [pid for pid, title in family.items() if part in title.split(" --")[0]]
    os.kill(victim, signal.SIGKILL)
    assert process.wait(timeout=200) == 4, (folder / "log").read_text()
    assert wait_for_end(family, 5) == []
    said = (folder / "log").read_text()
    assert "what is finished is kept" in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if not line.startswith("[")]) < 10
    for named in re.findall(r"Ray's own messages: (\S+)", said):
        Path(named).unlink()
    run = disturb(folder, "stage", 0, 0)
    assert run.begun_again() == []


@pytest.mark.drill
def test_short_memory_ends_the_sweep_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that others fill: Ray kills whatever the sweep starts, again and again."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    folder = make(tmp_path, "short", **SMALL)
    process = start(folder)
    family = descendants(process.pid)
    assert process.wait(timeout=500) == 4, (folder / "log").read_text()
    assert wait_for_end(family, 5) == []
    said = (folder / "log").read_text()
    assert "memory" in said
    assert "RAY_memory_usage_threshold" in said or "stage pool" in said
    assert "what is finished is kept" in said
    for named in re.findall(r"Ray's own messages: (\S+)", said):
        Path(named).unlink()


@pytest.mark.drill
def test_a_local_sweep_listens_on_loopback_alone(tmp_path: Path) -> None:
    """And nobody else can read the token that protects it."""
    folder = make(tmp_path, "local", **SMALL)
    process = start(folder)
    while not list((folder / "results" / "stages").glob("learn/*/*/starts/*")):
        time.sleep(0.1)
        assert process.poll() is None, (folder / "log").read_text()
    family = {process.pid, *descendants(process.pid)}
    sockets = listening(family)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=90)
    assert len(sockets) > 5
    assert {"0100007F" in address for address in sockets} == {True}
    assert (folder / ".ray/auth_token").stat().st_mode & 0o777 == 0o600


def listening(pids: set[int]) -> list[str]:
    """The addresses, in hexadecimal, at which the processes accept TCP connections."""
    owned = set()
    for pid in pids:
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                owned.add(os.readlink(entry))
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in owned]


@pytest.mark.drill
def test_ctrl_c_twice_stops_at_once(reference: Run, tmp_path: Path) -> None:
    folder = make(tmp_path, "twice", **SMALL)
    process = start(folder)
    while not list((folder / "results" / "stages").glob("learn/*/*/starts/*")):
        time.sleep(0.1)
        assert process.poll() is None, (folder / "log").read_text()
    family = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    assert wait_for_end(family, 30) == []
    left = set(Store(str(folder / "results")).listing().finished)
    everything = set(Store(str(reference.folder / "results")).listing().finished)
    assert left < everything


@pytest.mark.drill
def test_two_sweeps_into_one_storage_do_no_harm(reference: Run, tmp_path: Path) -> None:
    """At worst they work twice."""
    folder = make(tmp_path, "both", **SMALL)
    pair = [start(folder), start(folder)]
    assert [process.wait(timeout=200) for process in pair] == [0, 0], (folder / "log").read_text()
    run = disturb(folder, "stage", 0, 0)
    assert run.results() == reference.results()


@pytest.mark.drill
def test_torn_and_altered_files_are_found_said_and_computed_again(
    reference: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(reference.folder, folder)
    stages = folder / "results" / "stages"
    models = sorted(stages.glob("learn/*/*/*/model.safetensors"))
    models[0].write_bytes(models[0].read_bytes()[:-7])
    harmed = bytearray(models[1].read_bytes())
    harmed[-1] ^= 1
    models[1].write_bytes(harmed)
    for manifest in stages.glob("evaluate/*/*/manifest.json"):
        manifest.unlink()  # so that every model is read again
    next(iter(sorted(stages.glob("replay/*/*/manifest.json")))).unlink()
    (stages / "learn" / "ab" / ("ab" * 16) / "half").mkdir(parents=True)
    (stages / "learn" / "ab" / ("ab" * 16) / "half" / "model.safetensors").write_bytes(b"half")
    run = disturb(folder, "stage", 0, 0)
    assert run.results() == reference.results()


@pytest.mark.drill
@pytest.mark.parametrize("harm", ["full", "read-only"])
def test_a_storage_that_refuses_in_mid_run_is_said_and_loses_nothing(
    harm: str, reference: Run, tmp_path: Path
) -> None:
    """The storage is a small tmpfs, where one can be mounted."""
    folder = make(tmp_path, harm, **SMALL)
    results = folder / "results"
    results.mkdir()
    size = "600k" if harm == "full" else "200m"
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", results]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        process = start(folder)
        if harm == "read-only":
            while not list(results.glob("stages/learn/*/*/manifest.json")):
                time.sleep(0.1)
                assert process.poll() is None, (folder / "log").read_text()
            subprocess.run(["mount", "-o", "remount,ro", results], check=True)
        assert process.wait(timeout=120) == 4
        said = "No space left" if harm == "full" else "Read-only file system"
        assert said in (folder / "log").read_text()
        assert "Traceback" not in (folder / "log").read_text()
        subprocess.run(["mount", "-o", "remount,rw,size=200m", results], check=True)
        run = disturb(folder, "stage", 0, 0)
        assert run.results() == reference.results()
        assert run.begun_again() == []
    finally:
        subprocess.run(["umount", results], check=True)


@pytest.mark.drill
def test_the_processes_that_are_killed_have_the_titles_that_drills_look_for(
    tmp_path: Path,
) -> None:
    """Without this a drill that finds nothing to kill would pass."""
    process = start(make(tmp_path, "titles", **{**SMALL, "scale": {"multitask": {"workers": 2}}}))
    seen: set[str] = set()
    while process.poll() is None and len(seen) < len(drills.TARGETS) - 1:
        titles = descendants(process.pid).values()
        seen |= {
            name
            for name, title in drills.TARGETS.items()
            if title and any(found.startswith(title) for found in titles)
        }
        time.sleep(0.05)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert seen == set(drills.TARGETS) - {"command"}


@pytest.mark.drill
def test_a_report_that_is_killed_leaves_whole_files(reference: Run, tmp_path: Path) -> None:
    """At any moment the result files are those of one report or of another."""
    folder = tmp_path / "reported"
    shutil.copytree(reference.folder, folder)
    base = folder / "results/studies/drill"
    whole = {path.name: path.read_bytes() for path in base.glob("*.parquet")}
    stream = random.Random(0)
    for _ in range(7):
        process = start(folder, verb="report")
        while not list(base.rglob("*.tmp")) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(stream.uniform(0, 0.5))
        process.kill()
        process.wait()
        assert {path.name: path.read_bytes() for path in base.glob("*.parquet")} == whole
        assert (base / "report.html").read_text().rstrip().endswith("</html>")
