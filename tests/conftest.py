"""What the tests share: tiny studies, a store each, one Ray a session."""

from __future__ import annotations

import os

from helpers.studies import tiny_data

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: a thread each, as stages do

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from l2kd_ray.core.store import Store
from l2kd_ray.study import Study, load

hypothesis.settings.register_profile("shared cores", deadline=None)  # speed is not tested
hypothesis.settings.load_profile("shared cores")


LONGEST = (
    *("test_unread", "test_cli", "test_cluster", "test_mirror", "test_wiring"),
    *("test_report_sections", "test_accepted", "test_docs", "test_report"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test writes below its own folder, and the hub is not asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def study_file(tmp_path: Path) -> Any:
    """Write a study file: the tiny one with changes."""

    def write(**changes: Any) -> Path:
        data = {"storage": str(tmp_path / "results"), **tiny_data(**changes)}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write


@pytest.fixture
def tiny(study_file: Any) -> Any:
    def make(**changes: Any) -> Study:
        return load(study_file(**changes))

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "results"))


@pytest.fixture
def as_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[None]]:
    """Trainings within go through torch's DDP, in a group of this process alone."""

    @contextmanager
    def group() -> Iterator[None]:
        import torch
        from torch.nn.parallel import DistributedDataParallel

        def wrapped(model: Any, context: object, uses_all: bool) -> Any:
            return DistributedDataParallel(model, find_unused_parameters=not uses_all)

        monkeypatch.setattr("l2kd_ray.core.loop._wrap", wrapped)
        meet = f"file://{tmp_path}/meet"
        torch.distributed.init_process_group("gloo", init_method=meet, rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()

    return group


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray for the tests of a file that call executors or the pool themselves.

    Not for the whole session: a test of another file may start one in the same process.
    """
    import_module("l2kd_ray.cluster")  # its settings come before Ray's
    import ray

    here = str(Path(__file__).parent)  # stages that tests define are found by the workers
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    ray.init(address="local", num_cpus=2, resources={"driver": 100}, log_to_driver=False)
    yield
    import_module("l2kd_ray.cluster.session").leave()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A real S3 server on loopback; yields what follows a bucket's URI."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    yield f"endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    server.stop()
