"""Clusters that come and go, on one machine: what a cloud does, done on purpose.

`make drills` runs every drill (`--only NAME` one). Each sweeps the same study as `drills.py` does,
and compares with the undisturbed reference: the result files byte for byte, and no stage begun
again after it had been published. Not a cloud: nodes are raylets on this machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from drills import Run, descendants, disturb, make, start, verdict, wait_for_pids

RAY = str(Path(sys.executable).with_name("ray"))
HERE = Path(__file__).parent
HEAD = "f" * 51 + "00000"  # node ids of our own, so that drills can name them


class Skipped(Exception):
    """What this machine does not allow; says why."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn(folder: Path, *command: str, **environment: str) -> subprocess.Popen[bytes]:
    """A process of the drill, in a group of its own; its output goes to cluster.log."""
    log = (folder / "cluster.log").open("ab")
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, "HOME": str(folder), **environment},
        stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and what is left of its family after a while by force."""
    family = descendants(process.pid)
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
    for pid in wait_for_pids(family):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def sweeping(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, which does not outlive the drill."""
    command = start(folder, *words)
    try:
        yield command
    finally:
        if command.poll() is None:
            end(command)


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> float:
    """How long it took. Raises: RuntimeError where it takes longer."""
    begun = time.monotonic()
    while not ready():
        if time.monotonic() - begun > seconds:
            raise RuntimeError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - begun


def raylets(process: subprocess.Popen[bytes]) -> list[int]:
    titles = descendants(process.pid)
    return [pid for pid, title in titles.items() if "raylet/raylet" in title.split(" ")[0]]


@contextmanager
def authless() -> Iterator[None]:
    """Drills are alone on loopback: commands and nodes agree on no token."""
    former = os.environ.get("RAY_AUTH_MODE")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_MODE"]
        if former is not None:
            os.environ["RAY_AUTH_MODE"] = former


def head(
    folder: Path, port: int, *words: str, ip: str = "", **environment: str
) -> subprocess.Popen[bytes]:
    where = ["--node-ip-address", ip] if ip else []
    return spawn(
        folder, RAY, "start", "--head", "--block", "--disable-usage-stats", *where,
        "--port", str(port), "--num-cpus", "0", "--resources", '{"driver": 1000}',
        "--dashboard-port", str(free_port()), *words,
        RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD, **environment,
    )  # fmt: skip


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


# (a) An autoscaler


def autoscaler(root: Path) -> Run:
    """A sweep takes a cluster from no worker to two, and it goes back to none."""
    folder, port = make(root, "autoscaler"), free_port()
    types = {
        "ray.head.default": {"resources": {"CPU": 0, "driver": 1000}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "min_workers": 0, "max_workers": 2},
    }
    for node in types.values():
        node["node_config"] = {}
    config = {
        "cluster_name": "drill", "max_workers": 2, "idle_timeout_minutes": 0.2,
        "provider": {
            "type": "external", "module": "fake_cloud.FakeCloud", "head_node_id": HEAD,
            "gcs_address": f"127.0.0.1:{port}", "launch_multiple": True,
        },
        "available_node_types": types, "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0, "auth": {}, "docker": {}, "file_mounts": {},
    }  # fmt: skip
    commands = ("initialization", "setup", "head_setup", "worker_setup")
    config |= {f"{name}_commands": [] for name in commands}
    config |= {"head_start_ray_commands": [], "worker_start_ray_commands": []}
    config |= {"cluster_synced_files": [], "file_mounts_sync_continuously": False}
    config |= {"rsync_exclude": [], "rsync_filter": []}
    (folder / "autoscaling.yaml").write_text(yaml.safe_dump(config))
    code = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = head(
        folder, port, "--autoscaling-config", str(folder / "autoscaling.yaml"), ip="127.0.0.1",
        PYTHONPATH=code, RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1",
        RAY_enable_autoscaler_v2="1", RAY_CLOUD_INSTANCE_ID=HEAD,
    )  # fmt: skip
    begun = time.monotonic()
    try:
        wait_until(lambda: listens(f"127.0.0.1:{port}"), 60, "the head")
        wait_until(lambda: len(raylets(process)) == 1, 60, "the head's raylet")
        with sweeping(folder, "--address", f"127.0.0.1:{port}") as command:
            up = wait_until(
                lambda: len(raylets(process)) == 3 or command.poll() is not None, 120, "two nodes"
            )
            assert command.poll() is None, (folder / "log").read_text()
            most = 3
            while command.poll() is None:
                most = max(most, len(raylets(process)))
                time.sleep(0.5)
            assert command.returncode == 0, (folder / "log").read_text()
            assert most == 3, "more than two nodes"
        seconds = time.monotonic() - begun
        down = wait_until(lambda: len(raylets(process)) == 1, 120, "no node again")
        print(f"autoscaler: 0 to 2 nodes in {up:.0f} s, back to 0 in {down:.0f} s after the sweep")
    finally:
        end(process)
    return Run(folder, 1, 0, seconds)


# (b) Nodes that are killed, and nodes that are drained with notice


class Nodes:
    """A head without CPUs and nodes of one CPU each, by number."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.made = folder, free_port(), 0
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.head = head(folder, self.port, ip="127.0.0.1")
        wait_until(lambda: listens(self.address), 60, "the head")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self) -> None:
        self.made += 1
        name = "f" * 51 + f"{self.made:05d}"
        self.nodes[name] = spawn(
            self.folder, RAY, "start", "--block", "--address", self.address, "--num-cpus", "1",
            "--disable-usage-stats", RAY_OVERRIDE_NODE_ID_FOR_TESTING=name,
        )  # fmt: skip

    def kill(self, name: str) -> None:
        """As a machine that is taken back without a word."""
        process = self.nodes.pop(name)
        for pid in raylets(process):
            os.kill(pid, signal.SIGKILL)
        end(process)

    def drain(self, name: str, seconds: int) -> None:
        """As a spot machine: notice, and then it goes, whatever runs there."""
        subprocess.run(
            [RAY, "drain-node", "--address", self.address, "--node-id", name,
             "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a drill",
             "--deadline-remaining-seconds", str(seconds)],
            check=True, capture_output=True,
        )  # fmt: skip
        time.sleep(seconds)
        self.kill(name)

    def close(self) -> None:
        for process in [*self.nodes.values(), self.head]:
            end(process)


def preemption(root: Path) -> Run:
    """One node is killed in mid-trial, another is drained with notice; each is replaced."""
    folder = make(root, "preemption")
    nodes, begun = Nodes(folder), time.monotonic()
    try:
        nodes.add()
        nodes.add()
        time.sleep(8)
        with sweeping(folder, "--address", nodes.address) as command:
            published = folder / "results/stages"
            learnt = lambda: len(list(published.glob("learn/*/*/manifest.json")))  # noqa: E731
            wait_until(lambda: learnt() >= 1 or command.poll() is not None, 120, "a first student")
            nodes.kill(min(nodes.nodes))
            nodes.add()
            before = learnt()
            wait_until(
                lambda: learnt() > before or command.poll() is not None, 120, "another student"
            )
            assert command.poll() is None, "it ended before the second node went"
            nodes.drain(min(nodes.nodes), 6)
            nodes.add()
            assert command.wait(timeout=400) == 0, (folder / "log").read_text()
    finally:
        nodes.close()
    return Run(folder, 1, 2, time.monotonic() - begun)


# (c) Hosts of their own: network namespaces


@contextmanager
def hosts(count: int) -> Iterator[list[str]]:
    """Namespaces with an address each, 10.213.7.2 and on, on a bridge at 10.213.7.1; their names.

    Raises: Skipped where they cannot be made.
    """
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise Skipped("`ip` and root are needed")
    bridge, names = f"l2kd{os.getpid() % 10000}", [f"l2kd-{os.getpid()}-{n}" for n in range(count)]

    def ip(*words: str, check: bool = True) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise Skipped(f"ip {' '.join(words)}: {done.stderr.strip()}")

    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", "10.213.7.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number, name in enumerate(names):
            here, there = f"{bridge}{number}", f"e{bridge}{number}"
            ip("netns", "add", name)
            ip("link", "add", here, "type", "veth", "peer", "name", there)
            ip("link", "set", here, "master", bridge, "up")
            ip("link", "set", there, "netns", name)
            ip("-n", name, "addr", "add", f"10.213.7.{number + 2}/24", "dev", there)
            ip("-n", name, "link", "set", there, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for number, name in enumerate(names):
            ip("link", "del", f"{bridge}{number}", check=False)
            ip("netns", "del", name, check=False)
        ip("link", "del", bridge, check=False)


def network(root: Path) -> Run:
    """Two hosts beside the head's, one of which is cut off in mid-trial and never comes back."""
    folder, port = make(root, "network"), free_port()
    with hosts(2) as names:
        quick = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "8"}
        quick["RAY_raylet_start_wait_time_s"] = "120"
        begun = time.monotonic()
        processes = [head(folder, port, ip="10.213.7.1", **quick)]
        try:
            wait_until(lambda: listens(f"10.213.7.1:{port}"), 60, "the head")
            for number, name in enumerate(names):
                node = [RAY, "start", "--block", "--address", f"10.213.7.1:{port}"]
                # One host alone has room for the distributed bound.
                node += ["--num-cpus", "2", "--node-ip-address", f"10.213.7.{number + 2}"]
                node += ["--disable-usage-stats"]
                processes.append(spawn(folder, "ip", "netns", "exec", name, *node, **quick))
            wait_until(lambda: all(map(raylets, processes)), 120, "both hosts")
            time.sleep(10)
            with sweeping(folder, "--address", f"10.213.7.1:{port}") as command:
                published = folder / "results/stages"
                wait_until(
                    lambda: (
                        bool(list(published.glob("learn/*/*/manifest.json")))
                        or command.poll() is not None
                    ),
                    120,
                    "a first student",
                )
                assert command.poll() is None, (folder / "log").read_text()
                cut = f"l2kd{os.getpid() % 10000}0"
                subprocess.run(["ip", "link", "set", cut, "down"], check=True)
                seen = {e.stem for p in published.glob("*/*/*/starts") for e in p.glob("*.json")}
                assert command.wait(timeout=500) == 0, (folder / "log").read_text()
            late = [n for n in published.glob("*/*/*/starts/*.json") if n.stem not in seen]
            assert late, "nothing was left to do after the cut"
        finally:
            for process in reversed(processes):
                end(process)
    return Run(folder, 1, 1, time.monotonic() - begun)


# (d) S3 that is slow and refuses


def s3(root: Path) -> Run:
    """The storage is S3 on loopback; one request in twenty is refused, all are delayed."""
    port, begun = free_port(), time.monotonic()
    query = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    scale = {"checkpoint_seconds": 5, "multitask": {"workers": 2}}
    folder = make(root, "s3", storage=f"s3://drill/results?{query}", scale=scale)
    keys = {"AWS_ACCESS_KEY_ID": "drill", "AWS_SECRET_ACCESS_KEY": "drill"}
    keys["AWS_EC2_METADATA_DISABLED"] = "true"
    former = {name: os.environ.get(name) for name in keys}
    os.environ.update(keys)
    server = spawn(folder, sys.executable, str(HERE / "fake_cloud.py"), str(port), "0.05", "0.005")
    try:
        log = folder / "cluster.log"
        wait_until(lambda: log.exists() and "serving" in log.read_text(), 90, "the server")
        with sweeping(folder) as command:
            assert command.wait(timeout=560) == 0, (folder / "log").read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/drill/counts") as answer:
            requests, refused = map(int, answer.read().split())
        assert refused > 10, "too few requests were refused to say anything"
        print(f"s3: {requests} requests, of which {refused} were refused")
        fetch(f"s3://drill/results?{query}", folder / "results")
    finally:
        end(server)
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return Run(folder, 1, refused, time.monotonic() - begun)


def fetch(storage: str, target: Path) -> None:
    """Copy a storage to a folder, for the comparison; times of writing are kept, which S3 tells
    in whole seconds: the end of that second."""
    from l2kd_ray.core.store import Store

    store = Store(storage)
    for entry in store.files(""):
        store.download(entry.path, target / entry.path)
        stamp = entry.modified.timestamp() + 1
        os.utime(target / entry.path, (stamp, stamp))


DRILLS: dict[str, Callable[[Path], Run]] = {
    "autoscaler": autoscaler,
    "preemption": preemption,
    "network": network,
    "s3": s3,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", nargs="*", default=list(DRILLS), choices=list(DRILLS))
    arguments.add_argument("--reference", type=Path, help="the folder of a former one")
    given = arguments.parse_args()
    root = Path(tempfile.mkdtemp(prefix="l2kd-cluster-drills-"))
    print(f"below {root}", flush=True)
    if given.reference:
        reference = Run(given.reference, 0, 0, 0.0)
    else:
        reference = disturb(make(root, "reference"), "stage", 0, 0)
    print(f"reference      {reference.seconds:5.0f} s", flush=True)
    good = True
    with authless():
        for name in given.only:
            try:
                run = DRILLS[name](root)
            except Skipped as reason:
                print(f"{name:<14} skipped: {reason}", flush=True)
                continue
            good &= verdict(name, run, reference, run.kills)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
