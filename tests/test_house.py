"""The house: imports go down and never in a circle, families do not meet, imports stay cheap."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest

import l2kd_ray
from l2kd_ray.core.stage import Stage

ROOT = Path(l2kd_ray.__file__).parent
QUICKSTART = str(ROOT / "tune_configs" / "quickstart.yaml")
# From the bottom up; rooms of one line do not know each other.
ROOMS = [
    {"errors", "names"},
    {"section"},
    {"door"},
    {"tasks"},
    {"distill"},
    {"models"},
    {"core"},
    {"families"},
    {"analysis"},
    {"study"},
    {"cluster"},
    {"forecast", "mirrors", "report", "testing"},
    {"experiment"},
    {"api"},
    {"__init__"},
    {"doctor", "serve"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# What no family may change knows nothing of tasks and models.
BELOW_CORE = {"errors", "section", "door"}
FAMILIES = {"language", "classifiers", "structures"}


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Mapping[str, ast.Module] = {
    name_of(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.rglob("*.py"))
}


def imported(node: ast.AST) -> Iterator[str]:
    """What a module imports, in its functions too; not what only a type checker reads."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for statement in node.orelse:
            yield from imported(statement)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if name in MODULES else str(node.module)
    for child in ast.iter_child_nodes(node):
        yield from imported(child)


IMPORTS: Mapping[str, frozenset[str]] = {
    name: frozenset(imported(tree)) - {name} for name, tree in MODULES.items()
}


def within(name: str) -> list[str]:
    """The dotted name's parts below the package."""
    return name.split(".")[1:]


def room_of(name: str) -> str:
    return within(name)[0] if within(name) else "__init__"


def own(name: str) -> list[str]:
    """What a module imports of this package."""
    return [there for there in sorted(IMPORTS[name]) if there.split(".")[0] == "l2kd_ray"]


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_from_rooms_below(name: str) -> None:
    here = room_of(name)
    for there in map(room_of, own(name)):
        assert there == here or LEVEL[there] < LEVEL[here], f"{name} imports {there}"
        assert here != "core" or there in {"core", *BELOW_CORE}, f"{name} imports {there}"


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) != "testing"])
def test_a_text_file_has_the_same_encoding_on_every_machine(name: str) -> None:
    for call in ast.walk(MODULES[name]):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        needed = {"read_text": 1, "write_text": 2}.get(call.func.attr, 0)
        is_named = any(word.arg == "encoding" for word in call.keywords)
        owner = ast.unparse(call.func.value)
        if needed and owner not in ("files", "readers"):
            assert is_named or len(call.args) >= needed, f"{name}:{call.lineno}"


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) == "families"])
def test_families_do_not_know_each_other(name: str) -> None:
    """Nor does what they share know any of them; `families/__init__` alone names them all."""
    if name == "l2kd_ray.families":
        return
    mine = within(name)[1]
    for there in own(name):
        if room_of(there) == "families":
            assert there != "l2kd_ray.families", f"{name} imports the list of families"
            assert within(there)[1] not in FAMILIES - {mine}, f"{name} imports {there}"


def packages_of(name: str) -> list[str]:
    """Whose `__init__` is run before the module."""
    parts = name.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def circles(edges: Mapping[str, frozenset[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for there in edges.get(waiting.pop(), frozenset()) - seen:
                seen.add(there)
                waiting.append(there)
        return seen

    reach = {name: reached(name) for name in edges}
    found = {
        frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in edges if a in reach[a]
    }
    return [set(circle) for circle in found]


def test_no_import_goes_in_a_circle() -> None:
    """Neither at a module's top nor in its functions; a module also runs the `__init__` of every
    package on the way to what it imports."""
    edges = {
        name: frozenset(
            package
            for there in imports & MODULES.keys()
            for package in (there, *packages_of(there))
            if package not in (name, *packages_of(name))  # those run before it anyway
        )
        for name, imports in IMPORTS.items()
    }
    assert circles(edges) == []


def test_a_circle_would_be_found() -> None:
    line = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset[str]()}
    assert circles(line) == []
    assert circles({**line, "c": frozenset({"b"})}) == [{"b", "c"}]


@pytest.mark.parametrize(("package", "room"), [("ray", "cluster"), ("wandb", "mirrors")])
def test_ray_lives_in_the_cluster_and_wandb_in_the_mirrors(package: str, room: str) -> None:
    users = {
        room_of(n) for n, names in IMPORTS.items() for m in names if m.split(".")[0] == package
    }
    assert users == {room}


def imported_by(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has loaded after `code`."""
    heavy = ("torch", "ray", "wandb", "transformers", "datasets", "pandas", "matplotlib", "scipy")
    program = f"import sys\n{code}\nprint(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return set(done.stdout.decode().splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import l2kd_ray", set()),
        ("import l2kd_ray.cli", set()),
        ("import l2kd_ray.study", set()),
        ("import l2kd_ray.families", set()),
        ("import l2kd_ray.mirrors.wandb", {"pandas"}),
        ("import l2kd_ray.analysis", {"pandas", "scipy"}),
        ("import l2kd_ray.report", {"pandas", "scipy"}),
        ("import l2kd_ray.distill.objectives", {"torch"}),
        (f"from l2kd_ray.study import load\nload({QUICKSTART!r})", {"pandas", "scipy"}),
    ],
)
def test_imports_stay_cheap(code: str, allowed: set[str]) -> None:
    assert imported_by(code) <= allowed


def stages(of: type[Stage] = Stage) -> Iterator[type[Stage]]:
    for one in of.__subclasses__():
        yield one
        yield from stages(one)


def test_each_stage_has_a_name_of_its_own() -> None:
    """It is part of the key: two of one name could be taken for each other."""
    for name in MODULES:
        if room_of(name) in ("core", "families"):
            import_module(name)
    found = {one for one in stages() if one.__module__ in MODULES}
    names = sorted(one.__name__ for one in found)
    assert len(names) > 15
    assert names == sorted(set(names))


TESTS = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_file_imports_another(path: Path) -> None:
    """What two of them use is in `tests/helpers/`, or a fixture."""
    tests = {one.stem for one in TESTS.glob("test_*.py")} | {"conftest"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        assert not {part for name in names for part in name.split(".")} & tests, names


def public_names(tree: ast.Module) -> Iterator[str]:
    """The classes, aliases and constants that a module defines; type variables aside."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in (
                "TypeVar",
                "ParamSpec",
            ):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [one for target in targets for one in ast.walk(target)]
            names = [one.id for one in found if isinstance(one, ast.Name)]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def test_a_public_name_stands_for_one_thing() -> None:
    """A reader who meets a name need not ask which module's it is."""
    where: dict[str, list[str]] = {}
    for module, tree in MODULES.items():
        for name in public_names(tree):
            where.setdefault(name, []).append(module)
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """The docstrings of a module, its classes, functions, fields and constants."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Constant) and isinstance(statement, ast.Expr):
                yield value


@pytest.mark.parametrize("name", MODULES)
def test_a_docstring_makes_sense_without_the_name_above_it(name: str) -> None:
    """Its first word is no reference to something that the reader must guess."""
    bare = re.compile(r"\s*(Of|That|What|Whose|Those)\b")
    lines = [one.lineno for one in docstrings(MODULES[name]) if bare.match(str(one.value))]
    assert lines == [], f"{name}: docstrings that begin with a bare word in lines {lines}"
