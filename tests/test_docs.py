"""The documents: their commands run, their YAML is read, their keys, links and code are right."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from helpers.studies import TINY
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import l2kd_ray
from l2kd_ray import cli
from l2kd_ray.door import PATH
from l2kd_ray.families import FAMILIES
from l2kd_ray.study.reading import parse_study
from l2kd_ray.study.schema import StudyConfig

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "l2kd_ray"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tune_configs/*.md")])
KEY_PAGES = [ROOT / f"docs/{name}.md" for name in ("methods", "baselines", "study")]
NOW = [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")]
"""Pages that speak of the present code; the log and the changes keep what they said."""


def page_id(page: object) -> str:
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else str(page)


# Blocks and commands


FENCE = re.compile(r'^( *)```(\w*)(?: title="(.*?)")?\n(.*?)^\1```$', re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A block of code: its language ("" if indented), its title, and its text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        lines = (line.removeprefix(found[1]) for line in found[4].splitlines())
        yield Block(found[2], found[3] or "", "\n".join(lines))
    for indented in re.finditer(r"(?:^    .*\n|^\n(?=    ))+", FENCE.sub("", text), re.M):
        yield Block("", "", re.sub(r"^    ", "", indented[0], flags=re.M))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `l2kd`, `make` and `python` command of a page."""
    if page.suffix == ".yaml":
        shell = re.sub(r"^#", "", page.read_text(), flags=re.M)
    else:
        shell = "\n".join(b.text for b in blocks(page) if b.language in ("", "sh", "bash"))
    prose = FENCE.sub("", page.read_text()).replace("\n", " ")
    inline = re.findall(r"`((?:l2kd|make|python) [^`]+)`", prose)
    for line in [*shell.replace("\\\n", " ").splitlines(), *inline]:
        if re.match(r" *(l2kd|make|python) ", line):
            yield shlex.split(line, comments=True)


def of(*names: str) -> list[Any]:
    pages = [*NOW, *ROOT.glob("tune_configs/*.yaml")]
    found = {
        (page, tuple(words)) for page in pages for words in commands(page) if words[0] in names
    }
    return [pytest.param(p, list(w), id=f"{page_id(p)}: {' '.join(w)}") for p, w in sorted(found)]


@pytest.mark.parametrize(("page", "words"), of("l2kd"))
def test_a_command_of_a_page_is_one_that_there_is(page: Path, words: list[str]) -> None:
    """Its verb and options exist, and a shipped study that it names takes its settings."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    if words[1].startswith("-"):
        return
    verb = group.commands[words[1]]
    if len(words) == 2 or "..." in words:  # only named: `l2kd gc`
        return
    context = verb.make_context(verb.name, words[2:])
    study = context.params.get("study")
    if isinstance(study, str) and study.endswith(".yaml") and "/" in study:
        data = yaml.safe_load((ROOT / study).read_text())
        changes = cli.parse_overrides(context.params.get("overrides") or [])
        parse_study(data, changes, where=study)


@pytest.mark.parametrize(("page", "words"), of("make", "python"))
def test_a_target_or_script_of_a_page_is_there(page: Path, words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= set(targets)
    elif not words[1].startswith("-"):
        assert (ROOT / words[1]).is_file()


def test_ci_runs_what_a_contributor_runs() -> None:
    """Its steps are targets of the Makefile and pages of the site; the hooks are the same tools."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert any(step.startswith("make check") for step in steps)
    assert set(workflow["jobs"]["check"]["strategy"]["matrix"]["python"]) >= {"3.11"}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "mypy"]
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}
    assert set(re.findall(r"[\w/]+\.md", str(site["nav"]))) == pages


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's study is a tiny one that has been swept."""
    folder = tmp_path_factory.mktemp("finished")
    data = {
        **TINY,
        "name": "my-orders",
        "methods": ["lamol"],
        "orders": [["gen.rest", "gen.intent"]],
    }
    data |= {"train": {"epochs": 1, "batch_size": 8}, "storage": str(folder / "l2kd_results")}
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert l2kd_ray.load_study("study.yaml").sweep("inline").failures == []
    return folder


def readme_commands() -> list[str]:
    found = [words for words in commands(ROOT / "README.md") if words[0] == "l2kd"]
    return [shlex.join(words) for words in found if "tune_configs" not in " ".join(words)]


@pytest.mark.parametrize("command", readme_commands())
def test_the_commands_of_the_readme_run(
    command: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In this process, on the tiny study. A sweep runs inline; a cluster is not at hand."""
    monkeypatch.chdir(finished)
    words = shlex.split(command)[1:]
    if words[0] == "submit" or "--address" in words:
        pytest.skip("needs a cluster")
    if words[0] == "compare":
        pytest.skip("needs two studies: tests/test_streams.py")
    if words[0] in ("serve", "demo"):
        pytest.skip("takes minutes, or does not end: tests/test_serve.py")
    study = l2kd_ray.load_study("study.yaml")
    keys = sorted(stage.key for trial in study.study.trials() for stage in trial.stages())
    trial = next(trial.id for trial in study.study.trials() if trial.order)
    names = iter([keys[0][:10], keys[-1][:10]])
    words = [next(names) if re.fullmatch(r"[0-9a-f]{8}", word) else word for word in words]
    words = [word.replace("./examples", str(ROOT / "examples")) for word in words]
    words = [{"TRIAL": trial, "old-study": "my-orders"}.get(word, word) for word in words]
    words = ["kd.temperature=" if word.startswith("kd.temperature") else word for word in words]
    monkeypatch.setattr(
        sys, "argv", ["l2kd", *words, *(["--inline"] if words[0] == "sweep" else [])]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    allowed = (None, 0, 2) if words[0] == "doctor" else (None, 0)  # 2: what this machine lacks
    assert ended.value.code in allowed, capsys.readouterr()


# YAML and Python


def yaml_blocks() -> list[Any]:
    return [
        pytest.param(page, block.text, id=f"{page_id(page)}-{number}")
        for page in NOW
        for number, block in enumerate(b for b in blocks(page) if b.language == "yaml")
    ]


@pytest.mark.parametrize(("page", "text"), yaml_blocks())
def test_yaml_of_a_page_is_a_study_or_a_part_of_one(page: Path, text: str, tmp_path: Path) -> None:
    data = yaml.safe_load(text)
    for block in blocks(page):
        if block.title.endswith(".py"):
            (tmp_path / block.title).write_text(block.text)
    base = {"name": "x", "tasks": ["gen.rest"], "student": {"arch": "gpt2"}}
    parse_study({**base, **data}, base=tmp_path if "title=" in page.read_text() else ROOT)


def test_the_python_of_the_readme_runs(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    sweep = l2kd_ray.Experiment.sweep
    monkeypatch.setattr(l2kd_ray.Experiment, "sweep", lambda self: sweep(self, "inline"))
    (code,) = [b.text for b in blocks(ROOT / "README.md") if b.language == "python"]
    names: dict[str, Any] = {}
    exec(code.replace(', {"kd.temperature": 2}', ""), names)
    assert len(names["study"].results())


# Keys


LISTS = ("orders", "seeds", "search", "methods", "tasks")
"""Keys of the frame whose values are lists or mappings of sections."""


def sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in sections(part)]


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted key, the class and field that it is, its default) of everything below a section."""
    for name, field in model.model_fields.items():
        if model is StudyConfig and name in ("family", "settings"):
            continue
        below = sections(field.annotation)
        owner = next(
            base
            for base in reversed(model.__mro__)
            if name in vars(base).get("__annotations__", {})
        )
        if not below or (prefix == "" and name in LISTS):
            default = field.get_default(call_default_factory=True)
            yield prefix + name, f"{owner.__name__}.{name}", default
        for section in dict.fromkeys(below):
            yield from keys_of(section, f"{prefix}{name}.")


def schema() -> list[tuple[str, str, Any]]:
    found = list(keys_of(StudyConfig))
    for family in FAMILIES.values():
        found += keys_of(family.settings)
        for key, method in family.options.items():
            assert method.options is not None
            found += keys_of(method.options, f"{key}.")
    return found


def named_keys() -> set[str]:
    text = "\n".join(page.read_text() for page in KEY_PAGES)
    return set(re.findall(r"`([a-z_]+(?:\.[a-z0-9_]+)*)`", text))


def test_every_key_of_the_schema_is_named() -> None:
    """By one of its names: a section that stands in several places is listed once."""
    named = named_keys()
    places: dict[str, list[str]] = {}
    for key, identity, _ in schema():
        places.setdefault(identity, []).append(key)
    lacking = [keys for keys in places.values() if not named & set(keys)]
    assert lacking == []


def test_every_key_that_is_named_exists() -> None:
    known = {key for key, *_ in schema()}
    whole = {key.rpartition(".")[0] for key in known} | known | {"search.select_on"}
    firsts = {key.partition(".")[0] for key in known}
    named = {key for key in named_keys() if key.partition(".")[0] in firsts and "." in key}
    assert {key for key in named if key not in whole and not key.startswith("gen.")} == set()


def test_the_defaults_of_the_tables_are_those_of_the_schema() -> None:
    """Where the table gives a value in code marks; words such as `by kind` are not checked."""
    defaults: dict[str, list[Any]] = {}
    for key, _, default in schema():
        defaults.setdefault(key, []).append(default)
    checked = 0
    for page in KEY_PAGES:
        for key, cell in re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", page.read_text(), re.M):
            if key not in defaults:
                continue
            if cell == "required":
                assert PydanticUndefined in defaults[key] or key in ("methods.settings", ""), key
            elif cell.startswith("`"):
                wanted = [plain(default) for default in defaults[key]]
                assert yaml.safe_load(cell.strip("`")) in wanted, f"{key}: {cell}, not {wanted}"
                checked += 1
    assert checked > 60


def plain(default: Any) -> Any:
    if isinstance(default, tuple | list):
        return [getattr(one, "name", one) for one in default]
    return default


# Links


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_of_a_page_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", NOW, ids=page_id)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for name in re.findall(
        r"`((?:l2kd_ray|tests|benchmarks|docs|tune_configs|examples)/[\w./-]+)`", page.read_text()
    ):
        if name != "examples/leak_free":  # a score
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", NOW, ids=page_id)
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    for file, name in re.findall(r"\b(test_\w+\.py)(?:::(\w+))?", page.read_text()):
        assert (ROOT / "tests" / file).exists(), file
        assert f"def {name}" in (ROOT / "tests" / file).read_text(), name


# The architecture page


ARCHITECTURE = ROOT / "docs/architecture.md"


def picture() -> list[list[str]]:
    """The rooms of the picture, floor by floor from the top."""
    (drawn,) = [b.text for b in blocks(ARCHITECTURE) if b.title == "l2kd_ray"]
    return [found for line in drawn.splitlines() if (found := re.findall(r"\[([\w/]+)\]", line))]


def room_of(parts: tuple[str, ...]) -> str:
    first, *rest = (part.removesuffix(".py") for part in parts)
    inner = rest[0] if rest else ""
    return f"families/{inner}" if first == "families" and inner in FAMILIES else first


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("l2kd_ray."):
            yield node.module
        elif isinstance(node, ast.ImportFrom) and node.module == "l2kd_ray":
            yield from (f"l2kd_ray.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("l2kd_ray."))


def test_the_picture_of_the_house_is_right() -> None:
    """Every room stands in it, and imports go to a lower line of it."""
    floor = {room: number for number, rooms in enumerate(picture()) for room in rooms}
    for path in PACKAGE.rglob("*.py"):
        here = room_of(path.relative_to(PACKAGE).parts)
        if here == "__init__" or path == PACKAGE / "families/__init__.py" or not path.read_text():
            continue  # they name what there is
        assert here in floor, here
        for module in imported(path):
            there = room_of(tuple(module.split(".")[1:]))
            assert there == here or floor[there] > floor[here], f"{path}: {module}"


def test_the_way_of_a_setting_is_right() -> None:
    """Each hop's file defines the function that the table names."""
    hops = re.findall(r"^\| \d+ \| `([\w/]+\.py)` \| `([\w.]+)` \|", ARCHITECTURE.read_text(), re.M)
    assert 5 <= len(hops) <= 8
    for file, name in hops:
        tree = ast.parse((PACKAGE / file).read_text())
        kinds = (ast.FunctionDef, ast.ClassDef)
        names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
        assert set(name.split(".")) <= names, f"{file}: {name}"


def recipes() -> dict[str, str]:
    return {b.title: b.text for b in blocks(ARCHITECTURE) if b.title.endswith((".py", ".jsonl"))}


def study_of(name: str) -> dict[str, Any]:
    """The YAML of the recipe that names a plug-in."""
    for block in blocks(ARCHITECTURE):
        if block.language == "yaml" and name in block.text:
            return dict(yaml.safe_load(block.text))
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name", ["tickets", "prompts.py", "starts.py", "l2kd_real.py", "jeffreys.py", "brief.py"]
)
def test_a_recipe_runs(name: str, tmp_path: Path, study_file: Any) -> None:
    for title, code in recipes().items():
        (tmp_path / title).write_text(code + "\n")
    for split, size in (("train", 16), ("test", 4)):
        rows = [{"text": f"the {n} printer is broken", "label": "it"} for n in range(size)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"tickets.{split}.jsonl").write_text(text)
        lines = "".join(f"say {n}\tit is {n}\n" for n in range(size))
        (tmp_path / f"talk.{split}.tsv").write_text(lines)
    changes: dict[str, Any] = {"methods": ["lamol"], "train": {"epochs": 1}, **study_of(name)}
    study = l2kd_ray.load_study(study_file(**changes))
    order = study.study.orders[0]
    study = l2kd_ray.load_study(study_file(**{**changes, "orders": [list(order)]}))
    assert study.sweep("inline").failures == []
    assert study.results()["complete"].all()


def test_the_divergence_of_the_recipe_is_a_divergence() -> None:
    import torch

    from l2kd_ray.distill.divergences import DIVERGENCES

    names: dict[str, Any] = {}
    exec(recipes()["jeffreys.py"], names)
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64)
    loss = names["jeffreys"](student, teacher, 2.0)
    wanted = sum(DIVERGENCES[name](student, teacher, 2.0) for name in ("forward", "reverse"))
    torch.testing.assert_close(loss, wanted)
    assert names["jeffreys"](student, student, 2.0).abs().max() < 1e-12


def test_the_report_section_of_the_recipe_draws() -> None:
    import pandas as pd

    names: dict[str, Any] = {}
    exec(recipes()["spread_section.py"], names)

    class Found:
        orders = pd.DataFrame({"method": ["lamol"], "std": [1.5]})

    (section,) = names["spread_section"](Found())
    assert section.blocks
    Found.orders = Found.orders[:0]
    assert names["spread_section"](Found()) == []


def test_names_of_plug_ins_in_pages_are_plug_ins() -> None:
    for page in NOW:
        for name in re.findall(r"`(\./examples/[^`]+)`", page.read_text()):
            found = PATH.match(name)
            assert found
            assert f"def {found['name']}" in (ROOT / found["module"]).read_text()


def paragraphs(page: Path) -> Iterator[str]:
    """Paragraphs and items of lists; tables and code are none."""
    prose = FENCE.sub("", page.read_text())
    prose = re.sub(r"^(    |\|).*$", "", prose, flags=re.M)
    yield from re.split(r"\n\s*\n|\n(?=[*-] |\d+\. )", prose)


@pytest.mark.parametrize("page", [p for p in NOW if "example_report" not in str(p)], ids=page_id)
def test_paragraphs_are_short(page: Path) -> None:
    for paragraph in paragraphs(page):
        assert len(paragraph.split()) < 100, paragraph[:80]


def test_the_example_reports_numbers_are_drawn_from_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page of the evidence says; figures are left out."""
    blank = b'<svg viewBox="0 0 1 1"></svg>'
    monkeypatch.setattr("l2kd_ray.report.style.drawn", lambda *_: blank)
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/evidence/README.md").read_text(), re.S
    )
    exec(block.replace('"l2kd-confirm", scores', f'"{tmp_path}", scores'), {})
    tables = [
        page.read_text().split("| Method | Mean gap |")[1].split("\n\n")[0]
        for page in (tmp_path / "report.md", ROOT / "docs/example_report/report.md")
    ]
    gaps = [re.findall(r"^\| (\w[\w-]*) \| (\S+)", table, re.M) for table in tables]
    assert gaps[0] == gaps[1]
    assert len(gaps[0]) == 6


def test_the_tables_of_the_results_are_recomputed_from_the_evidence() -> None:
    script = runpy.run_path(str(ROOT / "docs/evidence/tables.py"))
    pages = {file: file.read_text("utf-8") for file in script["PAGES"]}
    assert sum(page.count("<!-- table: ") for page in pages.values()) >= 7
    for file, page in pages.items():
        assert script["renewed"](page) == page, f"{file}: run docs/evidence/tables.py"
