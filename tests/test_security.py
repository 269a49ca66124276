"""Names reach nothing outside their folders; nothing that is read can run; secrets stay."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import l2kd_ray
from l2kd_ray.core.store import Damaged, Manifest, Store
from l2kd_ray.errors import InputError
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.study.reading import parse_study

SOURCES = sorted(Path(l2kd_ray.__file__).parent.rglob("*.py"))
OUTSIDE = ["../x", "..", "a/../../b", "/etc/passwd", "a/b", ".hidden", "a\\b", "a\nb"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["study", "task", "arm", "hub"])
def test_a_name_that_is_a_path_is_refused(name: str, place: str) -> None:
    study: dict[str, Any] = {
        "name": "fine",
        "tasks": [{"name": "mine", "train": "a.jsonl", "test": "b.jsonl"}, "gen.rest"],
        "methods": [{"name": "l2kd", "method": "l2kd"}],
        "student": {"arch": "gpt2"},
    }
    parse_study(study)
    if place == "study":
        study["name"] = name
    elif place == "task":
        study["tasks"][0]["name"] = name
    elif place == "arm":
        study["methods"][0]["name"] = name
    elif name == "a/b":
        return  # a hub's id may have one slash
    else:
        study["tasks"][0] = {"name": "mine", "hub": name}
    with pytest.raises(InputError):
        parse_study(study)


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "a/../../outside", ""])
@pytest.mark.parametrize("field", ["file", "attempt"])
def test_a_manifest_cannot_name_a_file_outside_of_its_stage(
    name: str, field: str, tmp_path: Path
) -> None:
    """Whoever can write the storage could have put it there, with a digest that fits."""
    store = Store(str(tmp_path / "storage"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files/scores.json").write_text("{}")
    manifest = Manifest(
        kind="evaluate", key="ab" * 16, version=1, settings={}, inputs={}, scores={}, files={},
        attempt="first", started="", seconds=0, host="", environment={},
    )  # fmt: skip
    whole = store.publish(manifest, tmp_path / "files")
    assert store.fetch("evaluate", whole.key).is_dir()
    files = {name: next(iter(whole.files.values()))} if field == "file" else whole.files
    attempt = name if field == "attempt" else whole.attempt
    altered = Manifest(**{**vars(whole), "files": files, "attempt": attempt})
    path = tmp_path / "storage/stages/evaluate/ab" / whole.key / "manifest.json"
    path.write_bytes(altered.to_json())
    assert json.loads(path.read_text())["sha256"]
    with pytest.raises(Damaged):
        Store(store.root).fetch("evaluate", whole.key)
    assert not path.exists()  # withdrawn


def test_nothing_unpickles() -> None:
    """By the source: no pickle, no torch.load, no numpy with pickles, safetensors alone."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {
                "pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal",
            }, path  # fmt: skip
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                loads = node.func.attr == "load" and isinstance(owner, ast.Name)
                assert not (loads and owner.id in ("torch", "yaml") and _unsafe(node)), path
                if loads and owner.id == "np":
                    assert not any(word.arg == "allow_pickle" for word in node.keywords), path
                if node.func.attr == "from_pretrained" and "AutoModel" in ast.unparse(owner):
                    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert given.get("use_safetensors") == "True", path


def _unsafe(call: ast.Call) -> bool:
    """yaml.load with the study's own loader is a SafeLoader; torch.load never is."""
    loader = {word.arg: ast.unparse(word.value) for word in call.keywords}.get("Loader")
    return loader != "_Loader"


def test_the_loader_of_studies_makes_plain_values_only(tmp_path: Path) -> None:
    from l2kd_ray.study.reading import read_study

    file = tmp_path / "study.yaml"
    file.write_text(f"name: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    with pytest.raises(InputError, match="not valid YAML"):
        read_study(file)
    assert not (tmp_path / "ran").exists()


def test_foreign_code_is_run_only_where_the_study_names_it() -> None:
    assert ModelSpec(model="x").trust_remote_code is False
    assert ModelSpec(model="x", trust_remote_code=True).trust_remote_code is True
    for path in SOURCES:
        assert "trust_remote_code=True" not in path.read_text(), path


def test_no_port_is_opened_to_the_network() -> None:
    """Ray's dashboard is on loopback unless it is told otherwise, and we do not tell it."""
    import inspect

    import ray

    default = inspect.signature(ray.init).parameters["dashboard_host"].default
    assert default in ("127.0.0.1", "localhost")
    for path in SOURCES:
        text = path.read_text()
        assert "0.0.0.0" not in text, path
        assert "dashboard_host" not in text, path
