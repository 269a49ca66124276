"""The page in a real browser, where there is one: quiet, alone, whole at every width."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.browser import CHROMIUM, CONTRASTS, Browser, contrast
from helpers.pages import ALL, FAILURE, SEEDS, SETTINGS, replay_rows
from helpers.synthetic_study import study

from l2kd_ray.analysis import Design, Instance
from l2kd_ray.report import write_report
from l2kd_ray.report.heatmaps import STRONGEST
from l2kd_ray.report.style import COLOURS


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section."""
    folder = tmp_path_factory.mktemp("report")
    samples = {
        "l2kd": [{"task": "rnnlg.tv", "question": "inform(" + 90 * "x" + ")", "answer": "y"}]
    }
    scores = study(seeds=SEEDS, settings=SETTINGS)
    lost = Instance("lamol", "{}", ALL[1], "532")
    return write_report(
        folder,
        scores,
        study={"name": "a-study-of-a-long-name-that-does-not-break-anywhere", "tasks": list(ALL)},
        planned={"trials": 60, "trials_done": 59},
        failures=[FAILURE],
        costs=pd.DataFrame({"kind": ["learn"], "stages": [4], "seconds": [9.5]}),
        command="l2kd sweep " + 40 * "a-long-word ",
        design=Design("all", ALL, SEEDS),
        failed=[lost],
        replay=replay_rows(),
        samples=samples,
    )[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, page: Path) -> Iterator[Browser]:
    """A browser that has opened the page."""
    if not CHROMIUM:
        pytest.skip("no chromium")
    found = Browser(tmp_path_factory.mktemp("profile"))
    found.open(page.as_uri())
    yield found
    found.close()


def test_the_page_is_quiet_and_asks_for_nothing(browser: Browser, page: Path) -> None:
    browser.ask(OPEN_ALL)
    kinds = {event["method"] for event in browser.events}
    assert not kinds & {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
    sent = [e["params"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [one["request"]["url"] for one in sent] == [page.as_uri()]


@pytest.mark.parametrize("width", [1100, 400, 320])
def test_nothing_is_wider_than_the_screen(browser: Browser, width: int, tmp_path: Path) -> None:
    browser.look(width)
    browser.ask(OPEN_ALL)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('figure svg')].map(one => one.clientWidth)"
    assert max(browser.ask(wide)) <= max(width, 320)
    for dark in (False, True):
        browser.look(width, dark=dark)
        shot = tmp_path / "shot.png"
        browser.photograph(shot)
        assert shot.stat().st_size > 50_000


def test_figures_can_be_read_on_a_phone(browser: Browser) -> None:
    browser.look(400)
    sizes = """[...document.querySelectorAll('figure svg text')].map(one => {
      const {a, b, c, d} = one.getScreenCTM();
      return parseFloat(getComputedStyle(one).fontSize) * Math.sqrt(Math.abs(a * d - b * c));
    })"""
    assert min(browser.ask(sizes)) > 8


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser: Browser, dark: bool) -> None:
    browser.look(1100, dark=dark)
    browser.ask(OPEN_ALL)
    found = browser.ask(CONTRASTS)
    assert len(found) > 500
    assert (found[0][0] < found[0][1]) == dark  # darker ground than text
    faint = {tuple(pair) for pair in found if contrast(*pair) < 4.5}
    assert not faint


def test_tables_are_sorted_by_number_and_by_keyboard(browser: Browser) -> None:
    first = "document.querySelector('table[aria-labelledby=table-by_order]')"
    column = f"[...{first}.tBodies[0].rows].map(row => parseFloat(row.cells[1].dataset.value))"
    browser.ask(f"{first}.tHead.rows[0].cells[1].querySelector('button').focus()")
    pressed = "document.activeElement.click()"
    browser.ask(pressed)
    values = browser.ask(column)
    assert len(values) == 6
    assert values == sorted(values)
    browser.ask(pressed)
    assert browser.ask(column) == sorted(values, reverse=True)
    said = browser.ask(f"{first}.tHead.rows[0].cells[1].getAttribute('aria-sort')")
    assert said == "descending"


def test_the_gap_table_is_whole_on_a_desktop_and_its_cut_edge_is_shaded(browser: Browser) -> None:
    box = "document.querySelector('.scroll:has(table[aria-labelledby=table-gap])')"
    browser.look(1200)
    assert browser.ask(f"{box}.scrollWidth - {box}.clientWidth") == 0
    browser.look(390)
    assert browser.ask(f"{box}.scrollWidth - {box}.clientWidth") > 0
    # A cover that scrolls along, and a shade below it that stays at the edge.
    assert browser.ask(f"getComputedStyle({box}).backgroundAttachment") == "local, scroll"


def test_what_is_folded_is_printed(browser: Browser) -> None:
    shut = "[...document.querySelectorAll('details:not([open])')].length"
    browser.ask("document.querySelectorAll('details').forEach(one => { one.open = false })")
    assert browser.ask(shut) > 0
    browser.call("Page.printToPDF")
    assert browser.ask(shut) == 0


def test_on_paper_nothing_is_cut(browser: Browser) -> None:
    browser.look(718, media="print")  # A4 less its margins
    assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    scrolled = "[...document.querySelectorAll('.scroll')].map(x => getComputedStyle(x).overflowX)"
    assert set(browser.ask(scrolled)) == {"visible"}
    assert browser.ask("document.documentElement.scrollWidth") <= 718


def test_without_scripts_the_page_is_whole(browser: Browser, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page.as_uri())
    document = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
    markup = browser.call("DOM.getOuterHTML", nodeId=document)["outerHTML"]
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.open(page.as_uri())
    assert "<button" not in markup  # nothing to press that would do nothing
    assert markup.count("<table") > 8
    assert "Every order" in markup or "table-by_order" in markup


OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true })"


def test_numbers_stand_out_from_the_strongest_cell_of_a_heat_map() -> None:
    for scheme in (0, 1):
        ink, paper = (_parts(COLOURS[name][scheme]) for name in ("ink", "paper"))
        for name, pair in COLOURS.items():
            if re.fullmatch(r"c\d", name):
                cell = STRONGEST * _parts(pair[scheme]) + (1 - STRONGEST) * paper
                assert contrast(_light(ink), _light(cell)) > 4.5, (name, scheme)


def _parts(colour: str) -> np.ndarray:
    return np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])


def _light(parts: np.ndarray) -> float:
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
