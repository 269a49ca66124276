"""The report of whatever a study has so far: complete, true to the frames, whole in one file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd
import pytest
from helpers.pages import FAILURE, SEEDS, SETTINGS, Page, check_whole
from helpers.synthetic_study import gap_table, study
from rich.table import Table

from l2kd_ray.errors import InputError
from l2kd_ray.report import headline, terminal_table, write_report
from l2kd_ray.report.blocks import text
from l2kd_ray.report.console import print_table
from l2kd_ray.report.labels import formulas, order_labels, ordinal, setting_label, task_labels


def half_of(scores: pd.DataFrame) -> pd.DataFrame:
    """The first half of the trials, the last of them without its last scores."""
    trials = scores["trial"].unique()
    kept = scores[scores["trial"].isin(trials[: len(trials) // 2])]
    cut = (kept["trial"] == trials[len(trials) // 2 - 1]) & (kept["i"] == kept["i"].max())
    return kept[~cut]


CASES = {
    "finished": lambda: study(seeds=SEEDS),
    "settings": lambda: study(seeds=SEEDS[:2], settings=SETTINGS, methods=("l2kd",)),
    "text setting": lambda: study(
        settings={"l2kd": [{"kd.objective": o} for o in ("a", "b")]}, methods=("l2kd",)
    ),
    "settings without dev": lambda: study(settings=SETTINGS, splits=("test",), methods=("l2kd",)),
    "half-way": lambda: half_of(study(seeds=SEEDS)),
    "one of each": lambda: study(orders=1, methods=("l2kd",)),
    "no multitask": lambda: study(orders=2, multitask=False, single=False, untrained=False),
    "references alone": lambda: study(methods=()),
    "dev alone": lambda: study(splits=("dev",)),
    "one task": lambda: study(("only",), seeds=SEEDS),
    "many orders": lambda: study([f"family.task{k}" for k in range(5)], methods=("l2kd", "lamol")),
    "six tasks": lambda: study([f"a-long-name-{k}" for k in range(6)], orders=3, methods=("l2kd",)),
    "crossed seeds": lambda: study(seeds=("1r7", "1r8", "2r7", "2r8"), methods=("lamol",)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_state_of_a_study_has_a_whole_page(case: str, tmp_path: Path) -> None:
    paths = write_report(tmp_path, CASES[case](), study={"name": "s"}, command="l2kd sweep s.yaml")
    check_whole(paths, tmp_path)


def test_the_page_tells_the_numbers_of_the_gap_table(tmp_path: Path) -> None:
    scores = study(settings=SETTINGS)
    source = write_report(tmp_path, scores, study={"name": "s"})[0].read_text()
    page = Page(source)
    table = gap_table(scores)
    for _, row in table[table["selected"] & ~table["reference"]].iterrows():
        gap = row["gap/abs"]
        shown = re.findall(rf'data-value="{gap}"[^>]*>(?:<strong>)?(-?[\d.]+)', source)
        assert shown  # rounded, as a number says that stands in its cell
        assert all(abs(float(words) - gap) <= 0.05 for words in shown)
    csv = pd.read_csv(tmp_path / "tables/gap.csv")
    pd.testing.assert_series_equal(csv["gap/abs"], table["gap/abs"])
    assert page.headings == [
        "Gap to multi-task",
        "Methods against each other",
        "Robustness to task order",
        "What drives the gap",
        "Which task hurts which",
        "Score matrix",
        "Forgetting and transfer",
        "Learning against keeping",
        "Settings",
        "Where each number comes from",
        "How to reproduce",
        "What the words mean",
    ]


def test_every_score_can_be_traced_to_its_keys(tmp_path: Path) -> None:
    scores = study(methods=("l2kd",))
    write_report(tmp_path, scores, study={"name": "s"})
    trace = pd.read_csv(tmp_path / "tables/trace.csv")
    assert len(trace) == len(scores)
    assert set(trace["key"]) == set(scores["key"])
    final = scores[(scores["split"] == "test") & (scores["i"] == 3)]
    source = (tmp_path / "report.html").read_text()
    assert all(key in source for key in final["key"])


def test_the_same_scores_give_the_same_report(tmp_path: Path) -> None:
    scores = study(orders=2, methods=("l2kd",), settings=SETTINGS)
    first = write_report(tmp_path / "a", scores, study={"name": "s"})
    second = write_report(
        tmp_path / "b", scores.sample(frac=1, random_state=3), study={"name": "s"}
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_half_way_says_so(tmp_path: Path) -> None:
    planned = {"trials": 24, "trials_done": 12, "stages": 64, "stages_done": 40}
    costs = pd.DataFrame({"kind": ["learn", "evaluate"], "stages": [40, 2], "seconds": [9.5, 1.25]})
    paths = write_report(
        tmp_path,
        half_of(study(seeds=SEEDS)),
        study={"name": "s"},
        planned=planned,
        failures=[FAILURE],
        costs=costs,
    )
    page = Page(paths[0].read_text())
    assert "So far, " in page.words
    assert "12 of 24 trials and 40 of 64 stages" in page.words
    assert "Not yet comparable" in page.words
    assert "1 stage failed" in page.words
    assert "Traceback <here>" in page.words
    assert f"l2kd explain {FAILURE['key']}" in page.words
    total = re.search(r"<strong>total</strong>.*?</tr>", paths[0].read_text())
    assert total
    assert re.findall(r"<strong>([\d.]+)</strong>", total[0]) == ["42", "10.8"]  # of the seconds
    assert tmp_path / "tables/costs.csv" in paths


def test_failures_are_reported_before_any_score(tmp_path: Path) -> None:
    paths = write_report(tmp_path, pd.DataFrame(), study={"name": "s"}, failures=[FAILURE])
    assert "out of memory" in Page(paths[0].read_text()).words


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no scores yet[\s\S]*l2kd sweep"):
        write_report(tmp_path, pd.DataFrame(), study={"name": "s"})
    with pytest.raises(ValueError, match="no column"):
        write_report(tmp_path, pd.DataFrame({"a": [1]}), study={"name": "s"})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = study(orders=1, methods=("l2kd",))
    write_report(tmp_path, scores, study={"name": "old"})
    before = sorted(path.name for path in tmp_path.iterdir())

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, scores, study={"name": "new"})
    assert "<h1>old</h1>" in (tmp_path / "report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_a_user_named_is_text_on_the_page(tmp_path: Path) -> None:
    evil = {"name": "<script>alert(1)</script>"}
    failure = {**FAILURE, "error": "<b>bold</b> | ** `x`", "traceback": "</code></pre><b>"}
    source = write_report(tmp_path, study(orders=1, methods=()), study=evil, failures=[failure])[
        0
    ].read_text()
    Page(source)
    assert "<script>alert" not in source
    assert "<b>" not in source


# --- words ------------------------------------------------------------------------------------


def test_headline_of_several_seeds() -> None:
    words = headline(gap_table(study(seeds=SEEDS)))
    assert re.match(
        r"\*\*l2kd\*\* ends \*\*\d+\.\d points below multi-task\*\* \(95 % interval", words
    )
    assert "all 6 orders and 3 seeds" in words
    assert "of LAMOL's gap" in words
    assert not re.search(r"\b(best|better)\b", words)


def test_headline_of_one_seed_and_some_orders_claims_no_interval() -> None:
    words = headline(gap_table(study(orders=2)))
    assert "95 %" not in words
    assert words.endswith("the mean over 2 of 6 orders and 1 seed; no interval.")


def test_a_method_that_ran_less_is_not_called_best() -> None:
    scores = study(seeds=SEEDS)
    lucky = scores["trial"][scores["method"] == "l2kd"].unique()[:1]
    kept = scores[(scores["method"] != "l2kd") | scores["trial"].isin(lucky)]
    assert headline(gap_table(kept)).startswith("**lamol** ends")


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (study(methods=()), "No lifelong trial is complete"),
        (study(multitask=False), "No multi-task score yet"),
        (study(settings=SETTINGS, methods=("l2kd",), splits=("test",)), "No setting is selected"),
    ],
)
def test_headline_without_a_gap_says_why(scores: pd.DataFrame, words: str) -> None:
    assert words in headline(gap_table(scores))


def printed(table: Table, capsys: pytest.CaptureFixture[str]) -> str:
    print_table(table)
    return capsys.readouterr().out


def test_terminal_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    shown = printed(terminal_table(study(seeds=SEEDS, settings=SETTINGS)), capsys)
    assert "l2kd (kd.temperature 2, kd.weight 1) *" in shown
    assert "selected on dev" in shown
    with pytest.raises(ValueError, match="no rows"):
        terminal_table(study().iloc[:0])


@pytest.mark.parametrize("width", ["1", "20", "40", "60", "80", "120", None])
@pytest.mark.parametrize("long", [False, True])
def test_a_table_of_any_width_has_all_its_cells(
    width: str | None,
    long: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No number is left out or broken, whatever the terminal, the pipe and the names are."""
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr("os.get_terminal_size", no_terminal)
    names = {"finetune": "lamol-compute", "lamol": "l2kd-seq", "l2kd": "[b]l2kd:smile:"}
    tasks = [f"{'task-' * 7}{one}" if long else one for one in "abcde"]
    scores = study(tasks, seeds=SEEDS, settings=SETTINGS, orders=4)
    scores = scores.assign(method=scores["method"].replace(names))
    table = terminal_table(scores)
    shown = printed(table, capsys)
    for column in table.columns:
        cells = [str(cell) for cell in column.cells]
        if column.justify == "right":  # numbers are whole, on one line
            assert all(shown.count(cell) >= cells.count(cell) for cell in cells)
        assert {*" ".join(cells).split()} <= {*shown.split()}
    assert "…" not in shown


def no_terminal(*_: int) -> os.terminal_size:
    raise OSError


def test_labels() -> None:
    assert task_labels(["rnnlg.rest", "rnnlg.tv"]) == {"rnnlg.rest": "rest", "rnnlg.tv": "tv"}
    assert task_labels(["rnnlg.rest", "e2e"])["rnnlg.rest"] == "rnnlg.rest"
    assert setting_label('{"kd.weight":1,"train.lr":6.25e-05}') == "kd.weight 1, train.lr 6.25e-05"
    assert setting_label({"kd.lr": 1, "train.lr": 2}) == "kd.lr 1, train.lr 2"
    said = formulas("kd.divergence", ["reverse", "./own.py:mine", "reverse", "tvd"])
    assert said.endswith("reverse: KL(q || p); tvd: 1/2 sum |p - q|.")
    assert formulas("kd.divergence", ["./own.py:mine"]) == formulas("kd.weight", [1.0]) == ""
    short, legend = order_labels(["a>b", "b>a"])
    assert (short["b>a"], legend) == ("b › a", "")  # noqa: RUF001
    long, legend = order_labels(["summarization>translation>classification"])
    assert len(next(iter(long.values()))) == 9
    assert legend == "A = classification, B = summarization, C = translation"
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 22, 33, 111)
    assert " ".join(map(ordinal, numbers)) == "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 33rd 111th"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(float("nan"), "–"), (-0.04, "0.0"), (-1.25, "−1.2"), (1234, "1,234"), (True, "yes")],  # noqa: RUF001
)
def test_cells(value: object, shown: str) -> None:
    assert text(value) == shown
