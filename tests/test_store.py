"""The store: its contract on three filesystems, and what is special to a local or a remote one."""

from __future__ import annotations

import errno
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray.core.copies import COPIES
from l2kd_ray.core.execute import execute
from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.testing.stores import StoreSuite, publish


class TestLocal(StoreSuite):
    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        return str(tmp_path / "results")


class TestMemory(StoreSuite):
    """Any filesystem of fsspec."""

    @pytest.fixture
    def root(self) -> str:
        return f"memory://{uuid.uuid4().hex}"


class TestS3(StoreSuite):
    @pytest.fixture
    def root(self, s3: str) -> str:
        root = f"s3://{uuid.uuid4().hex}/prefix?{s3}"
        store = Store(root)
        store.filesystem.create_dir(store.base.split("/")[0])
        return root


def test_an_interrupted_write_leaves_the_old_bytes(store: Store) -> None:
    store.write("a/b", b"old")

    def torn() -> None:
        with store._writing("a/b") as stream:
            stream.write(b"ne")
            raise RuntimeError("torn")

    with pytest.raises(RuntimeError):
        torn()
    assert store.read("a/b") == b"old"
    assert [path.name for path in Path(store.base, "a").iterdir()] == ["b"]


def test_a_file_is_on_the_disk_before_it_has_its_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves an empty file under a name that promises a whole one."""
    done: list[str] = []
    sync, rename = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    def renamed(one: str, other: str) -> None:
        done.append(f"{Path(one).name} -> {Path(other).name}")
        rename(one, other)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.replace", renamed)
    store.write("a/b", b"new")
    assert [re.sub(r"\.[0-9a-f]{8}\.", ".x.", one) for one in done] == [
        "b.x.tmp", "b.x.tmp -> b", "a",
    ]  # fmt: skip


def test_damage_is_said_where_nothing_can_be_removed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish(store, tmp_path / "a")
    (path,) = Path(store.base).rglob("manifest.json")
    path.write_text("{")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Store, "remove", refuse)
    assert store.manifests({published.key: published.kind}) == {}


@pytest.mark.parametrize("what", ["folder", "link"])
def test_a_manifest_that_is_no_file_is_said_and_replaced(
    what: str, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = publish(store, tmp_path / "a")
    (path,) = Path(store.base).rglob("manifest.json")
    path.unlink()
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    assert store.listing().finished == {}
    assert store.manifest(published.kind, published.key) is None
    assert f"{path} is a folder, or a link to itself" in capsys.readouterr().err
    again = publish(store, tmp_path / "b")
    assert store.manifest(published.kind, published.key) == again
    assert again.attempt != published.attempt


def test_folders_are_found_where_only_files_are_listed(store: Store) -> None:
    """pyarrow's GcsFileSystem lists objects alone, and without recursion those of one level."""
    for path in ("studies/b/keys", "studies/a/tensorboard/x/points", "studies/a/keys", "studies/c"):
        store.write(path, b"")
    inner = store.filesystem

    class FilesOnly:
        type_name = "gcs"

        def get_file_info(self, selector: Any) -> Any:
            return [info for info in inner.get_file_info(selector) if info.is_file]

    assert store.folders("studies") == ["a", "b"]
    store.filesystem = FilesOnly()
    assert store.folders("studies") == ["a", "b"]
    assert store.folders("none") == []


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Store(str(tmp_path / "file" / "below")).check_writable()
    with pytest.raises(InputError, match="no such storage"):
        Store("nonsense://bucket")


@pytest.mark.parametrize("root", ["sftp://host/a", "simplecache::smb://host/a", "local:///a"])
def test_a_storage_that_shows_half_a_file_is_refused(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-written manifest is taken for a damaged one, and withdrawn."""
    with pytest.raises(InputError, match="half a file"):
        Store(root)
    monkeypatch.chdir(tmp_path)
    assert Store("sftp").is_local  # a folder of this name


def test_a_remote_storage_that_fails_now_and_then_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But not where the answer is no, and not for ever."""
    monkeypatch.setattr("l2kd_ray.core.filetree._WAITS_S", (0.0, 0.0, 0.0))
    store = Store("memory://patience")
    store.write("a", b"x")
    asked: list[str] = []

    class Failing:
        def __init__(self, *errors: OSError) -> None:
            self.errors = list(errors)

        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            if self.errors:
                raise self.errors.pop(0)
            return getattr(store.filesystem, name)

    def through(*errors: OSError) -> Store:
        asked.clear()
        other = Store("memory://patience")
        other.filesystem = Failing(*errors)
        return other

    slow = OSError("SlowDown")
    assert through(slow, slow, slow).read("a") == b"x"
    assert asked == ["open_input_stream"] * 4
    with pytest.raises(OSError, match="SlowDown"):
        through(*[slow] * 4).read("a")
    with pytest.raises(PermissionError):
        through(PermissionError()).files("")
    assert len(asked) == 1
    assert through(FileNotFoundError()).read("a") is None
    through(slow).write("b", b"y")
    assert store.read("b") == b"y"
    local = through(slow)
    local.is_local = True
    with pytest.raises(OSError, match="SlowDown"):
        local.read("a")


def _many(folder: Path) -> tuple[Store, list[str]]:
    """A remote store with more stages than copies are kept of, and their keys."""
    store = Store(f"memory://{uuid.uuid4().hex}")
    keys = [f"{n:032x}" for n in range(COPIES.AT_MOST + 2)]
    for key in keys:
        publish(store, folder, key, key)
    return store, keys


def test_a_running_stage_keeps_what_it_has_fetched(tmp_path: Path) -> None:
    """Such as all models that `merge` averages, or the data that a loop goes back to."""
    store, keys = _many(tmp_path / "files")

    @dataclass(frozen=True, eq=False)
    class Reader(Stage):
        kind = "reader"

        def run(self, context: Context) -> Scores:
            folders = [context.store.fetch("learn", key) for key in keys]
            assert [(one / "model.bin").read_text() for one in folders] == keys
            return {"folders": len(set(folders))}

    manifest = execute(Reader(), store)
    assert manifest is not None
    assert manifest.scores == {"folders": len(keys)}


def test_a_process_keeps_the_copies_that_were_used_last(tmp_path: Path) -> None:
    store, keys = _many(tmp_path / "files")
    first = store.fetch("learn", keys[0])
    others = []
    for key in keys[1:]:
        others.append(store.fetch("learn", key))
        assert store.fetch("learn", keys[0]) == first
    assert [one.exists() for one in others] == [False, False] + [True] * (COPIES.AT_MOST - 1)
