"""The suites that others run: from outside, and against what does not keep the contracts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.stage import Scores, Stage
from l2kd_ray.core.store import MANIFEST, Store, stage_folder
from l2kd_ray.testing.executors import ExecutorSuite, Run, student
from l2kd_ray.testing.stores import StoreSuite

ARCHITECTURE = Path(__file__).parents[1] / "docs/architecture.md"


def test_the_suite_of_the_architecture_page_runs(tmp_path: Path) -> None:
    """In a folder of its own, as somebody with the installed package and pytest would."""
    (code,) = re.findall(
        r'```python title="my_filesystem.py"\n(.*?)```', ARCHITECTURE.read_text(), re.S
    )
    (tmp_path / "my_filesystem.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "my_filesystem.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    found = re.search(r"(\d+) passed", done.stdout)
    assert found
    assert int(found[1]) == sum(
        len(getattr(test, "pytestmark", [None])[0].args[1]) if hasattr(test, "pytestmark") else 1
        for name, test in vars(StoreSuite).items()
        if name.startswith("test_")
    )


# What does not keep the contracts


class Trusting(Store):
    """Reads a file without a look at its digest."""

    def content(self, manifest: Manifest, name: str) -> bytes:
        folder = stage_folder(manifest.kind, manifest.key)
        return self.read(f"{folder}/{manifest.attempt}/{name}") or b""


class LastWins(Store):
    """Lets a later attempt replace the files of a stage that stands."""

    def publish(self, manifest: Manifest, folder: Path) -> Manifest:
        self.remove(f"{stage_folder(manifest.kind, manifest.key)}/{MANIFEST}")
        return super().publish(manifest, folder)


class Forgetful(Store):
    """Finds no checkpoint."""

    def load_checkpoint(self, kind: str, key: str, target: Path) -> bool:
        return False


class Hasty(Store):
    """Writes the manifest before the files that it names."""

    def publish(self, manifest: Manifest, folder: Path) -> Manifest:
        path = f"{stage_folder(manifest.kind, manifest.key)}/{MANIFEST}"
        self.write(path, manifest.to_json())
        return super().publish(manifest, folder)


@pytest.mark.parametrize(
    ("careless", "test"),
    [
        (Trusting, "test_a_single_file_is_compared_with_its_digest"),
        (LastWins, "test_the_first_manifest_stays"),
        (Forgetful, "test_the_newest_checkpoint_is_loaded"),
    ],
)
def test_a_careless_store_fails_the_suite(careless: type[Store], test: str, tmp_path: Path) -> None:
    getattr(StoreSuite(), test)(Store(str(tmp_path / "sound")), tmp_path)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(StoreSuite(), test)(careless(str(tmp_path / "careless")), tmp_path)


def test_a_store_that_writes_the_manifest_first_fails_the_suite(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AssertionError):
        StoreSuite().test_the_manifest_is_written_after_the_files_that_it_names(
            Hasty(str(tmp_path / "hasty")), tmp_path, patch
        )


def rounding(stage: Stage, store: Store) -> Scores:
    """Returns other scores than it publishes."""
    return {name: round(score, 1) for name, score in obtain(stage, store).items()}


def again(stage: Stage, store: Store) -> Scores:
    """Runs a stage that is in the store already."""
    store.remove(f"{stage_folder(stage.kind, stage.key)}/{MANIFEST}")
    return obtain(stage, store)


def silent(stage: Stage, store: Store) -> Scores:
    """Swallows the error of a stage."""
    try:
        return obtain(stage, store)
    except ValueError:
        return {}


@pytest.mark.parametrize("run", [rounding, again, silent], ids=lambda run: run.__name__)
def test_a_careless_executor_fails_the_suite(run: Run, tmp_path: Path) -> None:
    suite, stage = ExecutorSuite(), student()
    failed = set()
    for name in ("there_already_is_not_run_again", "failure_is_raised_and_nothing_is_published"):
        (test,) = (one for one in dir(suite) if one.endswith(name))
        given = {"stage": stage} if "stage_that" in test else {}
        try:
            getattr(suite, test)(run=run, store=Store(str(tmp_path / name)), **given)
        except (AssertionError, pytest.fail.Exception):
            failed.add(name.split("_")[0])
    wanted = {rounding: {"there"}, again: {"there"}, silent: {"failure"}}
    assert failed == wanted[run]
