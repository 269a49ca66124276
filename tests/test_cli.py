"""The command from outside: a tiny study through the real CLI and the real Ray, and refusals."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
import yaml
from helpers.command import L2KD, SECRETS, l2kd
from helpers.studies import TINY

import l2kd_ray
from l2kd_ray import InputError, cli, load_study
from l2kd_ray.core.store import Store
from l2kd_ray.study.folder import unseal


def result_bytes(folder: Path) -> dict[str, bytes]:
    names = ("scores.parquet", "results.parquet")
    return {name: (folder / "results/studies/tiny" / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny study (two methods, two orders) after its sweep on Ray."""
    folder = tmp_path_factory.mktemp("swept")
    data = {**TINY, "methods": ["finetune", "l2kd"], "storage": "results", "wandb": {}}
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    l2kd("sweep", "study.yaml", folder=folder)
    return folder


def test_a_sweep_does_what_was_planned_and_leaves_its_files(swept: Path) -> None:
    base = swept / "results/studies/tiny"
    for name in ("report.html", "report.md", "study.yaml", "keys", "failures.json"):
        assert (base / name).is_file(), name
    assert list((base / "figures").glob("*.png"))
    assert list((base / "wandb").glob("offline-run-*"))
    planned = json.loads(l2kd("plan", "study.yaml", "--json", folder=swept))
    assert planned["trials"] == 6
    assert all(count["todo"] == 0 for count in planned["stages"].values())
    assert set(planned["stages"]) >= {"teacher", "replay", "learn", "multitask", "evaluate"}
    published = Store(str(swept / "results")).listing().finished
    *lines, _ = (base / "keys").read_text().splitlines()
    kept = dict(line.split()[::-1] for line in lines)
    assert published == kept  # what was planned was done, each stage once, and nothing else
    results = pd.read_parquet(base / "results.parquet")
    assert {"method", "order", "seed", "cl/avg", "cl/bwt", "gap/abs", "gap/rel"} <= set(results)
    assert results.query("method == 'l2kd'")["gap/abs"].notna().all()


def test_no_secret_is_written_anywhere(swept: Path) -> None:
    """Manifests, reports, the W&B mirror with its config, the exported study, Ray's own logs."""
    l2kd("plan", "study.yaml", folder=swept)
    files = [path for path in swept.rglob("*") if path.is_file()]
    assert any("wandb" in path.parts for path in files)
    begun = (swept / "study.yaml").stat().st_mtime
    files += [
        path
        for path in Path("/tmp/ray").glob("session_*/logs/**/*")
        if path.is_file() and path.stat().st_mtime >= begun
    ]
    for path in files:
        content = path.read_bytes()
        assert not [n for n, secret in SECRETS.items() if secret.encode() in content], path


@pytest.mark.drill
def test_the_multitask_bound_may_have_two_workers(study_file: Any, tmp_path: Path) -> None:
    file = study_file(methods=["finetune"], scale={"multitask": {"workers": 2}})
    l2kd("sweep", file, folder=tmp_path)
    store = Store(str(tmp_path / "results"))
    worlds = {
        manifest.kind: manifest.environment["world_size"]
        for manifest in store.manifests(store.listing().finished).values()
    }
    assert worlds["multitask"] == 2
    assert worlds["learn"] == 1


def test_a_second_run_does_no_work_and_gives_the_same_bytes(swept: Path) -> None:
    before = result_bytes(swept)
    stages = {path: path.stat().st_mtime_ns for path in (swept / "results/stages").rglob("*")}
    l2kd("sweep", "study.yaml", folder=swept)
    assert result_bytes(swept) == before
    assert stages == {p: p.stat().st_mtime_ns for p in (swept / "results/stages").rglob("*")}


def test_status_report_explain_and_export(swept: Path) -> None:
    state = json.loads(l2kd("status", "study.yaml", "--json", folder=swept))
    assert state["trials_done"] == state["trials"] == 6
    assert state["live"] is None
    (swept / "tiny").mkdir()  # a folder of the study's name, which is not its file
    plain = {"PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
    assert "multi-task" in l2kd("report", "tiny", "storage=results", folder=swept, **plain)
    scores = pd.read_parquet(swept / "results/studies/tiny/scores.parquet")
    row = scores.iloc[-1]
    manifest = json.loads(
        l2kd("explain", row["key"][:10], "--storage", "results", "--json", folder=swept)
    )
    assert manifest["scores"][row["metric"]] == row["score"]
    assert manifest["inputs"]["model"] == row["model"]
    own = ["--task", row["task"]] if row["method"] == "single" else []
    l2kd("export", row["trial"], "model", *own, "--study", "study.yaml", folder=swept)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(swept / "model")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(swept / "model"))


@pytest.mark.parametrize("verb", ["answers", "export"])
def test_a_damaged_file_is_said_and_no_bug(verb: str, swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept, tmp_path / "copy", ignore=shutil.ignore_patterns("wandb"))
    stages = tmp_path / "copy/results/stages"
    for file in (*stages.rglob("predictions.jsonl"), *stages.rglob("model.safetensors")):
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    results = pd.read_parquet(swept / "results/studies/tiny/results.parquet")
    words = [results["trial"][0], "model", "--study"] if verb == "export" else []
    said = l2kd(verb, *words, "study.yaml", folder=tmp_path / "copy", code=4)
    assert re.search(r"error: .* is altered.*\n  the next sweep computes it again", said)


def test_data_are_shown_with_what_the_stages_counted(swept: Path) -> None:
    found = json.loads(l2kd("data", "study.yaml", "--json", folder=swept))
    assert found == json.loads(l2kd("plan", "study.yaml", "--json", folder=swept))["data"]
    assert [(one["task"], one["split"]) for one in found[:3]] == [
        (TINY["tasks"][0], split) for split in ("train", "dev", "test")
    ]
    for one in found:
        counted = one["split"] != "dev"  # no stage reads it in a study without a search
        assert (one["cut"] is not None) == counted
        assert one["summary"]["kept"] <= one["summary"]["rows"]["kept"]
    table, line = l2kd("data", "study.yaml", folder=swept), l2kd("plan", "study.yaml", folder=swept)
    assert all(one["task"] in table and one["task"] in line for one in found)


def test_doubts_stand_above_the_headline_and_in_the_results(swept: Path) -> None:
    """Two short epochs of a tiny model: it has learnt nothing, and every page says so first."""
    said = "from the untrained model"
    page = (swept / "results/studies/tiny/report.md").read_text()
    assert 0 < page.index(said) < page.index("**Doubtful**") < page.index("## ")
    printed = l2kd("report", "study.yaml", folder=swept)
    assert printed.index(said) < printed.index("Points below multi-task")
    doubts = pd.read_parquet(swept / "results/studies/tiny/results.parquet")["doubts"]
    assert doubts.str.contains("bound at the untrained model").all()


def test_a_changed_study_says_so_and_keeps_the_old_file(swept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(swept / "results", folder / "results", ignore_dangling_symlinks=True)
    shutil.copy(swept / "study.yaml", folder)
    old = (folder / "results/studies/tiny/study.yaml").read_bytes()
    output = l2kd(
        "sweep", "study.yaml", "methods=[finetune]", "replay.ratio=", "--inline", folder=folder
    )
    assert "has changed" in output
    (kept,) = (folder / "results/studies/tiny").glob("study-until-*.yaml")
    assert kept.read_text() == unseal(old)


def test_inline_gives_the_same_scores_as_ray(swept: Path, tmp_path: Path) -> None:
    """The executor is no part of a key, and scores are the same to the bit."""
    (tmp_path / "study.yaml").write_bytes((swept / "study.yaml").read_bytes())
    few = ("methods=[finetune]", "replay.ratio=")
    l2kd("sweep", "study.yaml", *few, "--inline", folder=tmp_path)
    frames = [
        pd.read_parquet(folder / "results/studies/tiny/scores.parquet").query(
            "method in ('finetune', 'single', 'multitask')"
        )
        for folder in (swept, tmp_path)
    ]
    pd.testing.assert_frame_equal(*(frame.reset_index(drop=True) for frame in frames))


def test_the_python_api_has_the_same_verbs(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swept)
    study = l2kd_ray.load_study("study.yaml", {"kd.temperature": 2.0}, seeds=[531])
    assert study.plan().stages["learn"].todo == 0
    assert study.sweep("inline").failures == []
    assert any(path.endswith("/report.html") for path in study.report(mirror=False))
    assert len(study.results()) == 6


ADAPTIVE: dict[str, Any] = {
    "methods": ["finetune"],
    "search": {"train.lr": {"uniform": [1e-4, 1e-2]}},
    "tune": {"searcher": "optuna", "num_samples": 1},
}


@pytest.mark.drill
@pytest.mark.parametrize("objectives", [[], ["new", "old"], ["new", "texts"]], ids=str)
def test_adaptive_search_tries_each_setting_once(
    objectives: list[str], study_file: Any, tmp_path: Path
) -> None:
    """Optuna sees means over the orders, and is told again what was tried before."""
    (tmp_path / "texts.txt").write_text("the moon serves thai food")
    retention = {"retention": {"texts": "texts.txt"}} if "texts" in objectives else {}
    tune = {**ADAPTIVE["tune"], **({"objectives": objectives} if objectives else {})}
    file = study_file(**{**ADAPTIVE, "tune": tune, **retention})
    base = tmp_path / "results/studies/tiny"

    def tried() -> list[Any]:
        return json.loads((base / "settings.json").read_text())["finetune"]

    bound = json.loads(l2kd("plan", file, "--json", folder=tmp_path))["stages"]
    output = l2kd("sweep", file, folder=tmp_path)
    told = ", ".join(rf"{name} -?\d+\.\d\d" for name in objectives or ["dev"])
    best = "nothing is as good in both" if objectives else "best"
    assert re.search(rf"^finetune train\.lr=0\.00\d+: {told}.*, {best} so far$", output, re.M)
    assert "A new study" not in output
    done = Store(str(tmp_path / "results")).listing().finished
    assert len(done) <= sum(count["unique"] for count in bound.values())
    first = tried()
    assert len(first) == 1
    results = pd.read_parquet(base / "results.parquet")
    assert results.groupby("method").size().to_dict() == {
        "finetune": 2, "multitask": 1, "single": 1
    }  # fmt: skip
    scores = pd.read_parquet(base / "scores.parquet")
    assert set(scores["split"]) == {"dev", "test"}
    if retention:
        assert results["retention/texts/after"].notna().sum() == 2
    assert ("In the Pareto set" in (base / "report.md").read_text()) == bool(objectives)
    before = result_bytes(tmp_path)
    l2kd("sweep", file, folder=tmp_path)  # all is tried: no Ray is started
    assert result_bytes(tmp_path) == before
    l2kd("sweep", file, "tune.num_samples=2", folder=tmp_path)
    assert tried()[:1] == first
    assert len(tried()) == 2
    results = pd.read_parquet(base / "results.parquet")
    assert results.groupby("method").size()["finetune"] == 4


@pytest.mark.drill
def test_a_stage_that_fails_takes_its_trials_alone(study_file: Any, tmp_path: Path) -> None:
    """Its error is in status and report, the exit code is 4, a later run tries it again."""
    wild = {"name": "wild", "method": "finetune", "settings": {"train.lr": 1e30}}
    file = study_file(methods=["finetune", wild])
    output = l2kd("sweep", file, folder=tmp_path, code=4)
    assert "FloatingPointError" in output
    assert "a lower train.lr may help" in output
    results = pd.read_parquet(tmp_path / "results/studies/tiny/results.parquet")
    assert results.query("method == 'finetune'")["complete"].all()
    assert not results.query("method == 'wild'")["complete"].any()
    state = l2kd("status", file, folder=tmp_path)
    assert "Traceback" in state
    assert "FloatingPointError" in state
    report = (tmp_path / "results/studies/tiny/report.html").read_text()
    assert "FloatingPointError" in report
    planned = json.loads(l2kd("plan", file, "--json", folder=tmp_path))
    assert planned["stages"]["learn"]["todo"] == 4  # `wild`'s students: tried again next time


MINE = {"name": "mine", "train": "good.jsonl", "test": "good.jsonl", "max_test": 5}
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "missing file": ({"tasks": [MINE | {"train": "no.jsonl"}]}, "no.jsonl"),
    "broken line": ({"tasks": [MINE | {"train": "bad.jsonl"}]}, "bad.jsonl:2"),
    "unknown key": ({"kd": {"temprature": 2}}, "kd.temprature"),
    "temperature 0": ({"kd": {"temperature": 0}}, "kd.temperature"),
    "temperature hot": ({"kd": {"temperature": "hot"}}, "kd.temperature"),
    "task twice": ({"orders": [["gen.rest", "gen.rest"]]}, "twice"),
    "no test split": ({"tasks": [{"name": "mine", "train": "good.jsonl"}]}, "test"),
    "unwritable storage": ({"storage": "good.jsonl/below"}, "storage"),
    "no network": ({"student": {"model": "gpt2"}}, "hub"),
    "no such model": ({"student": {"model": "./no-such-folder"}}, "no-such-folder"),
    "no such field": ({"student": {"arch": "gpt2", "layers": 2}}, "layers"),
    "too many workers": ({"scale": {"workers": 64}}, "CPUs"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.drill] if name == "too many workers" else [])
        for name in REFUSALS
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    name: str, study_file: Any, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text(
        '{"context": "a", "question": "b", "answer": "c"}\n{"context": \n'
    )
    (tmp_path / "good.jsonl").write_text('{"context": "a", "question": "b", "answer": "c"}\n')
    changes, says = REFUSALS[name]
    on = [] if name == "too many workers" else ["--inline"]  # only a cluster has too few CPUs
    output = l2kd("sweep", study_file(**changes), *on, folder=tmp_path, code=2)
    assert output.startswith("error: ")
    assert says in output
    assert len(output.splitlines()) <= 15, output
    assert "Traceback" not in output
    assert not (tmp_path / "results" / "stages").exists()


def test_help_names_every_verb(tmp_path: Path) -> None:
    output = l2kd("--help", folder=tmp_path)
    verbs = ("plan", "sweep", "status", "report", "explain", "export", "tasks", "doctor")
    assert all(verb in output for verb in verbs)
    assert "gen.rest" in l2kd("tasks", folder=tmp_path)
    assert "ok" in l2kd("doctor", folder=tmp_path)


def test_the_version_and_the_tasks_can_be_read_by_programs(tmp_path: Path) -> None:
    assert l2kd("--version", folder=tmp_path) == f"l2kd-ray {version('l2kd-ray')}\n"
    tasks = json.loads(l2kd("tasks", "--json", folder=tmp_path))
    fields = {"name", "kind", "metric", "extras", "hub", "files", "description"}
    assert all(set(task) == fields for task in tasks)
    rest = next(task for task in tasks if task["name"] == "rnnlg.rest")
    assert rest["kind"] == "text-to-text"
    assert "rnnlg/restaurant/train.json" in rest["files"]


def test_a_plan_foretells_for_given_standard_deviations(study_file: Any) -> None:
    study = load_study(study_file(seeds=[1, 2, 3]))
    assert study.plan().foresight is None  # there is no pilot
    two, four = (study.plan([f"seed={std}", "order=1"]).foresight for std in (2, 4))
    assert two is not None
    assert four is not None
    assert 0 < two.half_width < four.half_width
    assert two.half_width < two.detectable
    with pytest.raises(InputError, match="--std: not understood"):
        study.plan(["sed=4"])


def test_what_is_not_known_is_null_in_json() -> None:
    assert cli._json({"a": math.nan, "b": [math.inf, 1.5, {"c": None}]}) == (
        '{"a": null, "b": [null, 1.5, {"c": null}]}'
    )


def test_every_help_text_is_a_sentence() -> None:
    """It has a capital, a full stop, and makes sense without the option's name."""
    command = typer.main.get_command(cli.app)
    assert isinstance(command, typer.core.TyperGroup)
    for verb, one in command.commands.items():
        texts = {verb: one.help, **{f"{verb} {p.name}": getattr(p, "help", "") for p in one.params}}
        for name, text in texts.items():
            assert text, name
            assert re.match(r"[A-Z]", text), f"{name}: {text}"
            assert text.rstrip().endswith((".", ").")), f"{name}: {text}"
            assert not text.startswith(("Of ", "What ", "Where ")), f"{name}: {text}"
            assert len(text.split()) > 3, f"{name}: {text}"


GAP = "gap −1.5 – × é 東 ›"  # noqa: RUF001


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "gap -1.5 - x ? ? >"),
        ("latin-1", "gap -1.5 - × é ? >"),  # noqa: RUF001
        ("utf-8", GAP),
    ],
)
def test_the_output_may_have_any_encoding(encoding: str, shown: str) -> None:
    """What cannot be written is replaced, and a minus stays one."""
    says = f"from l2kd_ray import cli; cli.app = lambda: print('{GAP}'); cli.main()"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", says], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding) == shown + "\n"


@pytest.mark.parametrize("words", [["tasks"], ["tasks", "--json"], ["--help"]], ids=" ".join)
def test_a_reader_that_leaves_ends_the_command_quietly(words: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*L2KD, *words], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
