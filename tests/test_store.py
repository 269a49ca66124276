"""The store's contract, on every filesystem."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray.core.store import Damaged, Manifest, Store
from l2kd_ray.errors import InputError


@pytest.fixture(params=["local", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    name = uuid.uuid4().hex
    if request.param == "local":
        return Store(str(tmp_path / "results"))
    if request.param == "memory":
        return Store(f"memory://{name}")
    store = Store(f"s3://{name}/prefix?{request.getfixturevalue('s3')}")
    store.filesystem.create_dir(name)
    return store


def manifest(key: str = "ab" * 16, attempt: str = "one") -> Manifest:
    return Manifest(
        kind="learn", key=key, version=1, settings={"lr": 0.1}, inputs={"start": "cd" * 16},
        scores={"loss": 0.5}, files={}, attempt=attempt, started="2026-01-01T00:00:00+00:00",
        seconds=1.5, host="here", environment={"torch": "2"},
    )  # fmt: skip


def files(folder: Path, text: str = "weights") -> Path:
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_text(text)
    (folder / "deep" / "more.json").write_text("{}")
    return folder


def test_what_is_published_is_read_back(any_store: Store, tmp_path: Path) -> None:
    assert any_store.manifest("learn", manifest().key) is None
    published = any_store.publish(manifest(), files(tmp_path / "out"))
    assert any_store.manifest("learn", published.key) == published
    assert set(published.files) == {"model.bin", "deep/more.json"}
    folder = any_store.fetch("learn", published.key)
    assert (folder / "model.bin").read_text() == "weights"
    assert (folder / "deep" / "more.json").read_text() == "{}"
    assert any_store.listing().finished == {published.key: "learn"}
    asked = {published.key: "learn", "cd" * 16: "learn"}
    assert any_store.manifests(asked) == {published.key: published}
    assert any_store.content(published, "model.bin") == b"weights"


def test_the_first_manifest_stays(any_store: Store, tmp_path: Path) -> None:
    first = any_store.publish(manifest(), files(tmp_path / "a", "first"))
    second = any_store.publish(manifest(attempt="two"), files(tmp_path / "b", "second"))
    assert second == first
    assert (any_store.fetch("learn", first.key) / "model.bin").read_text() == "first"


def test_a_store_may_be_sent_to_another_process(any_store: Store, tmp_path: Path) -> None:
    published = any_store.publish(manifest(), files(tmp_path / "out"))
    other = pickle.loads(pickle.dumps(any_store))
    assert other.manifest("learn", published.key) == published


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_a_damaged_file_is_found_said_and_withdrawn(
    store: Store, tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    published = store.publish(manifest(), files(tmp_path / "out"))
    path = store.fetch("learn", published.key) / "model.bin"
    if harm == "flip":
        path.write_text("weighty")
    elif harm == "truncate":
        path.write_text("wei")
    else:
        path.unlink()
    fresh = Store(store.root)
    with pytest.raises(Damaged, match=r"model\.bin"):
        fresh.fetch("learn", published.key)
    assert fresh.manifest("learn", published.key) is None
    assert "will be computed again" in capsys.readouterr().out
    assert fresh.publish(manifest(attempt="two"), files(tmp_path / "out")).attempt == "two"


def test_a_single_file_is_compared_with_its_digest(any_store: Store, tmp_path: Path) -> None:
    published = any_store.publish(manifest(), files(tmp_path / "out"))
    any_store.write(f"stages/learn/ab/{published.key}/one/model.bin", b"weighty")
    with pytest.raises(Damaged, match=r"model\.bin is altered"):
        any_store.content(published, "model.bin")
    assert any_store.manifest("learn", published.key) is None


def test_a_file_that_was_dropped_meanwhile_is_not_withdrawn(
    any_store: Store, tmp_path: Path
) -> None:
    published = any_store.publish(manifest(), files(tmp_path / "out"))
    any_store.drop_files("learn", published.key)
    with pytest.raises(Damaged, match=r"model\.bin is missing"):
        any_store.content(published, "model.bin")
    assert any_store.manifest("learn", published.key) == published


def test_an_altered_manifest_is_no_manifest(any_store: Store, tmp_path: Path) -> None:
    published = any_store.publish(manifest(), files(tmp_path / "out"))
    path = f"stages/learn/{published.key[:2]}/{published.key}/manifest.json"
    text = any_store.read(path) or b""
    for harmed in (text.replace(b"0.5", b"0.9"), text[:-20], b"", b"[]"):
        any_store.write(path, harmed)
        assert any_store.manifest("learn", published.key) is None


def test_without_a_manifest_there_is_no_stage(any_store: Store, tmp_path: Path) -> None:
    any_store.upload(files(tmp_path / "out") / "model.bin", "stages/learn/ab/abc/one/model.bin")
    assert any_store.listing().finished == {}
    with pytest.raises(Damaged, match="not in the store"):
        any_store.fetch("learn", "abc")


def test_the_newest_whole_checkpoint_is_taken(any_store: Store, tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert not any_store.load_checkpoint("learn", "abc", target)
    for step in (5, 10):
        (tmp_path / "state").write_text(f"state {step}")
        any_store.save_checkpoint("learn", "abc", step, tmp_path / "state")
    assert any_store.load_checkpoint("learn", "abc", target)
    assert target.read_text() == "state 10"


def test_a_torn_checkpoint_is_passed_over(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "state").write_text("state 5")
    store.save_checkpoint("learn", "abc", 5, tmp_path / "state")
    folder = Path(store.base) / "stages/learn/ab/abc/checkpoint"
    (folder / "000000010-x.safetensors").write_text("half")
    (folder / "000000010-x.json").write_text('{"size": 10, "sha256": "0"}')
    assert store.load_checkpoint("learn", "abc", target)
    assert target.read_text() == "state 5"


def test_a_checkpoint_goes_when_its_stage_is_published(any_store: Store, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("state")
    any_store.save_checkpoint("learn", manifest().key, 1, tmp_path / "state")
    any_store.publish(manifest(), files(tmp_path / "out"))
    assert not any_store.load_checkpoint("learn", manifest().key, tmp_path / "target")


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


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Store(str(tmp_path / "file" / "below")).check_writable()
    with pytest.raises(InputError, match="no such storage"):
        Store("nonsense://bucket")


def test_dropped_files_leave_the_scores(any_store: Store, tmp_path: Path) -> None:
    published = any_store.publish(manifest(), files(tmp_path / "out"))
    assert any_store.has_files("learn", published.key)
    any_store.drop_files("learn", published.key)
    assert any_store.manifest("learn", published.key) == published
    assert not any_store.has_files("learn", published.key)
    assert any_store.listing().dropped == {published.key}
    with pytest.raises(Damaged, match="dropped"):
        any_store.fetch("learn", published.key)
    again = any_store.publish(manifest(attempt="two"), files(tmp_path / "out"))
    assert again.attempt == "two"
    assert any_store.has_files("learn", published.key)


def test_a_remote_storage_that_fails_now_and_then_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But not where the answer is no, and not for ever."""
    monkeypatch.setattr("l2kd_ray.core.store._WAITS_S", (0.0, 0.0, 0.0))
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
