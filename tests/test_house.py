"""The house: each floor imports only from floors below it, and imports stay cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import l2kd_ray

ROOT = Path(l2kd_ray.__file__).parent
# From the bottom up; modules of one line stand on one floor.
FLOORS = [
    {"config"},
    {"tasks"},
    {"distill"},
    {"models"},
    {"store"},
    {"stages"},
    {"methods"},
    {"study"},
    {"garbage", "explain"},
    {"cluster"},
    {"analysis"},
    {"agenda", "evidence"},
    {"report"},
    {"api"},
    {"doctor"},
    {"cli", "__main__", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
MODULES = sorted(ROOT.rglob("*.py"))


def floor_of(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_floor_imports_only_from_floors_below(path: Path) -> None:
    here = floor_of(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("l2kd_ray."):
                there = name.split(".")[1]
                assert there == here or LEVEL[there] < LEVEL[here], f"{here} imports {name}"


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
        ("import l2kd_ray.methods", set()),
        ("import l2kd_ray.analysis", {"pandas", "scipy"}),
        ("import l2kd_ray.report", {"pandas", "scipy"}),
        ("import l2kd_ray.distill.objectives", {"torch"}),
    ],
)
def test_imports_stay_cheap(code: str, allowed: set[str]) -> None:
    assert imported_by(code) <= allowed


def test_ray_lives_in_the_cluster_and_wandb_in_the_report() -> None:
    for path in MODULES:
        floor = floor_of(path.relative_to(ROOT).parts)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            roots = {name.split(".")[0] for name in names}
            assert "ray" not in roots or floor == "cluster", path
            assert "wandb" not in roots or floor == "report", path
