"""The notebook of `examples/`: its cells run, and what it shows can be shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.pages import Page

NOTEBOOK = Path(__file__).parents[1] / "examples/first_study.ipynb"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The value of the last line of each code cell, by that line; run in one sitting."""
    values: dict[str, Any] = {}
    space: dict[str, Any] = {}
    cells = [
        "".join(cell["source"])
        for cell in json.loads(NOTEBOOK.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        for source in cells:
            *_, last = source.splitlines()
            if last[0] in " )" or " = " in last or ".save(" in last:
                exec(source, space)
                continue
            exec(source.removesuffix(last), space)
            values[last] = eval(last, space)
    return {**values, "folder": space["study"].folder}


def test_its_cells_run_and_show_what_they_say(shown: dict[str, Any]) -> None:
    assert shown["ended.failures"] == []
    (frame,) = [value for last, value in shown.items() if last.startswith("results[[")]
    assert set(frame["method"]) >= {"finetune", "lamol", "l2kd", "multitask"}
    assert frame["gap/abs"].notna().sum() == 6
    (answers,) = [value for last, value in shown.items() if last.startswith("said.head")]
    assert len(answers) == 6


def test_a_study_and_its_figures_show_themselves(shown: dict[str, Any]) -> None:
    page = Page(shown["study"]._repr_html_())
    assert "first-study" in page.words
    assert "l2kd" in page.words
    assert "<svg" in shown["figure"]._repr_svg_()
    saved = Path(shown["folder"]).parents[2] / "gap_by_method.pdf"
    assert saved.read_bytes().startswith(b"%PDF")


def test_it_is_kept_without_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
