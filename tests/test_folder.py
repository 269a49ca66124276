"""The folder of a study: what is kept of a sweep, and who is sweeping."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.studies import tiny_data

from l2kd_ray.analysis.looks import Seen
from l2kd_ray.api import load_study
from l2kd_ray.core.store import Store
from l2kd_ray.study.folder import Folder, seal, unseal


@pytest.fixture
def folder(store: Store) -> Folder:
    return Folder(store, "mine")


def note(store: Store, **changes: Any) -> None:
    """Leave the note of a sweep."""
    known = {"pid": os.getpid(), "host": os.uname().nodename, "since": "2030-01-01 00:00:00"}
    store.write("studies/mine/live-1.json", json.dumps({**known, **changes}).encode())


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


def keys(store: Store, begin: str = "keys") -> set[str]:
    """What the lists say whose names begin so; each is whole."""
    paths = [entry.path for entry in store.files("studies/mine")]
    texts = [unseal(store.read(p) or b"") for p in paths if p.startswith(f"studies/mine/{begin}")]
    return {line for text in texts for line in text.splitlines()}


def test_keys_grow_until_the_study_is_complete(folder: Folder, store: Store, tiny: Any) -> None:
    first, second, *_ = tiny(methods=["finetune", "lamol"]).trials()[::-1]
    one, other = (
        {f"{stage.kind} {stage.key}" for stage in trial.stages()} for trial in (first, second)
    )
    folder.add_keys(second.stages())
    assert keys(store) == other
    folder.propose(first.stages())
    assert keys(store) == one | other
    folder.add_keys([])
    assert keys(store) == one | other
    folder.settle_keys(first.stages())
    assert len(store.files("studies/mine")) == 2
    assert keys(store, "keys-until-") == other - one
    (path,) = (e.path for e in store.files("studies/mine") if e.path.endswith("/keys"))
    assert unseal(store.read(path) or b"").splitlines() == sorted(one)


@pytest.mark.parametrize("text", ["", "one\n", "one\ntwo\n"])
def test_a_cut_text_is_no_text(text: str) -> None:
    whole = seal(text)
    assert unseal(whole) == text
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="cut or altered"):
            unseal(whole[:size])
    with pytest.raises(ValueError, match="cut or altered"):
        unseal(seal("one\ntwo\n").replace(b"two", b"owt"))


RUBBISH = {
    "empty": b"",
    "torn": b'{"a": [',
    "null": b"null",
    "a number": b"7",
    "text": b"words",
    "not UTF-8": b"\xff\xfe",
    "other fields": b'[{"kind": 1}]',
    "nested": b"[" * 100_000,
}
SMALL_FILES = ("failures.json", "live-1.json", "settings.json", "cut.json", "study.yaml", "keys")


@pytest.mark.parametrize("harm", RUBBISH)
@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_damaged_file_is_named_once_and_taken_as_absent(
    name: str, harm: str, folder: Folder, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    def every() -> list[Any]:
        folder.add_keys([])
        return [
            folder.failures(), folder.who_is_live(), folder.tried(), folder.cut(), folder.resolved
        ]  # fmt: skip

    absent = every()
    store.write(f"studies/mine/{name}", RUBBISH[harm])
    assert every() == absent
    (line,) = capsys.readouterr().err.splitlines()
    assert f"studies/mine/{name} is damaged" in line


def test_a_folder_in_the_place_of_a_file_is_taken_as_absent(folder: Folder, store: Store) -> None:
    Path(store.base, "studies/mine/failures.json").mkdir(parents=True)
    assert folder.failures() == []


def test_what_mirrors_wrote_is_there_when_they_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a remote storage, too: and what they leave alone is not written again."""
    store = Store(f"memory://{uuid.uuid4().hex}")
    for path in ("tensorboard/x/a", "tensorboard/x/b", "wandb/run/c", "tables/gap.csv", "keys"):
        store.write(f"studies/mine/{path}", b"old")
    written: list[str] = []
    upload = store.upload

    def noted(source: Path, path: str) -> None:
        written.append(path.removeprefix("studies/mine/"))
        upload(source, path)

    monkeypatch.setattr(store, "upload", noted)
    with Folder(store, "mine").local() as files:
        found = {str(p.relative_to(files)) for p in files.rglob("*") if p.is_file()}
        assert found == {"tensorboard/x/a", "tensorboard/x/b", "wandb/run/c"}
        (files / "tensorboard/x/a").write_text("old and new")
        (files / "wandb/run/c").unlink()
        (files / "report.md").write_text("new")
    assert sorted(written) == ["report.md", "tensorboard/x/a"]
    left = {e.path.removeprefix("studies/mine/"): e.size for e in store.files("studies/mine")}
    assert left == {
        "keys": 3, "report.md": 3, "tables/gap.csv": 3,
        "tensorboard/x/a": 11, "tensorboard/x/b": 3,
    }  # fmt: skip


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


def test_a_sweep_elsewhere_is_live_while_its_note_is_written_again(
    folder: Folder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine of a killed one may be gone: then nothing takes its note away but the next."""
    monkeypatch.setattr("l2kd_ray.study.folder._BEAT_S", 0.01)
    base = Path(store.base, "studies/mine")
    note(store, host="elsewhere")
    os.utime(base / "live-1.json", (0, 0))
    assert folder.who_is_live() is None
    with folder.live():
        (own,) = base.iterdir()
        os.utime(own, (0, 0))
        until = time.monotonic() + 10
        while folder.who_is_live() is None and time.monotonic() < until:
            time.sleep(0.01)
        assert folder.who_is_live() is not None
    assert list(base.iterdir()) == []


def test_the_last_of_two_sweeps_settles_the_keys(folder: Folder, store: Store, tiny: Any) -> None:
    first, second, third, *_ = tiny(methods=["finetune", "lamol"]).trials()[::-1]
    one, other, proposed = (
        {f"{stage.kind} {stage.key}" for stage in trial.stages()}
        for trial in (first, second, third)
    )
    with folder.live():
        folder.add_keys(first.stages())
        folder.propose(third.stages())
        with folder.live():
            assert len((folder.who_is_live() or "").split("; ")) == 2
        folder.settle_keys(second.stages())
        assert keys(store) == one | other | proposed
        assert folder.who_is_live() is not None
    folder.settle_keys(first.stages())
    assert folder.needed() == one


def test_looks_are_kept_once_and_a_damaged_record_is_said(
    folder: Folder, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Seen(("a", "b"), ("1", "2"), 2, 2)
    more = replace(first, seeds=("1", "2", "3"))
    assert folder.looks() == ()
    for look in (first, more, first):
        folder.keep_look(look)
    assert folder.looks() == (first, more)
    for damaged in (b"[{]", b'[{"tasks": ["a"]}]', b"[3]"):
        store.write("studies/mine/looks.json", damaged)
        assert folder.looks() == ()
        assert "looks.json is damaged and not used" in capsys.readouterr().err


@pytest.mark.drill
def test_a_study_that_grew_after_a_report_says_so(tmp_path: Path) -> None:
    data = tiny_data(
        tasks=["gen.rest", "gen.tv"],
        methods=["finetune"],
        orders="all",
        train={"epochs": 1, "batch_size": 8, "lr": 5e-3},
        max_train=4,
        max_test=2,
        storage=str(tmp_path / "results"),
    )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data))
    for seeds in ([1], [1, 2], [1, 2], [1, 2, 3]):
        experiment = load_study(tmp_path / "study.yaml", seeds=seeds)
        experiment.sweep("inline")
        page = Path(experiment.folder, "report.md").read_text()
        assert ("**Looked at before:**" in page) == (len(seeds) == 3)
    assert "at 2 orders x 2 seeds, and the study has grown" in " ".join(
        page.split()
    )  # one seed: none
    assert "read 95 % as 90 %" in " ".join(page.split())
