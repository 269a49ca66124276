"""The folder of a study: what is kept of a sweep, and who is sweeping."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray.core.store import Store
from l2kd_ray.study.folder import Folder


@pytest.fixture
def folder(store: Store) -> Folder:
    return Folder(store, "mine")


def note(store: Store, **changes: Any) -> None:
    """Leave the note of a sweep."""
    known = {"pid": os.getpid(), "host": os.uname().nodename, "since": "2030-01-01 00:00:00"}
    store.write("studies/mine/live.json", json.dumps({**known, **changes}).encode())


def test_what_was_kept_is_read_back(folder: Folder) -> None:
    assert (folder.failures(), folder.tried(), folder.cut(), folder.resolved) == ([], {}, {}, None)
    failed = [{"kind": "learn", "key": "k", "error": "e", "traceback": "t"}]
    folder.keep_failures(failed)
    folder.keep_settings({"l2kd": [{"kd.temperature": 2}]}, {"l2kd": [{"kd.temperature": 4}]})
    assert folder.failures() == failed
    assert folder.tried() == {"l2kd": [{"kd.temperature": 2}]}
    assert folder.cut() == {"l2kd": [{"kd.temperature": 4}]}


def test_a_changed_study_leaves_its_former_file(folder: Folder, store: Store) -> None:
    def former() -> list[bytes | None]:
        paths = [entry.path for entry in store.files("studies/mine")]
        return [store.read(path) for path in paths if "study-until-" in path]

    folder.keep_study("a: 1\n")
    folder.keep_study("a: 1\n")
    assert former() == []
    folder.keep_study("a: 2\n")
    assert folder.resolved == "a: 2\n"
    assert former() == [b"a: 1\n"]


def test_the_keys_are_those_of_every_stage(folder: Folder, store: Store, tiny: Any) -> None:
    stages = tiny(methods=["finetune"]).trials()[-1].stages()
    folder.keep_keys(stages)
    lines = (store.read("studies/mine/keys") or b"").decode().splitlines()
    assert lines == sorted(f"{stage.kind} {stage.key}" for stage in stages)


def test_a_sweep_is_live_while_it_runs(folder: Folder) -> None:
    assert folder.who_is_live() is None
    with folder.live():
        assert str(os.getpid()) in (folder.who_is_live() or "")
    assert folder.who_is_live() is None
    with pytest.raises(RuntimeError), folder.live():
        raise RuntimeError
    assert folder.who_is_live() is None


def test_a_process_that_is_gone_is_not_live_but_one_elsewhere_may_be(
    folder: Folder, store: Store
) -> None:
    gone = 2**22 + 1  # above the largest process id of Linux
    assert not Path(f"/proc/{gone}").exists()
    note(store, pid=gone)
    assert folder.who_is_live() is None
    note(store, pid=gone, host="elsewhere")
    assert "on elsewhere since 2030" in (folder.who_is_live() or "")
