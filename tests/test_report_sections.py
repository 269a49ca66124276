"""The sections on orders, seeds and methods show what `analysis` says, in any state."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from helpers.pages import ALL, FAILURE, SEEDS, SETTINGS, Page, check_whole, replay_rows
from helpers.synthetic_study import study
from matplotlib.figure import Figure
from scipy.special import stdtrit

from l2kd_ray.analysis import (
    Design,
    Doubt,
    Flaw,
    Instance,
    cells,
    compare,
    compare_methods,
    decompose,
    halves,
    mean_by,
    moments,
    optimism,
    over_orders,
    precedence_map,
    results,
    shown_arms,
    stop_rule,
    task_rows,
    trials,
    within,
)
from l2kd_ray.analysis.findings import find
from l2kd_ray.analysis.looks import Seen
from l2kd_ray.report import headline, style, terminal_table, write_report
from l2kd_ray.report.blocks import Fold, Table, signed, text
from l2kd_ray.report.provenance import trace_section
from l2kd_ray.report.sentences import doubt_words

FIVE = [f"rnnlg.{letter}" for letter in "abcde"]
EVERY = [">".join(order) for order in permutations(FIVE)]
DRAWN = tuple(EVERY[k] for k in np.random.default_rng(1).permutation(120))
DESIGN = Design("all", ALL, SEEDS)
CROSSED = ("1r7", "1r8", "2r7", "2r8", "3r7", "3r8")


@pytest.fixture
def drawings() -> None:
    """For a test that reads what the figures show."""


@pytest.fixture(autouse=True)
def _few_drawings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is half of a report's time: test_report.py reads the figures, here few tests do."""
    blank = b'<svg viewBox="0 0 1 1"></svg>'
    draw, wanted = style.drawn, "drawings" in request.fixturenames

    def drawn(figure: Figure, form: str, name: str = "") -> bytes:
        return draw(figure, form, name) if wanted and form == "svg" else blank

    monkeypatch.setattr(style, "drawn", drawn)


def report(folder: Path, scores: pd.DataFrame, **given: Any) -> Page:
    paths = write_report(folder, scores, study={"name": "s", **given.pop("study", {})}, **given)
    return check_whole(paths, folder)


def without(scores: pd.DataFrame, *instances: Instance) -> pd.DataFrame:
    """The scores of a study in which these trials never ran."""
    names = pd.MultiIndex.from_frame(scores[["method", "setting", "order", "seed"]])
    return scores[~names.isin([tuple(one) for one in instances])]


def csv(folder: Path, name: str) -> pd.DataFrame:
    frame = pd.read_csv(folder / f"tables/{name}.csv", keep_default_na=False, na_values=[""])
    return frame.assign(
        **{c: frame[c].fillna("") for c in ("note", "earlier", "task") if c in frame}
    )


def data_values(folder: Path) -> set[str]:
    return set(re.findall(r'data-value="([^"]*)"', (folder / "report.html").read_text()))


# --- what is shown is what analysis says --------------------------------------------------------


def test_the_gap_table_has_every_interval_and_says_how_far_it_reaches(tmp_path: Path) -> None:
    scores = study(FIVE, seeds=SEEDS, run=DRAWN[:24])
    design = Design("random", DRAWN[:24], SEEDS)
    page = report(tmp_path, scores, design=design)
    table = compare(results(scores), results(scores, split="dev"), design)
    for row in table[~table["reference"]].to_dict("records"):
        assert f"{text(row['gap/low'])} to {text(row['gap/high'])}" in page.words
        assert f"{text(100 * row['rel/low'])} to {text(100 * row['rel/high'])}" in page.words
        if row["method"] != "lamol":
            closed = text(100 * row["closed/low"], 0), text(100 * row["closed/high"], 0)
            assert f"({closed[0]} to {closed[1]})" in page.words
    assert "24 of 120 orders, drawn at random: holds for all 120" in page.words
    assert "(drawn at random: holds for all 120)" in headline(table)


@pytest.mark.parametrize("flaw", [Flaw.BOUND_BELOW_SINGLE, Flaw.ONE_ANSWER])
def test_doubts_stand_above_the_headline_which_says_so(flaw: Flaw, tmp_path: Path) -> None:
    doubt = Doubt(flaw, "l2kd", "{}", "rnnlg.a", 1.0, 2.0)
    page = report(tmp_path, study(seeds=SEEDS), doubts=[doubt])
    (words,) = (line.replace("**", "") for line in doubt_words([doubt]))
    assert page.words.index(words[:30]) < page.words.index("multi-task score, mean of tasks")
    assert ("Doubtful" in page.words) == flaw.of_bound


def test_pairs_of_methods_have_their_tests(tmp_path: Path) -> None:
    scores = study(seeds=SEEDS)
    page = report(tmp_path, scores, design=DESIGN)
    table = compare(results(scores), results(scores, split="dev"), DESIGN)
    pairs = compare_methods(results(scores), shown_arms(table), DESIGN)
    plain = pairs.assign(note=pairs["note"].map(str))
    pd.testing.assert_frame_equal(csv(tmp_path, "comparisons"), plain, check_dtype=False)
    shown = data_values(tmp_path)
    for row in pairs.to_dict("records"):
        own = [f"seed/{seed}" for seed in SEEDS]
        assert {str(row[name]) for name in ("difference", "p", "p_adjusted", *own)} <= shown
    assert "with 3 seeds it cannot go below 0.05 for 3 pairs together" in page.words
    assert "7 seeds are the fewest that can" in page.words
    words = headline(table, pairs)
    first = pairs.iloc[0]
    assert (first["method"], first["against"]) == ("l2kd", "lamol")
    assert f"Its gap is {text(-first['difference'])} points narrower than that of lamol" in words
    assert f"interval {text(-first['high'])} to {text(-first['low'])}" in words
    assert f"p = {first['p_adjusted']:.3f} by t, for all 3 pairs together" in words
    assert "sign-flip" not in words


def test_a_method_is_never_called_better_without_its_test(tmp_path: Path) -> None:
    for seeds in (SEEDS, SEEDS[:1]):
        page = report(tmp_path, study(seeds=seeds))
        claims = re.findall(
            r"(?:is|are) (?:the )?(?:best|better)|better than|outperform", page.words
        )
        assert set(claims) <= {"is better"}  # of the metrics: which way is up
        assert not re.search(r"\b(?:l2kd|lamol|finetune) is better", page.words)
    assert "Its gap is" not in page.words  # one seed: no test, so the headline compares nothing


def test_one_seed_has_differences_and_no_test(tmp_path: Path) -> None:
    page = report(tmp_path, study(), design=Design("all", ALL, SEEDS[:1]))
    assert "l2kd \N{MINUS SIGN} lamol" in page.words
    assert "p (t)" not in page.words
    assert "one seed: no interval" in page.words
    assert "With one seed, the effect of seeds on the gap cannot be separated" in page.words


def test_components_and_advice(tmp_path: Path) -> None:
    scores = study(seeds=SEEDS, methods=("l2kd",))
    page = report(tmp_path, scores, design=DESIGN)
    rows = results(scores)
    own = cells(rows[rows["method"] == "l2kd"], "gap/abs", ALL, SEEDS)
    expected = decompose(own, 6)
    found = csv(tmp_path, "variance")
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False)
    for row in expected.to_dict("records"):
        low, high = text(row["low"], 2), text(row["high"], 2)
        assert f"{text(row['std'], 2)} ({low} to {high})" in page.words
    for gap in own.by_seed.mean(axis=0):
        assert str(gap) in data_values(tmp_path)  # of each seed
    assert "More seeds: every order of the study has run" in page.words
    drawn = Design("random", DRAWN[:12], SEEDS)
    sampled = report(tmp_path / "b", study(FIVE, seeds=SEEDS, run=DRAWN[:12]), design=drawn)
    costs = r"with one more seed \(\d+ trials\), .* with \d+ more orders? \(\d+ trials; now"
    assert re.search(rf"More (orders|seeds): about .*{costs}", sampled.words)


def test_crossed_seeds_tell_training_from_replay(tmp_path: Path) -> None:
    scores = study(seeds=CROSSED, methods=("lamol", "l2kd"))
    page = report(tmp_path, scores, design=Design("all", ALL, CROSSED))
    assert "order x training x replay seed" in page.words
    assert "intervals are over training seeds, for these 2 replay seeds" in page.words
    assert set(csv(tmp_path, "variance")["component"]) >= {"training seed", "replay seed"}
    assert "More seeds: every order of the study has run" in page.words


def test_precedence_is_of_each_task(tmp_path: Path, drawings: None) -> None:
    scores = study(seeds=SEEDS, methods=("lamol",))
    report(tmp_path, scores, design=DESIGN)
    rows = results(scores)
    own = rows[rows["method"] == "lamol"]
    tasks = ALL[0].split(">")
    tables = {t: cells(own, f"gap/{t}", ALL, SEEDS).by_seed for t in sorted(tasks)}
    expected = precedence_map(tables, ALL).fillna({"note": ""})
    found = csv(tmp_path, "precedence")
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False)
    drawing = (tmp_path / "figures/precedence.svg").read_text()
    assert all(f"{abs(effect):.1f}" in drawing for effect in expected["value"])
    assert {"best", "worst"} == set(csv(tmp_path, "extremes")["which"])


def test_precedence_says_when_orders_are_too_few(tmp_path: Path) -> None:
    few = report(
        tmp_path / "a",
        study(FIVE, seeds=SEEDS, run=DRAWN[:8], methods=("l2kd",)),
        design=Design("random", DRAWN[:8], SEEDS),
    )
    assert "Not known: 8 of the 120 orders" in few.words
    assert "ask for 21 at least" in few.words
    two = report(tmp_path / "b", study(orders=2, methods=("l2kd",), seeds=SEEDS))
    assert "Not known: 2 of the 6 orders" in two.words
    pair = report(tmp_path / "c", study(("a", "b"), methods=("l2kd",), seeds=SEEDS))
    assert "two tasks have only two orders" in pair.words


def test_every_order_has_its_interval_over_seeds(tmp_path: Path) -> None:
    scores = study(seeds=SEEDS)
    report(tmp_path, scores, design=DESIGN)
    found = csv(tmp_path, "by_order")
    rows = results(scores)
    by = rows[rows["order"] != ""].groupby(["method", "order"])["gap/abs"]
    half = stdtrit(2, 0.975) * by.std() / np.sqrt(3)
    found = found.set_index(["method", "order"]).sort_index()
    np.testing.assert_allclose(found["gap"], by.mean())
    np.testing.assert_allclose(found["low"], by.mean() - half)
    np.testing.assert_allclose(found["high"], by.mean() + half)


def test_what_a_sample_of_orders_bounds_is_shown_for_a_sample_only(tmp_path: Path) -> None:
    scores = study(FIVE, seeds=SEEDS, run=DRAWN[:24], methods=("l2kd",))
    design = Design("random", DRAWN[:24], SEEDS)
    page = report(tmp_path / "a", scores, design=design)
    (row,) = over_orders(results(scores), design).to_dict("records")
    assert "Bound 20 %" in page.words
    assert {str(row["bound20"]), str(100 * row["beyond"])} <= data_values(tmp_path / "a")
    assert "Mean over all 120 orders, model-assisted" in page.words
    whole = report(tmp_path / "b", study(seeds=SEEDS), design=DESIGN)
    assert "Bound 20 %" not in whole.words
    assert "model-assisted" not in whole.words


def test_places_and_tasks(tmp_path: Path) -> None:
    scores = study(seeds=SEEDS, methods=("l2kd",))
    page = report(tmp_path, scores, design=DESIGN)
    found, rows = csv(tmp_path, "places"), task_rows(trials(scores), results(scores))
    parts: dict[Literal["task", "place"], pd.Series] = {
        "place": found["task"] == "",
        "task": found["task"] != "",
    }
    for by, own in parts.items():
        expected = mean_by(rows[rows["method"] == "l2kd"], by, DESIGN, ALL)
        np.testing.assert_allclose(found.loc[own, "gap"], expected["gap"])
        np.testing.assert_allclose(found.loc[own, "gap/low"], expected["gap/low"])
        for row in expected.to_dict("records"):
            interval = f"{text(row['gap/low'])} to {text(row['gap/high'])}"
            assert f"{text(row['gap'])} ({interval})" in page.words


# --- half-way, failures and designs -------------------------------------------------------------


def test_half_way_reads_the_orders_that_all_have_finished(tmp_path: Path, drawings: None) -> None:
    behind = Instance("lamol", "{}", DRAWN[17], "533")
    scores = without(study(FIVE, seeds=SEEDS, run=DRAWN[:20]), behind)
    page = report(tmp_path, scores, design=Design("all", DRAWN, SEEDS))
    assert "the first 15 of 120 orders" in page.words  # 17 are finished, 15 is the planned look
    assert "all looks together hold at 95 %" in page.words
    assert set(csv(tmp_path, "gap").query("not reference")["n_orders"]) == {15}
    assert csv(tmp_path, "by_order")["order"].nunique() == 20  # descriptive
    assert "So far, " in page.words
    means = csv(tmp_path, "gap").query("not reference")["cl/forgetting_max"]
    drawing = (tmp_path / "figures/forgetting.svg").read_text()
    assert all(f">{text(mean)}<" in drawing for mean in means)  # of the same orders as the table


def test_only_whole_trials_have_a_final_score_to_trace() -> None:
    scores = study(seeds=SEEDS)
    one = scores.loc[scores["order"] != "", "trial"].iloc[0]
    last = (scores["trial"] == one) & (scores["i"] == scores["i"].max())
    for given, is_there in ((scores, True), (scores[~last], False)):
        blocks = trace_section(find(given, design=DESIGN)).blocks
        opened = [block.blocks if isinstance(block, Fold) else (block,) for block in blocks]
        inside = [block for own in opened for block in own]
        (table,) = [block for block in inside if isinstance(block, Table)]
        assert (one in set(table.frame["Trial"])) == is_there


def test_before_an_order_is_finished_nothing_is_claimed(tmp_path: Path) -> None:
    scores = study(FIVE, seeds=SEEDS, run=DRAWN[:3])
    scores = without(scores, *(Instance("lamol", "{}", order, "533") for order in DRAWN[:3]))
    page = report(tmp_path, scores, design=Design("all", DRAWN, SEEDS))
    assert "Not yet comparable" in page.words
    assert "descriptive: 9 of 360 trials" in page.words
    assert "Nothing to compare yet" in page.words
    assert "Not known yet: no order is finished for all methods and seeds" in page.words
    assert not (tmp_path / "tables/places.csv").exists()


def test_before_the_first_look_there_is_no_interval_of_a_mean(tmp_path: Path) -> None:
    scores = study(FIVE, seeds=SEEDS, run=DRAWN[:4])
    page = report(tmp_path, scores, design=Design("all", DRAWN, SEEDS))
    assert "no interval before the first planned look, at 15 orders" in page.words
    for path in (tmp_path / "tables").iterdir():
        table = csv(tmp_path, path.stem)
        claims = table.filter(regex="(^|/)(low|high|p|p_holm|p_adjusted)$")
        assert claims.isna().all(axis=None), path.stem


def test_failed_trials_are_counted_and_scored_0_beside(tmp_path: Path) -> None:
    lost = Instance("lamol", "{}", ALL[1], "532")
    scores = without(study(seeds=SEEDS), lost)
    page = report(tmp_path, scores, design=DESIGN, failed=[lost], failures=[FAILURE])
    table = csv(tmp_path, "gap").set_index("method")
    assert table.loc["lamol", ["failed/n", "n_orders"]].tolist() == [1, 5]
    assert table.loc["lamol", "failed/gap"] > table.loc["lamol", "gap/abs"] + 2
    assert str(table.loc["lamol", "failed/gap"]) in data_values(tmp_path)
    assert "1 trial failed for good" in page.words
    assert "Failed as 0" in page.words
    assert "So far" not in page.words  # all that can finish has finished


def test_a_method_that_fails_on_hard_orders_does_not_lead(tmp_path: Path) -> None:
    scores = study(seeds=SEEDS)
    lost = [Instance("l2kd", "{}", ALL[0], seed) for seed in SEEDS]
    test = results(without(scores, *lost))
    table = compare(test, results(scores, split="dev"), DESIGN, lost)
    assert headline(table).startswith("**lamol** ends")


@pytest.mark.parametrize(
    ("kind", "orders", "words"),
    [
        ("list", ALL[:2], "2 of 6 orders: holds for these only"),
        ("williams", ALL, "all 6 orders"),
        ("random", ALL[:4], "4 of 6 orders, drawn at random: holds for all 6"),
    ],
)
def test_designs_reach_as_far_as_they_do(
    kind: Any, orders: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    page = report(tmp_path, study(seeds=SEEDS, run=orders), design=Design(kind, orders, SEEDS))
    assert words in page.words


STATES: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {
    "one order": (study(seeds=SEEDS, orders=1), {"design": Design("list", ALL[:1], SEEDS)}),
    "one task": (study(("only",), seeds=SEEDS), {"design": Design("all", ("only",), SEEDS)}),
    "two tasks": (study(("a", "b"), seeds=SEEDS), {"design": Design("all", ("a>b", "b>a"), SEEDS)}),
    "two seeds": (study(seeds=SEEDS[:2]), {"design": Design("all", ALL, SEEDS[:2])}),
    "no multitask": (study(multitask=False), {"design": DESIGN}),
    "no test scores": (study(splits=("dev",)), {"design": DESIGN}),
    "references alone": (study(methods=(), seeds=SEEDS), {"design": DESIGN}),
    "nothing selected": (
        study(settings=SETTINGS, splits=("test",), seeds=SEEDS, methods=("l2kd", "lamol")),
        {"design": DESIGN},
    ),
    "unfinished williams": (
        study(seeds=SEEDS, run=ALL[:4]),
        {"design": Design("williams", ALL, SEEDS)},
    ),
    "all of a method failed": (
        study(seeds=SEEDS, methods=("l2kd",)),
        {
            "design": DESIGN,
            "failed": [Instance("lamol", "{}", order, seed) for order in ALL for seed in SEEDS],
        },
    ),
    "every trial failed": (
        study(methods=(), seeds=SEEDS),
        {"design": DESIGN, "failed": [Instance("l2kd", "{}", o, s) for o in ALL for s in SEEDS]},
    ),
    "a stopped study": (
        study(FIVE, seeds=SEEDS, run=DRAWN[:8], methods=("lamol", "l2kd")),
        {"design": Design("all", DRAWN, SEEDS), "stopping": True, "notes": ["**Stop:** now"]},
    ),
    "unfinished crossed seeds": (
        without(
            study(seeds=CROSSED, methods=("lamol",)), Instance("lamol", "{}", ALL[2], "2r8")
        ),
        {"design": Design("all", ALL, CROSSED)},
    ),
    "long names": (
        study([f"a-very-long-task-name-{k}" for k in range(4)], seeds=SEEDS, methods=("l2kd",)),
        {},
    ),
    "many methods": (
        study(seeds=SEEDS, methods=("finetune", "lamol", "l2kd", "ewc"), untrained=False),
        {"design": DESIGN},
    ),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_a_whole_page(state: str, tmp_path: Path) -> None:
    scores, given = STATES[state]
    page = report(tmp_path, scores, **given)
    assert "How to reproduce" in page.headings
    for note in given.get("notes", ()):
        assert note.replace("**", "") in page.words


def test_the_verdict_of_a_stop_rule_is_a_notice(tmp_path: Path) -> None:
    verdict = stop_rule(np.ones((4, 3)), 6, 6, 0.5, method="l2kd")
    page = report(tmp_path, study(seeds=SEEDS, methods=("l2kd",)), design=DESIGN, verdict=verdict)
    assert "Stop rule: gap/abs of l2kd: 4 of the 6 orders of the first look are" in page.words


def test_selection_on_a_half_prints_its_optimism(tmp_path: Path) -> None:
    split = halves(DESIGN)
    scores = study(seeds=SEEDS, settings=SETTINGS, methods=("l2kd",))
    page = report(tmp_path, scores, split=split)
    table = csv(tmp_path, "gap")
    (chosen,) = table[table["selected"] & ~table["reference"]].to_dict("records")
    test = within(results(scores), split.report)
    own = test[(test["method"] == "l2kd") & (test["setting"] == chosen["setting"])]
    assert chosen["gap/abs"] == pytest.approx(own.groupby("seed")["gap/abs"].mean().mean())
    dev = results(scores, split="dev")
    expected = optimism(dev, results(scores), "l2kd", chosen["setting"], split)
    assert f"Optimism: {signed(expected.total)} points" in page.words
    assert f"of it {signed(expected.of_selection)} due to selection" in page.words
    assert csv(tmp_path, "by_order")["order"].nunique() == len(split.report.orders)


# --- replay, cost, what is beside ---------------------------------------------------------------


def test_replay_quality_by_method_and_place(tmp_path: Path) -> None:
    page = report(tmp_path, study(), replay=replay_rows())
    assert "Replay quality" in page.headings
    assert {str(100 * 33 / 40), str(100 * 34 / 40)} <= data_values(tmp_path)
    assert len(csv(tmp_path, "replay")) == 8


def test_replay_of_real_examples_has_no_quality(tmp_path: Path) -> None:
    names = ["method", "setting", "order", "seed", "i", "kept"]
    page = report(tmp_path, study(), replay=replay_rows()[names])
    assert "Replay quality" in page.headings
    assert "Replay quality" not in report(tmp_path, study(), replay=pd.DataFrame()).headings


def test_samples_are_shown_as_text_whatever_they_hold(tmp_path: Path) -> None:
    samples = {
        "l2kd": [
            {"task": "rnnlg.tv", "question": "<b>x</b>|\n*y*", "answer": "fine", "faults": []},
            {"task": "rnnlg.tv", "text": "\x00\ud800 <ans> <ans>", "faults": ["answer token"]},
            *(
                {"task": "t", "question": "long " * 500, "answer": "", "faults": []}
                for _ in "abcdefgh"
            ),
        ]
    }
    page = report(tmp_path, study(), samples=samples)
    assert "<b>x</b>|" in page.words
    assert "answer token" in page.words
    source = (tmp_path / "report.html").read_text()
    assert "\x00" not in source
    assert "long " * 120 not in source


def test_costs_are_in_hours_where_they_are_hours(tmp_path: Path) -> None:
    costs = pd.DataFrame({"kind": ["learn"], "stages": [64], "unshared": [96], "seconds": [7200.0]})
    page = report(tmp_path, study(), costs=costs)
    assert "Hours" in page.words
    assert "Unshared" in page.words
    assert "7,200" not in page.words


def test_the_interval_over_seeds_and_test_examples_is_one(tmp_path: Path) -> None:
    scores = study(seeds=SEEDS, methods=("lamol", "l2kd"))
    rows = results(scores)
    table = cells(rows[rows["method"] == "l2kd"], "gap/abs", ALL, SEEDS).by_seed
    variance = 3.0
    shown = pd.DataFrame(
        {"method": ["l2kd"], "setting": ["{}"], "variance": [variance], "df": [31]}
    )
    page = report(tmp_path, scores, over_examples=shown, design=DESIGN)
    mean = moments(table, 6)
    wider = replace(mean, order=mean.order + 3.0, order_df=31).estimate()
    assert "Other examples too" in page.words
    assert f"{text(wider.low)} to {text(wider.high)}" in page.words
    none = shown.assign(variance=np.nan)
    page = report(tmp_path / "b", scores, over_examples=none, design=DESIGN)
    assert "Other examples too" not in page.words


def test_other_summaries_are_told_from_five_seeds_on(tmp_path: Path) -> None:
    seeds = ("1", "2", "3", "4", "5")
    scores = study(seeds=seeds, methods=("lamol", "finetune"))
    page = report(tmp_path, scores, design=Design("all", ALL, seeds))
    assert "Other summaries" in page.headings
    assert "Nearer than LAMOL, %" in page.words
    few = report(tmp_path / "b", study(seeds=SEEDS), design=DESIGN)
    assert "Other summaries" not in few.headings


def test_average_incremental_is_told(tmp_path: Path) -> None:
    scores = study(seeds=SEEDS, methods=("l2kd",))
    report(tmp_path, scores)
    mean = results(scores).groupby("method")["cl/incremental"].mean()["l2kd"]
    shown = [float(value) for value in data_values(tmp_path)]
    assert np.isclose(shown, mean).any()


def test_the_terminal_says_how_far_its_intervals_reach() -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    design = Design("list", ALL[:2], SEEDS)
    console.print(terminal_table(study(seeds=SEEDS, orders=2), design=design))
    assert "holds for these only" in console.export_text()


# --- speed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("searched", [False, True], ids=["120 orders", "15 settings"])
def test_a_thousand_trials_take_less_than_five_seconds(searched: bool, tmp_path: Path) -> None:
    if searched:
        grid = [
            {"kd.temperature": t, "kd.weight": w} for t in (1, 2, 3, 4, 5) for w in (0.25, 0.5, 1)
        ]
        tasks = FIVE[:4]
        scores = study(tasks, seeds=SEEDS, settings={"l2kd": grid}, methods=("l2kd",))
        orders = tuple(">".join(order) for order in permutations(tasks))
    else:
        scores = study(FIVE, seeds=SEEDS, splits=("test",))
        orders = DRAWN
    assert scores["trial"].nunique() > 1000
    begun = time.thread_time()  # of this thread: what else runs on the machine does not count
    report(tmp_path, scores, design=Design("all", orders, SEEDS))
    assert time.thread_time() - begun < 5


# --- what an interval does not hold ---------------------------------------------------------------


def test_a_gap_whose_setting_was_picked_on_dev_is_said_to_be_understated(tmp_path: Path) -> None:
    settings = {"l2kd": [{"kd.temperature": t} for t in (1, 2, 4)]}
    scores = study(seeds=SEEDS, settings=settings)
    given = {"study": {"search": {"kd.temperature": {}}}}
    page = report(tmp_path / "a", scores, design=DESIGN, **given)
    assert "the best of 3, chosen by the dev scores of the very seeds" in page.words
    assert "too narrow" not in report(tmp_path / "b", study(seeds=SEEDS), design=DESIGN).words
    for name, apart in (("seeds", {"orders": False}), ("both", {})):
        split = halves(DESIGN, **apart)
        held_out = report(tmp_path / name, scores, design=DESIGN, split=split, **given)
        assert "too narrow" not in held_out.words
    orders = halves(DESIGN, seeds=False)  # the luck of a seed is in both halves
    assert (
        "too narrow" in report(tmp_path / "c", scores, design=DESIGN, split=orders, **given).words
    )


def test_a_study_that_grew_since_it_was_read_says_what_is_left_of_95_percent(
    tmp_path: Path,
) -> None:
    former = [Seen(("a",), ("1", "2"), 6, 6), Seen(("a",), ("1", "2", "3"), 6, 6)]
    page = report(tmp_path, study(seeds=SEEDS), design=DESIGN, looks=former)
    assert "shown at 6 orders x 2 seeds, 6 orders x 3 seeds" in page.words
    assert "read 95 % as 85 %, and compare a p with 0.05 / 3" in page.words


def test_half_way_the_level_is_printed_as_it_is(tmp_path: Path) -> None:
    scores = study(FIVE, seeds=SEEDS, run=DRAWN[:15])
    page = report(tmp_path, scores, design=Design("all", DRAWN, SEEDS))
    assert "(99.44 % interval" in page.words
    assert page.words.count("95 % interval") == 1  # in the section that explains the word


def test_methods_that_are_not_told_apart_have_a_bound(tmp_path: Path) -> None:
    scores = study(seeds=SEEDS)
    alike = scores[scores["method"] == "l2kd"].assign(method="twin", trial="t" + scores["trial"])
    noise = np.random.default_rng(0).normal(0, 1, len(alike))
    scores = pd.concat([scores, alike.assign(score=alike["score"] + noise)], ignore_index=True)
    page = report(tmp_path, scores, design=DESIGN)
    (row,) = csv(tmp_path, "comparisons").query("method == 'l2kd' and against == 'twin'").to_dict(
        "records"
    ) or csv(tmp_path, "comparisons").query("against == 'l2kd' and method == 'twin'").to_dict(
        "records"
    )
    words = f"one of {text(row['detectable'])} points would have been found with 80 % power"
    words = f"no difference is established; {words}, and one of more than {text(row['at_most'])}"
    assert words in page.words
