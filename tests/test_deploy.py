"""The shipped cluster files: Ray's own validator, KubeRay's structure, versions, no secrets."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LAUNCHED = ["cluster.yaml", "deploy/gcp.yaml"]
MANIFESTS = ["deploy/kuberay/raycluster.yaml", "deploy/kuberay/rayjob.yaml"]
EVERY = [*LAUNCHED, *MANIFESTS, "deploy/Dockerfile"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return data


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a token, in the repository."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("not a token")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_cluster(name: str, at_home: None) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read(name))
    validate_config(config)
    with pytest.raises(Exception, match="idle_minutes"):
        validate_config({**config, "idle_minutes": 5})  # the validator does refuse


@pytest.mark.parametrize("name", LAUNCHED)
def test_nothing_runs_on_the_head_and_workers_come_and_go(name: str) -> None:
    config = read(name)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert head["resources"]["driver"] >= 100
    assert not _is_spot(head["node_config"])
    assert "driver" not in json.dumps(types)
    for node in types.values():
        assert node["min_workers"] == 0 < node["max_workers"] <= config["max_workers"]
        market = "spot" if _is_spot(node["node_config"]) else "on-demand"
        assert node["labels"]["ray.io/market-type"] == market
    assert {_is_spot(node["node_config"]) for node in types.values()} == {True, False}
    assert config["idle_timeout_minutes"] <= 10


def _is_spot(node: dict[str, Any]) -> bool:
    return (
        "spot" in json.dumps(node.get("InstanceMarketOptions", node.get("scheduling", ""))).lower()
    )


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_dashboard_is_on_loopback_and_a_token_is_asked_for(name: str) -> None:
    config = read(name)
    (head,) = [line for line in config["head_start_ray_commands"] if "--head" in line]
    (worker,) = [line for line in config["worker_start_ray_commands"] if "--address" in line]
    assert "--dashboard-host=127.0.0.1" in head
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in worker


def test_every_version_is_that_of_the_project() -> None:
    (ray,) = [line for line in PROJECT["dependencies"] if line.startswith("ray[")]
    least, below = re.findall(r"\d+\.\d+", ray)
    images = set[str]()
    for name in EVERY:
        text = (ROOT / name).read_text()
        for found in re.findall(r"rayproject/ray:([\d.]+)|rayVersion: \"([\d.]+)\"", text):
            used = "".join(found)
            assert used.startswith(f"{least}."), name
            assert used < below
            images.add(used)
        for found in re.findall(r"l2kd-ray:([\d.]+)|'l2kd-ray'\) == '([\d.]+)'", text):
            assert "".join(found) == PROJECT["version"], name
        assert "py311" in text or name in MANIFESTS
    assert len(images) == 1  # of a cluster's nodes, client and server
    for name in LAUNCHED:
        assert f"== '{PROJECT['version']}'" in (ROOT / name).read_text()


@pytest.mark.parametrize("name", EVERY)
def test_no_key_or_token_stands_in_a_file(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"AKIA|BEGIN [A-Z ]*PRIVATE KEY|SECRET_ACCESS_KEY|WANDB_API_KEY", text)
    assert "RAY_AUTH_TOKEN" not in text


# The fields of KubeRay's resources, from its ray-operator/apis/ray/v1/raycluster_types.go and
# rayjob_types.go, and those of Kubernetes' pods that the manifests may use, from its core/v1: name
# -> type, choices, or nested fields; a name with ! must be there.
TEXTS = {"*": str}
MOUNT = {"name!": str, "mountPath!": str, "readOnly": bool, "subPath": str}
CONTAINER: dict[str, Any] = {
    "name!": str, "image": str, "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "env": [{"name!": str, "value": str, "valueFrom": {"secretKeyRef": TEXTS}}],
    "envFrom": [{"prefix": str, "secretRef": {"name!": str}, "configMapRef": {"name!": str}}],
    "resources": {"requests": TEXTS, "limits": TEXTS}, "volumeMounts": [MOUNT],
}  # fmt: skip
POD: dict[str, Any] = {
    "metadata": {"labels": TEXTS, "annotations": TEXTS},
    "spec!": {
        "containers!": [CONTAINER], "restartPolicy": ("Always", "OnFailure", "Never"),
        "serviceAccountName": str, "imagePullSecrets": [{"name!": str}], "nodeSelector": TEXTS,
        "terminationGracePeriodSeconds": int,
        "tolerations": [{
            "key": str, "operator": ("Exists", "Equal"), "value": str,
            "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"), "tolerationSeconds": int,
        }],
        "volumes": [{"name!": str, "configMap": {"name!": str}, "emptyDir": {"sizeLimit": str},
                     "persistentVolumeClaim": {"claimName!": str, "readOnly": bool}}],
    },
}  # fmt: skip
GROUP: dict[str, Any] = {
    "groupName!": str, "minReplicas!": int, "maxReplicas!": int, "rayStartParams!": TEXTS,
    "template!": POD, "replicas": int, "idleTimeoutSeconds": int, "numOfHosts": int,
    "scaleStrategy": {"workersToDelete": [str]}, "suspend": bool, "labels": TEXTS,
    "resources": TEXTS,
}  # fmt: skip
HEAD: dict[str, Any] = {
    "rayStartParams!": TEXTS, "template!": POD, "headService": dict, "enableIngress": bool,
    "serviceType": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"), "labels": TEXTS,
    "resources": TEXTS,
}  # fmt: skip
AUTOSCALER: dict[str, Any] = {
    "version": ("v1", "v2"), "idleTimeoutSeconds": int, "image": str, "imagePullPolicy": str,
    "upscalingMode": ("Default", "Aggressive", "Conservative"), "resources": dict, "env": list,
    "envFrom": list, "volumeMounts": list, "securityContext": dict,
}  # fmt: skip
CLUSTER: dict[str, Any] = {
    "headGroupSpec!": HEAD, "workerGroupSpecs": [GROUP], "rayVersion": str,
    "authOptions": {"mode": ("disabled", "token")}, "enableInTreeAutoscaling": bool,
    "autoscalerOptions": AUTOSCALER, "headServiceAnnotations": TEXTS, "suspend": bool,
    "managedBy": str, "gcsFaultToleranceOptions": dict,
}  # fmt: skip
JOB: dict[str, Any] = {
    "entrypoint": str, "entrypointNumCpus": float, "entrypointNumGpus": float,
    "entrypointResources": str, "runtimeEnvYAML": str, "metadata": TEXTS, "jobId": str,
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode"), "submitterPodTemplate": dict,
    "submitterConfig": {"backoffLimit": int}, "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int, "backoffLimit": int,
    "rayClusterSpec": CLUSTER, "clusterSelector": TEXTS, "deletionStrategy": dict,
    "managedBy": str, "suspend": bool,
}  # fmt: skip


def check(value: Any, form: Any, place: str) -> None:
    """Raises: AssertionError that names the place."""
    if isinstance(form, dict):
        assert isinstance(value, dict), place
        known = {name.rstrip("!"): inner for name, inner in form.items()}
        assert {name[:-1] for name in form if name.endswith("!")} <= value.keys(), place
        for name, item in value.items():
            assert name in known or "*" in known, f"{place}: no field {name}"
            check(item, known.get(name, known.get("*")), f"{place}.{name}")
    elif isinstance(form, list):
        assert isinstance(value, list), place
        for number, item in enumerate(value):
            check(item, form[0], f"{place}[{number}]")
    elif isinstance(form, tuple):
        assert value in form, place
    else:
        whole = form is float and type(value) is int
        assert isinstance(value, form) or whole, place
        assert form is bool or not isinstance(value, bool), place


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("headGroupSpec.rayStartParams.num-cpus", 0),
        ("workerGroupSpecs.0.minReplica", 0),
        ("workerGroupSpecs.0.maxReplicas", "64"),
        ("workerGroupSpecs.0.groupName", None),
        ("autoscalerOptions.upscalingMode", "Fast"),
        ("enableInTreeAutoscaling", "yes"),
        ("workerGroupSpecs.1.template.spec.containers.0.envFrom", [{"secretRef": "l2kd"}]),
        ("headGroupSpec.template.spec.imagePullSecret", []),
    ],
)
def test_a_wrong_field_of_kuberay_would_be_found(path: str, value: object) -> None:
    spec = cluster_of(MANIFESTS[0])
    *above, last = path.split(".")
    here: Any = spec
    for name in above:
        here = here[int(name) if name.isdigit() else name]
    if value is None:
        del here[last]
    else:
        here[last] = value
    with pytest.raises(AssertionError, match=r"spec"):
        check(spec, CLUSTER, "spec")


def cluster_of(name: str) -> dict[str, Any]:
    spec = read(name)["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def with_options(name: str) -> dict[str, Any]:
    """A manifest with the lines that are for those who need them."""
    data: dict[str, Any] = yaml.safe_load((ROOT / name).read_text().replace("#+ ", ""))
    return data


@pytest.mark.parametrize("form", [read, with_options])
@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberays_structure_is_kept(name: str, form: Callable[[str], dict[str, Any]]) -> None:
    manifest = form(name)
    assert ("envFrom" in json.dumps(manifest)) is (form is with_options)
    assert manifest["apiVersion"] == "ray.io/v1"
    check(manifest["spec"], {"RayCluster": CLUSTER, "RayJob": JOB}[manifest["kind"]], "spec")


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_come_and_go_and_the_head_is_not_preempted(name: str) -> None:
    spec = cluster_of(name)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    # What the shell of the pod makes of it is JSON again.
    resources = json.loads(head["rayStartParams"]["resources"])
    assert json.loads(resources)["driver"] >= 100
    pods = [head["template"]["spec"]]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pods.append(group["template"]["spec"])
    for pod in pods:
        assert pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert "spot" not in json.dumps(pods[0])
    assert any("tolerations" in pod and "spot" in json.dumps(pod) for pod in pods[1:])


def test_the_job_runs_on_the_cluster_of_the_other_file_and_takes_it_down() -> None:
    cluster, job = (cluster_of(name) for name in MANIFESTS)
    pod = job["headGroupSpec"]["template"]["spec"]
    assert pod.pop("volumes")
    assert pod["containers"][0].pop("volumeMounts")
    assert job == cluster
    spec = read(MANIFESTS[1])["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert json.loads(spec["entrypointResources"])["driver"] == 1


def test_the_image_takes_only_what_it_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    copied = re.findall(
        r"^COPY --chown=\S+ (.+) \S+$", (ROOT / "deploy/Dockerfile").read_text(), re.M
    )
    for name in " ".join(copied).split():
        assert f"!{name}" in ignored
        assert (ROOT / name).exists()
