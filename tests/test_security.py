"""Names reach nothing outside their folders; nothing that is read can run; secrets stay."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import l2kd_ray
from l2kd_ray.api import submit_study
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.store import Damaged, Store
from l2kd_ray.errors import InputError, masked
from l2kd_ray.study.folder import Folder
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
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            banned = {name.split(".")[0] for name in names} & {
                "pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal",
            }  # fmt: skip
            # The store's suite sends a store through pickle, as Ray does; a mirror's process reads
            # the study that its parent has just written for it, into a folder of their own.
            own = ("testing/stores.py", "mirrors/process.py", "mirrors/follow.py")
            assert not banned or any(map(path.match, own)), path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                loads = node.func.attr == "load" and isinstance(owner, ast.Name)
                assert not (loads and owner.id in ("torch", "yaml") and _unsafe(node, tree)), path
                if loads and owner.id == "np":
                    assert not any(word.arg == "allow_pickle" for word in node.keywords), path
                if node.func.attr == "from_pretrained" and "AutoModel" in ast.unparse(owner):
                    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert given.get("use_safetensors") == "True", path


SAFE_LOADERS = {"_Loader", "yaml.SafeLoader", "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"}


def _unsafe(call: ast.Call, tree: ast.AST) -> bool:
    """yaml.load with a SafeLoader, or the study's own, which is one, is safe; torch.load never."""
    given = {word.arg: word.value for word in call.keywords}
    loader = given.get("Loader") or (call.args[1] if len(call.args) > 1 else None)
    values = [value for name, value in words_of(tree) if loader and name == ast.unparse(loader)]
    found = {ast.unparse(one) for one in values or [loader] if one}
    return not found or not found <= SAFE_LOADERS


def test_the_loader_of_studies_makes_plain_values_only(tmp_path: Path) -> None:
    from l2kd_ray.study.reading import read_study

    file = tmp_path / "study.yaml"
    file.write_text(f"name: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    with pytest.raises(InputError, match="not valid YAML"):
        read_study(file)
    assert not (tmp_path / "ran").exists()


def words_of(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Every name that is given a value: keywords of calls, keys of mappings, assignments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg:
            yield node.arg, node.value
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant):
                    yield str(key.value), value
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield ast.unparse(target).split(".")[-1], node.value


def test_foreign_code_is_never_run() -> None:
    """The loaders of other people's models say so; the others load what a stage has written."""
    found = 0
    for path in SOURCES:
        for name, value in words_of(ast.parse(path.read_text())):
            if name == "trust_remote_code":
                assert ast.unparse(value) == "False", f"{path}: {ast.unparse(value)}"
                found += 1
    assert found == 3


LISTENS = {"bind", "listen", "create_server", "start_server", "HTTPServer", "ThreadingHTTPServer"}


def test_no_port_is_opened_to_the_network() -> None:
    """Ray's dashboard is on loopback unless it is told otherwise, and we do not tell it: its calls
    are given these words and no mapping that could hold others. Nobody else listens."""
    import inspect

    import ray

    default = inspect.signature(ray.init).parameters["dashboard_host"].default
    assert default in ("127.0.0.1", "localhost")
    begun = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called.split(".")[-1] not in LISTENS, f"{path}: {called}"
            if called == "ray.init":
                begun += 1
                assert {word.arg for word in node.keywords} <= {
                    "address", "num_cpus", "resources", "include_dashboard", "log_to_driver",
                    "logging_level", "runtime_env",
                }, path  # fmt: skip
    assert begun == 2


KEY = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"s3://AKIA:{KEY}@bucket/x", "s3://***@bucket/x"),
        (f"s3://AKIA:{KEY}/a+b@bucket", "s3://***@bucket"),  # not encoded, as people paste it
        (f"s3://bucket/x?access_key=AKIA&secret_key={KEY}&region=us-east-1",
         "s3://bucket/x?access_key=***&secret_key=***&region=us-east-1"),
        (f"https://{KEY}@host/x", "https://***@host/x"),
        (f"https://host/x?X-Amz-Signature={KEY}&n=1", "https://host/x?X-Amz-Signature=***&n=1"),
        (f"https://host/x?sig={KEY}", "https://host/x?sig=***"),
        (f"abfs://c@account.net/x?sas_token={KEY}", "abfs://c@account.net/x?sas_token=***"),
    ],
)  # fmt: skip
def test_credentials_in_a_storage_are_refused_and_masked(
    url: str, shown: str, study_file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from l2kd_ray.cli import app

    assert masked(f"Report: {url}/y").startswith(f"Report: {shown}")
    for call in (
        lambda: Store(url),
        lambda: submit_study(study_file(storage=url), {}, [], "http://127.0.0.1:1"),
        lambda: app(["sweep", str(study_file(storage=url)), "--inline"], standalone_mode=False),
        lambda: app(["gc", "--storage", url], standalone_mode=False),
    ):
        with pytest.raises(InputError, match="AWS_PROFILE") as refused:
            call()
        assert KEY not in str(refused.value)
        assert "***" in str(refused.value)
    assert KEY not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1",
     "gs://anonymous@bucket/x", "sftp://user@host/x", "http://host:9000/a@b", "/home/a:b@c",
     "s3://bucket/a:b@c", "memory://x?tokenizer=1"],
)  # fmt: skip
def test_other_urls_are_shown_as_they_are(url: str) -> None:
    assert masked(url) == url


def test_the_address_of_a_file_keeps_a_query_at_its_end(s3: str) -> None:
    store = Store(f"s3://bucket/prefix/?{s3}")
    assert str(Folder(store, "mine")) == f"s3://bucket/prefix/studies/mine?{s3}"
    assert store.address("studies/mine/report.html").endswith(f"/report.html?{s3}")
    assert Store(store.address("x")).base == "bucket/prefix/x"


def test_a_storage_with_too_long_a_name_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="File name too long"):
        Store(str(tmp_path / ("x" * 300)))
