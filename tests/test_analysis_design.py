"""What inference is from, and how far it reaches: prefixes, failures, designs, the gap table."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from helpers.synthetic_study import study

from l2kd_ray.analysis import (
    Caveat,
    Design,
    Instance,
    NoInterval,
    Note,
    OrderPopulation,
    Reach,
    at_looks,
    cells,
    compare,
    compare_methods,
    decompose,
    effects,
    extremes,
    finished_orders,
    gap_closed,
    mean_by,
    mean_gap,
    mean_over,
    moments,
    orders_beyond_worst,
    over_orders,
    results,
    scored_zero,
    task_rows,
    trials,
)
from l2kd_ray.analysis.design import crossed_seeds, without_score
from l2kd_ray.analysis.estimate import simultaneous
from l2kd_ray.analysis.findings import Findings, find

TASKS = ("rnnlg.hotel", "rnnlg.rest", "rnnlg.tv")
ALL = tuple(">".join(order) for order in permutations(TASKS))
DRAWN = tuple(ALL[k] for k in (3, 0, 5, 1, 4, 2))
SEEDS = ("531", "532", "533")
ARMS = [("finetune", "{}"), ("lamol", "{}"), ("l2kd", "{}")]


def design(kind: str = "all", orders: tuple[str, ...] = DRAWN, seeds=SEEDS) -> Design:
    return Design(kind, orders, seeds)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return study(TASKS, seeds=SEEDS)


@pytest.fixture(scope="module")
def rows(scores: pd.DataFrame) -> pd.DataFrame:
    return results(scores)


def without(frame: pd.DataFrame, *instances: tuple[str, str, str]) -> pd.DataFrame:
    """The frame without some (method, order, seed)."""
    gone = set(instances)
    mine = zip(frame["method"], frame["order"], frame["seed"], strict=True)
    return frame[[instance not in gone for instance in mine]]


# --- the prefix --------------------------------------------------------------------------------


def test_all_of_a_finished_study_is_used(rows: pd.DataFrame) -> None:
    assert finished_orders(rows, ARMS, design()) == DRAWN


def test_one_missing_trial_ends_the_prefix_for_every_method_and_seed(rows: pd.DataFrame) -> None:
    part = without(rows, ("lamol", DRAWN[2], "532"))
    assert finished_orders(part, ARMS, design()) == DRAWN[:2]
    assert finished_orders(part, [("l2kd", "{}")], design()) == DRAWN
    assert finished_orders(part, ARMS, design(seeds=("531", "533"))) == DRAWN


def test_a_failed_trial_counts_as_finished(rows: pd.DataFrame) -> None:
    part = without(rows, ("lamol", DRAWN[2], "532"))
    failed = [Instance("lamol", "{}", DRAWN[2], "532")]
    assert finished_orders(part, ARMS, design(), failed) == DRAWN


def test_a_planned_seed_that_has_not_begun_leaves_nothing_to_infer_from(rows: pd.DataFrame) -> None:
    assert finished_orders(rows, ARMS, design(seeds=(*SEEDS, "534"))) == ()


def test_a_williams_design_is_used_when_it_is_whole(rows: pd.DataFrame) -> None:
    assert finished_orders(rows, ARMS, design("williams")) == DRAWN
    part = without(rows, ("l2kd", DRAWN[5], "531"))
    assert finished_orders(part, ARMS, design("williams")) == ()


# --- how far it reaches ------------------------------------------------------------------------


def test_the_population_and_how_far_a_mean_reaches() -> None:
    assert design().population(4) == 6
    assert design().reach(6) == Reach(OrderPopulation.ALL, 6, 6)
    assert design().reach(4) == Reach(OrderPopulation.RANDOM, 4, 6)
    assert design("random", DRAWN[:4]).reach(4) == Reach(OrderPopulation.RANDOM, 4, 6)
    assert design("williams", DRAWN[:4]).reach(4) == Reach(OrderPopulation.WILLIAMS, 4, 6)
    assert Design("list", ("",), SEEDS).reach(1).kind is OrderPopulation.NONE
    listed = design("list", DRAWN[:4])
    assert listed.population(4) == 4
    assert listed.reach(4) == Reach(OrderPopulation.LISTED, 4, 6)


def test_a_part_of_a_design_is_what_it_is() -> None:
    assert design().part(DRAWN[:3], SEEDS).kind == "random"
    assert design().part(DRAWN, SEEDS[:2]).kind == "all"
    assert design("williams").part(DRAWN[:3], SEEDS).kind == "list"
    assert design("list").part(DRAWN[:3], SEEDS).kind == "list"


def test_the_mean_of_a_sample_is_of_the_prefix_and_wider_than_of_these_only(
    rows: pd.DataFrame,
) -> None:
    own = rows[rows["method"] == "l2kd"]
    drawn = mean_over(own, design(), DRAWN[:4])
    these = mean_over(own, design("list"), DRAWN[:4])
    table = cells(own, "gap/abs", DRAWN[:4], SEEDS).by_seed
    assert drawn.value == these.value == pytest.approx(table.mean())
    assert drawn.half_width == pytest.approx(float(moments(table, 6).half_width()))
    assert drawn.half_width > these.half_width
    assert mean_gap(own, design=design()).note == Note(reach=Reach(OrderPopulation.ALL, 6, 6))


def test_without_a_finished_order_a_mean_is_descriptive(rows: pd.DataFrame) -> None:
    own = rows[rows["method"] == "l2kd"]
    found = mean_over(own, design(), ())
    assert not found.bounded
    assert found.note == Note(descriptive=(18, 18))
    assert not np.isnan(found.value)


def test_an_order_alone_says_nothing_of_the_others(rows: pd.DataFrame) -> None:
    own = rows[rows["method"] == "l2kd"]
    found = mean_over(own, design("random", DRAWN[:1]), DRAWN[:1])
    assert not found.bounded
    assert found.note.no_interval is NoInterval.ONE_ORDER
    assert mean_over(own, design("list", DRAWN[:1]), DRAWN[:1]).bounded


def test_a_williams_interval_is_marked(rows: pd.DataFrame) -> None:
    own = rows[rows["method"] == "l2kd"]
    found = mean_over(own, design("williams", DRAWN[:4]), DRAWN[:4])
    assert found.bounded
    assert found.note == Note(reach=Reach(OrderPopulation.WILLIAMS, 4, 6))


# --- cells -------------------------------------------------------------------------------------


def test_crossed_seeds_make_three_axes() -> None:
    frame = pd.DataFrame(
        [
            {"order": "a>b", "seed": seed, "gap/abs": gap, "complete": True}
            for seed, gap in (("1", 1.0), ("1r7", 2.0), ("2r1", 3.0), ("2r7", 4.0))
        ]
    )
    seeds = ("1", "1r7", "2r1", "2r7")
    found = cells(frame, "gap/abs", ("a>b",), seeds)
    assert (found.train, found.crossed) == (("1", "2"), ("replay",))
    assert found.values.tolist() == [[[1, 2], [3, 4]]]
    assert found.by_seed.tolist() == [[1.5, 3.5]]
    holed = cells(frame.iloc[:3], "gap/abs", ("a>b",), seeds)
    assert np.isnan(holed.by_seed[0, 1])
    with pytest.raises(ValueError, match="two rows"):
        cells(pd.concat([frame, frame]), "gap/abs", ("a>b",), seeds)


@pytest.mark.parametrize(
    ("seeds", "crossed"),
    [
        (("1", "1r7", "2r1", "2r7"), {"replay": 2}),
        (("1", "1d7", "1d8", "2d1", "2d7", "2d8"), {"data": 3}),
        (("1d7", "2d7"), {}),  # one data seed for all: nothing is crossed
        (
            tuple(f"{t}r{r}d{d}" for t in "12" for r in "34" for d in "567"),
            {"replay": 2, "data": 3},
        ),
    ],
)
def test_crossed_seeds_of_a_study_decompose(
    seeds: tuple[str, ...], crossed: dict[str, int]
) -> None:
    rows = results(study(TASKS, methods=("l2kd",), seeds=seeds))
    found = cells(rows[rows["method"] == "l2kd"], "gap/abs", DRAWN, seeds)
    assert crossed_seeds(seeds) == dict(zip(found.crossed, found.values.shape[2:], strict=True))
    assert crossed_seeds(seeds) == crossed
    parts = decompose(found, 6)
    assert len(parts) == 2 ** (2 + len(crossed)) - 1
    for name in crossed:
        assert f"order x training x {name} seed" in set(parts["component"])


# --- failed trials -----------------------------------------------------------------------------


def test_a_failed_trial_is_scored_0_beside(rows: pd.DataFrame) -> None:
    part = without(rows, ("lamol", DRAWN[0], "532"))
    own = part[part["method"] == "lamol"]
    (extra,) = scored_zero(
        own, part, [Instance("lamol", "{}", DRAWN[0], "532")], "gap/abs"
    ).to_dict("records")[len(own) :]
    bound = rows[(rows["method"] == "multitask") & (rows["seed"] == "532")]["cl/avg"].iloc[0]
    assert extra["gap/abs"] == bound


def test_the_gap_table_tells_of_failures_and_leaves_their_orders_out(scores: pd.DataFrame) -> None:
    gone = ("lamol", DRAWN[0], "532")
    test, dev = (without(results(scores, split=split), gone) for split in ("test", "dev"))
    failed = [Instance("lamol", "{}", DRAWN[0], "532")]
    table = compare(test, dev, design(), failed).set_index("method")
    row = table.loc["lamol"]
    assert row["n_orders"] == 5
    assert row["gap/note"] == Note(reach=Reach(OrderPopulation.UNFAILED, 5, 6), left_out=1)
    assert row["failed/n"] == 1
    every = results(scores)
    bounds = every[every["method"] == "multitask"].set_index("seed")["cl/avg"]
    own = every[every["method"] == "lamol"].set_index(["order", "seed"])["gap/abs"]
    own[DRAWN[0], "532"] = bounds["532"]
    assert row["failed/gap"] == pytest.approx(own.mean())  # the order's other seeds stay in it
    kept = test[(test["method"] == "lamol") & test["order"].isin(DRAWN[1:])]
    assert row["gap/abs"] == pytest.approx(kept["gap/abs"].mean())
    per_task = row[[f"gap/{task}" for task in TASKS]].mean()
    assert row["gap/abs"] == pytest.approx(per_task)
    assert table.loc["l2kd", "n_orders"] == 6
    assert table.loc["l2kd", "failed/n"] == 0
    assert table.loc["l2kd", "failed/gap"] == table.loc["l2kd", "gap/abs"]
    assert pd.notna(table.loc["l2kd", "closed/low"])  # on the five orders that both have


def test_a_method_that_only_fails_has_a_row(scores: pd.DataFrame) -> None:
    test, dev = (results(scores, split=split) for split in ("test", "dev"))
    failed = [Instance("ewc", "{}", order, seed) for order in DRAWN for seed in SEEDS]
    row = compare(test, dev, design(), failed).set_index("method").loc["ewc"]
    assert (row["failed/n"], row["n_trials"], row["n_complete"]) == (18, 0, 0)
    assert np.isnan(row["gap/abs"])
    bound = test[test["method"] == "multitask"]["cl/avg"].mean()
    assert row["failed/gap"] == pytest.approx(bound)


# --- the gap table -----------------------------------------------------------------------------


def test_the_gap_table_of_a_finished_study_is_the_same_with_its_design(
    scores: pd.DataFrame,
) -> None:
    test, dev = (results(scores, split=split) for split in ("test", "dev"))
    plain, designed = compare(test, dev), compare(test, dev, design())
    pd.testing.assert_frame_equal(plain, designed)


def test_half_way_only_the_prefix_is_used(scores: pd.DataFrame) -> None:
    gone = [("l2kd", order, seed) for order in DRAWN[3:] for seed in ("531", "532")]
    test, dev = (without(results(scores, split=split), *gone) for split in ("test", "dev"))
    table = compare(test, dev, design()).set_index("method")
    for method in ("finetune", "lamol", "l2kd"):
        row = table.loc[method]
        assert row["n_orders"] == 3
        assert row["n_used"] == 9
        assert row["gap/note"] == Note(reach=Reach(OrderPopulation.RANDOM, 3, 6), first_look=6)
        own = test[(test["method"] == method) & test["order"].isin(DRAWN[:3])]
        assert row["gap/abs"] == pytest.approx(own["gap/abs"].mean())
        assert row["cl/bwt"] == pytest.approx(own["cl/bwt"].mean())
        assert row[["gap/low", "rel/low", "closed/value"]].isna().all()
    assert table.loc["lamol", "n_complete"] == 18


def test_half_way_the_interval_is_that_of_the_last_planned_look() -> None:
    tasks = tuple("abcd")
    scores = study(tasks, methods=("lamol", "l2kd"), seeds=SEEDS)
    drawn = tuple(">".join(order) for order in permutations(tasks))[::-1]
    gone = [("l2kd", drawn[15], "532")]
    test, dev = (without(results(scores, split=split), *gone) for split in ("test", "dev"))
    plan = Design("all", drawn, SEEDS)
    table = compare(test, dev, plan).set_index("method")
    (*_, look) = at_looks(
        cells(test[test["method"] == "l2kd"], "gap/abs", drawn[:15], SEEDS).by_seed, 24, 24
    )
    assert look.orders == 12
    row = table.loc["l2kd"]
    assert row["n_orders"] == 12
    assert (row["gap/low"], row["gap/high"]) == pytest.approx(
        (look.estimate.low, look.estimate.high)
    )
    assert row["gap/note"] == Note(reach=Reach(OrderPopulation.RANDOM, 12, 24), look=look.level)
    pair = compare_methods(test, [("lamol", "{}"), ("l2kd", "{}")], plan).iloc[0]
    assert pair["n_orders"] == 12
    difference = row["gap/abs"] - table.loc["lamol", "gap/abs"]
    assert pair["difference"] == pytest.approx(-difference)

    # Whole, it is read at 95 %, but where a stop rule looked before.
    whole = [results(scores, split=split) for split in ("test", "dev")]
    free, ruled = (compare(*whole, plan, stopping=s).set_index("method") for s in (False, True))
    assert free.loc["l2kd", "gap/note"] == Note(reach=Reach(OrderPopulation.ALL, 24, 24))
    width = {
        name: t.loc["l2kd", "gap/high"] - t.loc["l2kd", "gap/low"]
        for name, t in (("free", free), ("ruled", ruled))
    }
    assert width["ruled"] > width["free"]


def test_before_the_first_order_is_finished_the_table_is_descriptive(scores: pd.DataFrame) -> None:
    test, dev = (
        without(results(scores, split=split), ("l2kd", DRAWN[0], "531"))
        for split in ("test", "dev")
    )
    table = compare(test, dev, design())
    lifelong = table[~table["reference"]]
    assert all(note.descriptive for note in lifelong["gap/note"])
    assert lifelong["gap/abs"].notna().all()
    for name in ("gap/low", "rel/low", "closed/value"):
        assert lifelong[name].isna().all(), name


def test_the_relative_gap_has_an_interval_with_the_bounds_seeds_in_it(scores: pd.DataFrame) -> None:
    test, dev = (results(scores, split=split) for split in ("test", "dev"))
    row = compare(test, dev, design()).set_index("method").loc["l2kd"]
    assert row["rel/low"] < row["gap/rel"] < row["rel/high"]


# --- spreads over orders -----------------------------------------------------------------------


def test_spreads_are_of_the_instances_that_all_have(rows: pd.DataFrame) -> None:
    gone = [("l2kd", order, seed) for order in ALL[4:] for seed in SEEDS]
    part = without(rows, *gone, ("lamol", ALL[0], "531"))
    table = over_orders(part).set_index("method")
    assert (table["n_orders"] == 3).all()  # whole: on every seed of every method
    assert table["note"].isna().all()
    alone = over_orders(part, arms=[("lamol", "{}")]).iloc[0]
    assert alone["n_orders"] == 5
    apart = over_orders(
        without(
            rows,
            *[("l2kd", order, s) for order in ALL for s in SEEDS[:2]],
            *[("lamol", order, "533") for order in ALL],
        )
    )
    assert set(apart["note"]) == {Caveat.NOT_COMPARABLE}


def test_the_worst_of_a_sample_is_bounded_and_noise_is_taken_off_the_spread(
    rows: pd.DataFrame,
) -> None:
    table = over_orders(rows, design()).set_index("method")
    assert (table["beyond"] == 0).all()  # all six ran
    assert (table["std_order"] < table["std"]).all()
    drawn = over_orders(rows[rows["order"].isin(DRAWN[:4])], design("random", DRAWN[:4]))
    assert (drawn["beyond"] > 0).all()
    listed = over_orders(rows, design("list"))
    assert listed["beyond"].isna().all()


# --- tasks and places --------------------------------------------------------------------------


def test_tasks_and_places_by_hand(scores: pd.DataFrame, rows: pd.DataFrame) -> None:
    frame = task_rows(trials(scores), results(scores))
    assert len(frame) == 3 * 6 * 3 * 3
    one = frame[(frame["trial"] == frame["trial"].iloc[0])]
    assert one["task"].tolist() == one["order"].iloc[0].split(">")
    assert one["place"].tolist() == [1, 2, 3]
    assert one["forgetting"].iloc[2] == 0
    trial = rows.set_index("trial").loc[one["trial"].iloc[0]]
    assert one["forgetting"].iloc[:2].mean() == pytest.approx(trial["cl/forgetting_first"])
    assert one["gap"].mean() == pytest.approx(trial["gap/abs"])

    own = frame[frame["method"] == "l2kd"]
    mean = rows[rows["method"] == "l2kd"]["gap/abs"].mean()
    by_task = mean_by(own, "task", design(), DRAWN)
    by_place = mean_by(own, "place", design(), DRAWN)
    for table in (by_task, by_place):
        assert table["gap"].mean() == pytest.approx(mean)
        assert (table["gap/low"] < table["gap"]).all()
    assert by_task["n_orders"].tolist() == [6, 6, 6]
    column = rows[rows["method"] == "l2kd"][f"gap/{TASKS[0]}"].mean()
    assert by_task.set_index("task").loc[TASKS[0], "gap"] == pytest.approx(column)
    at_first = own[own["place"] == 1]
    cell = by_place.set_index("place").loc[1]
    seeds = at_first.groupby("seed")["gap"].mean()  # all six orders ran
    half = 4.30265273 * seeds.std(ddof=1) / np.sqrt(3)
    assert cell["gap/high"] - cell["gap"] == pytest.approx(half)


def test_a_sample_of_orders_makes_places_less_sure(scores: pd.DataFrame) -> None:
    own = task_rows(trials(scores), results(scores))
    own = own[own["method"] == "l2kd"]
    drawn = mean_by(own, "place", design("random", DRAWN[:4]), DRAWN[:4])
    these = mean_by(own, "place", design("list", DRAWN[:4]), DRAWN[:4])
    width = drawn["gap/high"] - drawn["gap/low"]
    assert (width >= these["gap/high"] - these["gap/low"]).all()


@pytest.fixture(scope="module")
def unbalanced() -> pd.DataFrame:
    """Training seed 1 with two seeds of replay, 2 with one: three rows, two replicates."""
    return results(study(TASKS, seeds=("1r7", "1r8", "2r7"), methods=("lamol",)))


def mean_of_seeds(rows: pd.DataFrame, column: str) -> float:
    """By hand: the mean of each training seed, then of those."""
    one = rows[rows["seed"].str.startswith("1")][column].mean()
    other = rows[rows["seed"].str.startswith("2")][column].mean()
    assert one != other
    return float((one + other) / 2)


def test_a_training_seed_counts_once_however_many_replays_it_has(unbalanced: pd.DataFrame) -> None:
    own = unbalanced[unbalanced["method"] == "lamol"]
    (row,) = compare(unbalanced, unbalanced).query("method == 'lamol'").to_dict("records")
    for column in ("cl/avg", "cl/bwt", "cl/forgetting_max"):
        assert row[column] == pytest.approx(mean_of_seeds(own, column))
        assert row[column] != pytest.approx(own[column].mean())


def test_before_an_order_is_finished_a_training_seed_counts_once_too(
    unbalanced: pd.DataFrame,
) -> None:
    own = unbalanced[unbalanced["method"] == "lamol"]
    found = mean_over(own, design(seeds=("1r7", "1r8", "2r7")), ())
    assert found.note.descriptive == (len(own), 18)
    assert found.value == pytest.approx(mean_of_seeds(own, "gap/abs"))


def test_of_several_bounds_the_one_of_the_trials_own_settings_is_taken() -> None:
    """Whatever sequence their rows stand in; where it has no such bound, the more general one."""
    settings = [{"kd.weight": w, "train.lr": lr} for w in (1, 2) for lr in (1, 2)]
    scores = study(TASKS, methods=("l2kd",), settings={"l2kd": settings}, orders=1)
    general = scores["method"] == "multitask"
    own = scores[general].assign(setting='{"train.lr":1}', trial="own")
    own["score"] -= 20.0
    gaps = []
    for frames in ([scores, own], [own, scores]):
        rows = results(pd.concat(frames, ignore_index=True))
        rows = rows[rows["method"] == "l2kd"].sort_values(["train.lr", "kd.weight"])
        gaps.append(list(rows["gap/abs"]))
    plain = results(scores).query("method == 'l2kd'").sort_values(["train.lr", "kd.weight"])
    pairs = zip(plain["gap/abs"], plain["train.lr"], strict=True)
    wanted = [gap - 20 * (lr == 1) for gap, lr in pairs]
    assert gaps[0] == gaps[1] == pytest.approx(wanted)


# --- one level half-way, over the same whole orders ---------------------------------------------


@pytest.fixture(scope="module")
def half_way() -> Findings:
    """24 orders planned, 14 finished, and a seed of two more: read at the look of 12."""
    scores = study(tuple("abcd"), methods=("lamol", "l2kd"), seeds=SEEDS)
    names = [">".join(order) for order in permutations("abcd")]
    drawn = tuple(names[k] for k in np.random.default_rng(5).permutation(24))
    rest = scores["order"].isin(drawn[16:])
    late = scores["order"].isin(drawn[14:16]) & (scores["seed"] != "531")
    return find(scores[~rest & ~late], design=Design("all", drawn, SEEDS))


def test_half_way_every_interval_is_read_at_the_looks_level(half_way: Findings) -> None:
    scope, arm = half_way.scope, ("l2kd", "{}")
    level = scope.level
    assert level == pytest.approx(1 - 0.045 / 2)
    table = scope.cells(arm).by_seed
    names = scope.orders

    def own(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["method"] == "l2kd"].drop(columns=["method", "setting"])

    def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
        numbers = expected.select_dtypes("number").columns
        np.testing.assert_allclose(
            found[numbers].to_numpy(float), expected[numbers].to_numpy(float)
        )

    same(own(half_way.effects), effects(table, names, level))
    same(own(half_way.extremes), extremes(table, names, level))
    same(own(half_way.variance), decompose(scope.cells(arm), 24, level))
    rows = task_rows(half_way.trials, half_way.results)
    rows = rows[rows["method"] == "l2kd"]
    by_task = half_way.places[half_way.places["place"].isna()]
    same(own(by_task), mean_by(rows, "task", scope.design, names, level))
    every = own(half_way.by_order).set_index("order")
    half = moments(table[:1], 1).half_width(level)
    assert every.loc[names[0], "high"] - every.loc[names[0], "gap"] == pytest.approx(float(half))
    assert every["low"].notna().sum() == 12  # those beyond are listed, and claim nothing


def test_half_way_robustness_is_of_the_whole_orders_of_the_look(half_way: Findings) -> None:
    for row in half_way.orders.to_dict("records"):
        means = half_way.scope.cells((row["method"], row["setting"])).by_seed.mean(axis=1)
        assert (row["n_orders"], row["n_seeds"]) == (12, 3)
        assert (row["worst"], row["std"]) == pytest.approx((means.max(), means.std(ddof=1)))
        assert row["beyond"] == orders_beyond_worst(12, 4, half_way.scope.level) / 24


def test_the_seeds_and_orders_said_are_those_of_the_gaps_in_the_mean(scores: pd.DataFrame) -> None:
    """Without the bound of a seed, its trials have no gap, and are in no number of the row."""
    lost = (scores["method"] == "multitask") & (scores["seed"] == "533")
    for plan in (None, design()):
        test, dev = (results(scores[~lost], split=split) for split in ("test", "dev"))
        row = compare(test, dev, plan).set_index("method").loc["l2kd"]
        assert (row["n_orders"], row["n_seeds"], row["n_used"]) == (6, 2, 12)
        own = test[(test["method"] == "l2kd") & test["gap/abs"].notna()]
        assert row["cl/avg"] == pytest.approx(own["cl/avg"].mean())
        assert row["n_complete"] == 18


def test_a_score_that_is_no_number_leaves_out_its_order_and_no_more(scores: pd.DataFrame) -> None:
    broken = scores.copy()
    at = (broken["method"] == "l2kd") & (broken["order"] == DRAWN[0]) & (broken["seed"] == "531")
    broken.loc[at & (broken["i"] == 3), "score"] = np.nan
    assert without_score(broken) == [Instance("l2kd", "{}", DRAWN[0], "531")]
    row = find(broken, design=design()).gap.set_index("method").loc["l2kd"]
    assert row["gap/note"] == Note(reach=Reach(OrderPopulation.UNFAILED, 5, 6), left_out=1)
    assert row["failed/n"] == 1


def test_seeds_that_agree_do_not_make_a_mean_certain(rows: pd.DataFrame) -> None:
    own = rows[rows["method"] == "l2kd"]
    alike = own.assign(**{"gap/abs": own.groupby("order")["gap/abs"].transform("mean")})
    for kind in ("all", "list"):
        found = mean_over(alike, design(kind), DRAWN)
        assert not found.bounded
        assert found.note.no_interval is NoInterval.SEEDS_ALIKE
        assert np.isnan(moments(cells(alike, "gap/abs", DRAWN, SEEDS).by_seed, 6).p)
    assert not gap_closed(alike, alike.assign(**{"gap/abs": alike["gap/abs"] * 2})).bounded


def test_the_interval_of_the_smallest_of_equal_gaps_holds_it() -> None:
    """Eight equal methods: read alone, the winner's interval misses its true gap too often."""
    rng, alone, joint = np.random.default_rng(0), [], []
    for _ in range(400):
        found = moments(rng.normal(0, 1, (8, 6, 5)) + rng.normal(0, 1, (8, 1, 5)), 6)
        best = int(found.mean.argmin())
        alone.append(abs(found.mean[best]) <= found.half_width()[best])
        level = simultaneous(0.95, 8)
        assert level is not None
        joint.append(abs(found.mean[best]) <= found.half_width(level)[best])
    assert np.mean(alone) < 0.92
    assert np.mean(joint) > 0.95


def test_the_gap_table_has_intervals_that_hold_together(scores: pd.DataFrame) -> None:
    test, dev = (results(scores, split=split) for split in ("test", "dev"))
    for plan in (None, design()):
        table = compare(test, dev, plan).query("not reference")
        assert set(table["joint/n"]) == {3}
        for row in table.to_dict("records"):
            table_ = cells(test[test["method"] == row["method"]], "gap/abs", DRAWN, SEEDS).by_seed
            half = float(moments(table_, 6).half_width(1 - 0.05 / 3))
            assert row["joint/high"] - row["gap/abs"] == pytest.approx(half)
