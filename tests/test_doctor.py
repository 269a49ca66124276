"""`l2kd doctor`: what is wrong is said, with what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray.cluster import survey as looked
from l2kd_ray.cluster.survey import PACKAGES, NodeReport
from l2kd_ray.core.store import Store
from l2kd_ray.doctor import Finding, examine

HERE = NodeReport(
    host=socket.gethostname(),
    resources={"CPU": 1.0},
    versions={name: looked._version(name) for name in PACKAGES},
    storage_s=0.01,
    storage_error="",
    shares=True,
    free_gb=100.0,
    gpus=0,
    clock_s=0.0,
)


def of(findings: Iterator[Finding], subject: str) -> list[Finding]:
    return [finding for finding in findings if finding.subject == subject]


def test_a_sound_machine_is_said_to_be_one(tmp_path: Path) -> None:
    findings = list(examine(str(tmp_path / "storage")))
    assert {f.subject for f in findings} >= {"python", "storage", "disk", "clock", "w&b", "gpu"}
    assert all(f.good for f in findings if f.subject in ("python", "storage", "clock"))
    assert not Store(str(tmp_path / "storage")).files("")  # probes are taken away


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"storage_s": None, "storage_error": "denied"}, "give the node's role access"),
        ({"versions": {**HERE.versions, "torch": "1.0"}}, "has torch 1.0"),
        ({"free_gb": 1.0}, "larger disk"),
        ({"resources": {"GPU": 1.0}}, "GPU image"),
        ({"clock_s": -60.0}, "-60.0 s from ours: turn on NTP"),
        ({"host": "elsewhere", "shares": False}, "all nodes mount"),
    ],
)
def test_what_is_wrong_with_a_node_is_said_with_what_to_do(
    change: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [replace(HERE, host="elsewhere"), replace(HERE, **change)]
    monkeypatch.setattr(looked, "survey", lambda address, storage: nodes)
    good, bad = of(examine(str(tmp_path), "auto"), "node")
    assert good.good
    assert not bad.good
    assert says in bad.text


def test_a_node_shares_a_folder_whose_new_files_it_reads(tmp_path: Path) -> None:
    """Whatever the node is called: a folder that all mount is a storage."""
    with looked._written(str(tmp_path / "ours")) as (root, probe):
        mounted = looked.look_here(root, probe)
        own = looked.look_here(str(tmp_path / "own folder of this name"), probe)
    assert (mounted["shares"], own["shares"]) == (True, False)
    assert own["storage_s"] is not None  # that it can be written there proves nothing
    assert not Store(str(tmp_path / "ours")).files("")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("RAY_TMPDIR", f"/tmp/{'x' * 140}", "at most"), ("RAY_AUTH_MODE", "disabled", "unset it")],
)
def test_what_ray_cannot_start_with_is_found(
    name: str, value: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert all(f.good for f in of(examine(str(tmp_path)), "session"))
    monkeypatch.setenv(name, value)
    (found,) = of(examine(str(tmp_path)), "session")
    assert not found.good
    assert says in found.text


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (found,) = of(examine(str(tmp_path), "127.0.0.1:1"), "cluster")
    assert not found.good
    assert "no Ray cluster there" in found.text
