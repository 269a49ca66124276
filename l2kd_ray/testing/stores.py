"""The store's contract as tests: subclass `StoreSuite` and override its fixture `root`.

    from l2kd_ray.testing.stores import StoreSuite

    class TestMyFilesystem(StoreSuite):
        @pytest.fixture
        def root(self) -> str:
            return f"myfs://bucket/{uuid.uuid4().hex}"

Needs pytest; `pytest.register_assert_rewrite("l2kd_ray.testing")` in conftest.py makes its failures
show values.
"""

from __future__ import annotations

import errno
import pickle
import uuid
from pathlib import Path

import pytest

from l2kd_ray.core.filetree import FileEntry
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.store import DROPPED, MANIFEST, Damaged, Store

_KEY, _OTHER = "ab" * 16, "cd" * 16


def _folder(key: str) -> str:
    return f"stages/learn/{key[:2]}/{key}"


_FOLDER = _folder(_KEY)


def manifest(key: str = _KEY) -> Manifest:
    """A manifest of a new attempt at a stage, that lists no files yet."""
    return Manifest(
        kind="learn", key=key, version=1, settings={"lr": 0.1}, inputs={"start": _OTHER},
        scores={"loss": 0.5}, files={}, attempt=uuid.uuid4().hex[:12],
        started="2026-01-01T00:00:00+00:00", seconds=1.5, host="here", environment={"torch": "2"},
    )  # fmt: skip


def publish(store: Store, folder: Path, text: str = "weights", key: str = _KEY) -> Manifest:
    """Publish a stage of two files, one of them in a folder, by way of the empty `folder`."""
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_text(text)
    (folder / "deep" / "more.json").write_text("{}")
    return store.publish(manifest(key), folder)


def save(store: Store, folder: Path, step: int) -> None:
    """Save a checkpoint of the stage that holds its step's name."""
    (folder / "state").write_text(f"state {step}")
    store.save_checkpoint("learn", _KEY, step, folder / "state")


class StoreSuite:
    """The contract of a store, on every filesystem.

    Each test has a root of its own, and opens it as often as there would be processes.
    """

    @pytest.fixture
    def root(self) -> str:
        """An empty location that pyarrow or fsspec can write: a path or a URI."""
        raise NotImplementedError("override the fixture `root`")

    @pytest.fixture
    def store(self, root: str) -> Store:
        return Store(root)

    # Publication

    def test_what_is_published_is_read_back(self, store: Store, tmp_path: Path) -> None:
        assert store.manifest("learn", _KEY) is None
        published = publish(store, tmp_path / "out")
        assert store.manifest("learn", _KEY) == published
        assert set(published.files) == {"model.bin", "deep/more.json"}
        folder = Store(store.root).fetch("learn", _KEY)
        assert (folder / "model.bin").read_text() == "weights"
        assert (folder / "deep" / "more.json").read_text() == "{}"
        assert store.content(published, "model.bin") == b"weights"

    def test_what_is_finished_is_listed(self, store: Store, tmp_path: Path) -> None:
        assert store.listing().finished == {}
        published = publish(store, tmp_path / "out")
        assert store.listing().finished == {_KEY: "learn"}
        assert store.manifests({_KEY: "learn", _OTHER: "learn"}) == {_KEY: published}

    def test_files_of_no_stage_are_passed_over(self, store: Store, tmp_path: Path) -> None:
        publish(store, tmp_path / "out")
        for path in (
            ".DS_Store",
            "learn/notes.txt",
            "learn/ab/x",
            f"learn/a/{_KEY}/b/c/d",
        ):
            store.write(f"stages/{path}", b"")
        assert store.listing().finished == {_KEY: "learn"}

    def test_the_manifest_is_written_after_the_files_that_it_names(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A publication that is cut off at the manifest leaves no stage, and harms no later one."""

        def cut(path: str, data: bytes) -> None:
            raise KeyboardInterrupt(path)

        monkeypatch.setattr(store, "write", cut)
        with pytest.raises(KeyboardInterrupt, match=MANIFEST):
            publish(store, tmp_path / "a")
        monkeypatch.undo()
        left = sorted(entry.path.split("/", 5)[5] for entry in store.files("stages"))
        assert left == ["deep/more.json", "model.bin"]
        assert store.manifest("learn", _KEY) is None
        assert store.listing().finished == {}
        with pytest.raises(Damaged, match="not in the store"):
            store.fetch("learn", _KEY)
        assert publish(store, tmp_path / "b") == store.manifest("learn", _KEY)

    def test_the_first_manifest_stays(self, store: Store, tmp_path: Path) -> None:
        first = publish(store, tmp_path / "a", "first")
        assert publish(store, tmp_path / "b", "second") == first
        assert (Store(store.root).fetch("learn", _KEY) / "model.bin").read_text() == "first"

    def test_a_store_may_be_sent_to_another_process(self, store: Store, tmp_path: Path) -> None:
        published = publish(store, tmp_path / "out")
        other = pickle.loads(pickle.dumps(store))
        assert other.manifest("learn", _KEY) == published
        assert (other.fetch("learn", _KEY) / "model.bin").read_text() == "weights"

    # Damage

    @pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
    def test_a_damaged_file_is_found_reported_and_withdrawn(
        self, store: Store, tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = f"{_FOLDER}/{publish(store, tmp_path / 'a').attempt}/model.bin"
        if harm == "delete":
            store.remove(path)
        else:
            store.write(path, b"weighty" if harm == "flip" else b"wei")
        fresh = Store(store.root)
        with pytest.raises(Damaged, match=r"model\.bin"):
            fresh.fetch("learn", _KEY)
        assert fresh.manifest("learn", _KEY) is None
        assert "will be computed again" in capsys.readouterr().err
        again = publish(fresh, tmp_path / "b")
        assert (fresh.fetch("learn", _KEY) / "model.bin").read_text() == "weights"
        assert fresh.manifest("learn", _KEY) == again

    def test_a_single_file_is_compared_with_its_digest(self, store: Store, tmp_path: Path) -> None:
        published = publish(store, tmp_path / "out")
        store.write(f"{_FOLDER}/{published.attempt}/model.bin", b"weighty")
        with pytest.raises(Damaged, match=r"model\.bin is altered"):
            store.content(published, "model.bin")
        assert store.manifest("learn", _KEY) is None

    def test_damage_withdraws_the_stage_only_while_its_manifest_stands(
        self, store: Store, tmp_path: Path
    ) -> None:
        """Another process that found the same damage may have published the stage again."""
        old = publish(store, tmp_path / "a")
        store.remove(_FOLDER)
        new = publish(store, tmp_path / "b")
        with pytest.raises(Damaged, match=r"model\.bin is missing"):
            store.content(old, "model.bin")
        assert store.manifest("learn", _KEY) == new

    def test_an_altered_manifest_is_no_manifest(self, store: Store, tmp_path: Path) -> None:
        publish(store, tmp_path / "out")
        path = f"{_FOLDER}/{MANIFEST}"
        text = store.read(path) or b""
        for harmed in (
            text.replace(b"0.5", b"0.9"), text[:-20], b"", b"[]", b"\xff", b"[" * 100_000,
        ):  # fmt: skip
            store.write(path, harmed)
            assert store.manifest("learn", _KEY) is None
            assert store.read(path) is None

    def test_the_manifest_of_another_stage_is_no_manifest(
        self, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A slip of `cp` or of a restore must not give a stage the scores of another."""
        publish(store, tmp_path / "a")
        publish(store, tmp_path / "b", "other", _OTHER)
        others = store.read(f"{_folder(_OTHER)}/{MANIFEST}") or b""
        store.write(f"{_FOLDER}/{MANIFEST}", others)
        assert store.manifests({_KEY: "learn", _OTHER: "learn"}).keys() == {_OTHER}
        assert f"another stage's: learn {_OTHER}" in capsys.readouterr().err
        store.write(f"stages/replay/{_KEY[:2]}/{_KEY}/{MANIFEST}", others.replace(b"cd", b"ab"))
        assert store.manifest("replay", _KEY) is None

    def test_files_of_another_stage_are_damage(self, store: Store, tmp_path: Path) -> None:
        mine = publish(store, tmp_path / "a")
        other = publish(store, tmp_path / "b", "WEIGHTS", _OTHER)
        name = f"{other.attempt}/model.bin"
        data = store.read(f"{_folder(_OTHER)}/{name}") or b""
        store.write(f"{_FOLDER}/{mine.attempt}/model.bin", data)
        with pytest.raises(Damaged, match=r"model\.bin is altered"):
            store.fetch("learn", _KEY)

    # Dropped files

    def test_dropped_files_leave_the_scores(self, store: Store, tmp_path: Path) -> None:
        published = publish(store, tmp_path / "a")
        assert store.has_files("learn", _KEY)
        store.drop_files("learn", _KEY)
        assert store.manifest("learn", _KEY) == published
        assert not store.has_files("learn", _KEY)
        assert store.listing().dropped == {_KEY}
        assert {entry.path for entry in store.files(_FOLDER)} == {
            f"{_FOLDER}/{MANIFEST}", f"{_FOLDER}/{DROPPED}",
        }  # fmt: skip
        with pytest.raises(Damaged, match="dropped"):
            store.fetch("learn", _KEY)
        assert publish(store, tmp_path / "b").attempt != published.attempt
        assert store.has_files("learn", _KEY)
        assert store.listing().dropped == frozenset()

    def test_files_are_marked_as_dropped_before_they_go(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that dies between the two leaves files that nobody reads, not a stage that
        looks damaged."""
        published = publish(store, tmp_path / "out")

        def cut(path: str) -> None:
            raise KeyboardInterrupt(path)

        monkeypatch.setattr(store, "remove", cut)
        with pytest.raises(KeyboardInterrupt, match=published.attempt):
            store.drop_files("learn", _KEY)
        assert store.listing().dropped == {_KEY}
        assert not store.has_files("learn", _KEY)

    def test_a_file_that_was_dropped_meanwhile_is_not_withdrawn(
        self, store: Store, tmp_path: Path
    ) -> None:
        published = publish(store, tmp_path / "out")
        store.drop_files("learn", _KEY)
        with pytest.raises(Damaged, match=r"model\.bin is missing"):
            store.content(published, "model.bin")
        assert store.manifest("learn", _KEY) == published

    # Checkpoints

    def test_the_newest_checkpoint_is_loaded(self, store: Store, tmp_path: Path) -> None:
        target = tmp_path / "target"
        assert not store.load_checkpoint("learn", _KEY, target)
        for step in (5, 10):
            save(store, tmp_path, step)
        assert store.load_checkpoint("learn", _KEY, target)
        assert target.read_text() == "state 10"

    def test_an_older_checkpoint_goes_once_a_newer_one_stands(
        self, store: Store, tmp_path: Path
    ) -> None:
        for step in (5, 10):
            save(store, tmp_path, step)
        names = [Path(entry.path).name for entry in store.files(f"{_FOLDER}/checkpoint")]
        assert {name.split("-")[0] for name in names} == {f"{10:09d}"}

    def test_of_two_whole_checkpoints_the_newer_is_loaded(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both are there while one is saved, or where the older could not be removed."""
        _keep_both(store, tmp_path, monkeypatch)
        assert store.load_checkpoint("learn", _KEY, tmp_path / "target")
        assert (tmp_path / "target").read_text() == "state 10"

    @pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "note"])
    def test_a_damaged_checkpoint_is_passed_over(
        self, store: Store, tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newest = _keep_both(store, tmp_path, monkeypatch)
        if harm == "delete":
            store.remove(newest)
        elif harm == "note":
            store.write(newest.replace(".0.safetensors", ".json"), b'{"size": ')
        else:
            store.write(newest, b"state 11" if harm == "flip" else b"sta")
        assert store.load_checkpoint("learn", _KEY, tmp_path / "target")
        assert (tmp_path / "target").read_text() == "state 5"

    def test_a_checkpoint_that_cannot_be_copied_is_not_passed_over(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk or an outage: the older one, or none, would be taken for the newest."""
        _keep_both(store, tmp_path, monkeypatch)

        def full(path: str, target: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store, "download", full)
        with pytest.raises(OSError, match="No space left"):
            store.load_checkpoint("learn", _KEY, tmp_path / "target")

    def test_a_checkpoint_goes_when_its_stage_is_published(
        self, store: Store, tmp_path: Path
    ) -> None:
        save(store, tmp_path, 1)
        publish(store, tmp_path / "out")
        assert not store.load_checkpoint("learn", _KEY, tmp_path / "target")

    # Plain files

    def test_a_file_is_written_read_listed_and_removed(self, store: Store) -> None:
        assert store.read("a/b") is None
        for data in (b"old", b"new"):
            store.write("a/b", data)
            assert store.read("a/b") == data
        store.write("a/deep/c", b"")
        listed = {entry.path: entry.size for entry in store.files("a")}
        assert listed == {"a/b": 3, "a/deep/c": 0}
        store.remove("a/b")
        store.remove("a/b")  # another process was quicker
        assert [entry.path for entry in store.files("a")] == ["a/deep/c"]
        store.remove("a")
        assert store.files("a") == []
        store.check_writable()


def _keep_both(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Save checkpoints of steps 5 and 10, keep both; returns the path of the newer's file."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "remove", lambda path: None)
        for step in (5, 10):
            save(store, folder, step)

    def newest(entry: FileEntry) -> bool:
        return f"/{10:09d}-" in entry.path and entry.path.endswith(".safetensors")

    (entry,) = filter(newest, store.files(f"{_FOLDER}/checkpoint"))
    return entry.path
