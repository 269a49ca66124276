"""Methods against each other, halves for selection, the worst orders, and test examples."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations, product
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from l2kd_ray.analysis import (
    Design,
    ExampleGaps,
    Instance,
    NoInterval,
    Note,
    OrderPopulation,
    Reach,
    Undefined,
    compare_methods,
    example_variance,
    halves,
    holm,
    moments,
    optimism,
    orders_beyond_worst,
    paired,
    quantile_bound,
    sign_flip,
    within,
)
from l2kd_ray.analysis.estimate import Moments
from l2kd_ray.analysis.examples import with_examples
from l2kd_ray.analysis.paired import flip_seeds, hedges
from l2kd_ray.study.orders import candidates

ORDERS = ("a>b", "b>a")
SEEDS = ("1", "2", "3")


def rows(values: dict[str, list[list[float]]], **more: object) -> pd.DataFrame:
    """Complete results: {method: [a gap for each seed] for each order}."""
    return pd.DataFrame(
        [
            {
                "method": method,
                "setting": "{}",
                "order": order,
                "seed": seed,
                "gap/abs": gap,
                "complete": True,
                **more,
            }
            for method, table in values.items()
            for order, of_seeds in zip(ORDERS, table, strict=True)
            for seed, gap in zip(SEEDS, of_seeds, strict=True)
        ]
    )


# --- pairs -------------------------------------------------------------------------------------


def test_a_pair_by_hand() -> None:
    a = np.array([[1.0, 2, 6], [3, 4, 6]])
    b = np.array([[2.0, 4, 9], [6, 6, 7]])
    found = paired(a, b, 2)
    differences = np.array([-2.0, -2, -2])  # by seed: (-1 - 3) / 2, (-2 - 2) / 2, (-3 - 1) / 2
    assert found.difference.value == -2
    assert (a - b).mean(axis=0).tolist() == differences.tolist()
    # Three seeds that agree do not say that seeds agree.
    assert not found.difference.bounded
    assert found.difference.note.no_interval is NoInterval.SEEDS_ALIKE
    assert np.isnan([found.p, found.p_flip, found.effect, found.detectable]).all()
    assert found.lower == 1
    assert paired(a, b + np.array([0.0, 0, 1]), 2).p_flip == 0.25


def test_a_pair_is_a_paired_t_test_over_seeds_where_all_orders_ran() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 5)), rng.normal(0.5, 1, size=(6, 5))
    found = paired(a, b, 6)
    test = stats.ttest_rel(a.mean(axis=0), b.mean(axis=0))
    assert found.p == pytest.approx(test.pvalue)
    low, high = test.confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))
    assert paired(b, a, 6).difference.value == -found.difference.value
    assert paired(b, a, 6).lower == pytest.approx(1 - found.lower)


def test_what_is_common_to_both_cancels() -> None:
    rng = np.random.default_rng(1)
    a, b, bound = (rng.normal(size=(6, 4)) for _ in range(3))
    assert paired(a + 50 * bound, b + 50 * bound, 24).p == pytest.approx(paired(a, b, 24).p)


def test_one_seed_has_a_difference_and_no_test() -> None:
    found = paired(np.array([[1.0], [2]]), np.array([[2.0], [5]]), 2)
    assert found.difference.value == -2
    assert np.isnan(found.p)
    assert np.isnan([found.p_flip, found.detectable]).all()


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=7))
def test_sign_flip_is_the_share_of_all_signs(values: list[float]) -> None:
    data = np.array(values)
    sums = [abs(np.dot(signs, data)) for signs in product((-1, 1), repeat=len(data))]
    seen = abs(data.sum())
    exact = np.mean([value >= seen * (1 - 1e-12) for value in sums])
    assert sign_flip(data) == pytest.approx(exact)
    assert sign_flip(data) >= 2.0 ** (1 - len(data))


def test_sign_flip_of_many_is_drawn() -> None:
    data = np.random.default_rng(0).normal(0.3, 1, 30)
    assert sign_flip(data) == sign_flip(data)
    assert sign_flip(data) == pytest.approx(stats.ttest_1samp(data, 0).pvalue, abs=0.02)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]).tolist() == [1, 1]
    with_gap = holm([0.01, np.nan, 0.02])
    assert with_gap[[0, 2]].tolist() == pytest.approx([0.02, 0.02])
    assert np.isnan(with_gap[1])
    assert holm([]).size == 0


def test_hedges_g_by_hand() -> None:
    # mean 2, std 1, S - 1 = 2: 1 - 3 / 7
    assert hedges(np.array([1.0, 2, 3])) == pytest.approx(2 * 4 / 7)
    assert np.isnan(hedges(np.array([1.0, 2])))


def test_methods_are_compared_on_what_all_have_finished() -> None:
    frame = rows(
        {
            "l2kd": [[1, 2, 3], [2, 3, 4]],
            "lamol": [[3, 5, 4], [4, 6, 5]],
            "ewc": [[9, 9, 8], [9, 8, 9]],
        }
    )
    arms = [(method, "{}") for method in ("l2kd", "lamol", "ewc")]
    table = compare_methods(frame, arms, Design("all", ORDERS, SEEDS))
    assert list(zip(table["method"], table["against"], strict=True)) == [
        ("l2kd", "lamol"),
        ("l2kd", "ewc"),
        ("lamol", "ewc"),
    ]
    first = table.iloc[0]
    assert first["difference"] == pytest.approx(-2)
    assert [first[f"seed/{seed}"] for seed in SEEDS] == pytest.approx([-2, -3, -1])
    assert first["p"] == pytest.approx(stats.ttest_1samp([-2, -3, -1], 0).pvalue)
    assert np.isnan(first["p_flip"])  # three pairs: 3 x 2^(1 - S) is below 0.05 from 7 seeds on
    assert first["flip_seeds"] == flip_seeds(3) == 7
    assert first["lower"] == 1
    np.testing.assert_allclose(table["p_adjusted"], np.minimum(3 * table["p"], 1))
    assert set(table["note"]) == {Note(reach=Reach(OrderPopulation.ALL, 2, 2))}

    failed = [Instance("ewc", "{}", "b>a", "2")]
    part = frame[~((frame["method"] == "ewc") & (frame["order"] == "b>a") & (frame["seed"] == "2"))]
    table = compare_methods(part, arms, Design("list", ORDERS, SEEDS), failed)
    assert table["n_orders"].tolist() == [2, 1, 1]
    assert table["note"].iloc[1] == Note(reach=Reach(OrderPopulation.LISTED, 1, 2), left_out=1)
    unfinished = compare_methods(part, arms, Design("all", ("b>a", "a>b"), SEEDS))
    assert unfinished["difference"].isna().all()
    assert set(unfinished["note"]) == {Note(undefined=Undefined.NO_FINISHED_ORDER)}


def test_a_sign_flip_test_is_of_the_orders_that_ran_and_of_no_other() -> None:
    """Equal over all 24 orders but not over 12: it would refute what holds, so it is not shown."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 3, 24)
    truth -= truth.mean()
    wrong = []
    for _ in range(200):
        drawn = rng.permutation(24)[:12]
        table = truth[drawn, None] + rng.normal(0, 0.3, (12, 8))
        wrong.append(sign_flip(table.mean(axis=0)) < 0.05)
        assert np.isnan(paired(table, np.zeros_like(table), 24).p_flip)
    assert np.mean(wrong) > 0.5
    whole = truth[:, None] + rng.normal(0, 0.3, (24, 8))
    assert paired(whole, np.zeros_like(whole), 24).p_flip == sign_flip(whole.mean(axis=0))


@pytest.mark.parametrize(("tests", "seeds"), [(1, 6), (6, 8), (28, 11)])
def test_the_fewest_seeds_of_a_sign_flip_test(tests: int, seeds: int) -> None:
    assert flip_seeds(tests) == seeds
    assert tests * 2.0 ** (1 - seeds) <= 0.05 < tests * 2.0 ** (2 - seeds)


@pytest.mark.parametrize("ran", [2, 12, 24])
def test_a_simultaneous_interval_leaves_0_out_exactly_where_the_adjusted_p_is_small(
    ran: int,
) -> None:
    orders = [">".join(order) for order in permutations("abcd")]
    rng, seen = np.random.default_rng(ran), set()
    for shift in np.linspace(0, 3, 25):
        rows_ = [
            {"method": m, "setting": "{}", "order": o, "seed": s, "complete": True}
            | {"gap/abs": shift * (m == "x") + own + rng.normal(0, 0.7)}
            for m in "xyz"
            for o, own in zip(orders, rng.normal(0, 1, 24), strict=True)
            for s in "12345"
        ]
        design = Design("random", tuple(orders[:ran]), tuple("12345"))
        table = compare_methods(pd.DataFrame(rows_), [(m, "{}") for m in "xyz"], design)
        told = (table["low"] > 0) | (table["high"] < 0)
        assert (told == (table["p_adjusted"] < 0.05)).all()
        seen |= set(told)
        assert (table["at_most"] >= table["difference"].abs()).all()
    assert seen == {True, False}


def test_the_detectable_difference_is_found_as_often_as_it_says() -> None:
    rng, seeds = np.random.default_rng(0), 5
    noise = rng.normal(0, 1, (4000, 6, seeds))
    true = Moments(np.asarray(0.0), np.asarray(0.0), np.asarray(1 / 30), 5, seeds - 1)
    for level in (0.95, 1 - 0.05 / 3):
        found = moments(noise + true.detectable(level), 6)
        told = np.abs(found.mean) > found.half_width(level)
        assert told.mean() == pytest.approx(0.8, abs=0.025)


# --- the worst orders --------------------------------------------------------------------------


Ranks = dict[tuple[str, ...], float]


def _additive(seed: int) -> Ranks:
    rng = np.random.default_rng(seed)
    effect = {pair: rng.normal() for pair in permutations("abcd", 2)}
    return {o: sum(effect[p] for p in combinations(o, 2)) for o in permutations("abcd")}


def _by_ends(pairs: str) -> Ranks:
    """The worst orders are those without one of these pairs of a first and a last task."""
    good = {*pairs.split()}
    return {order: order[0] + order[-1] not in good for order in permutations("abcd")}


def _four_pairs(_: int) -> Ranks:
    """Four worst orders, of four pairs of a first and a last task."""
    bad = {"abcd", "bcda", "cdab", "dabc"}
    return {order: "".join(order) in bad for order in permutations("abcd")}


@pytest.mark.parametrize("world", [_additive, lambda _: _by_ends("ab ba cd dc bc da"), _four_pairs])
@pytest.mark.parametrize("drawn", [1, 4, 8, 12, 18, 23])
def test_the_bounds_on_the_worst_hold_for_orders_as_they_are_drawn(
    world: Callable[[int], Ranks], drawn: int
) -> None:
    """Whatever makes orders bad, for any level, in blocks that are no simple random sample."""
    held: dict[float, list[bool]] = {level: [] for level in (0.5, 0.8, 0.95)}
    of_three = []
    for seed in range(400):
        value = world(seed)
        ran = np.array([value[order] for order in candidates(list("abcd"), 24, seed)[:drawn]])
        every = np.sort([*value.values()])[::-1]
        for level, found in held.items():
            found.append((every > ran.max()).sum() <= orders_beyond_worst(drawn, 4, level))
            found.append(quantile_bound(ran.astype(float), 4, 0.2, level) >= every[4])
        of_three.append((every > ran.max()).sum() <= 3)
    for level, found in held.items():
        assert np.mean(found[::2]) >= level - 0.03
        assert np.mean(found[1::2]) >= level - 0.03
    if world is _four_pairs and drawn == 12:
        assert np.mean(of_three) < 0.955  # what a simple random sample would allow


def test_of_all_orders_nothing_is_worse_than_the_worst() -> None:
    assert orders_beyond_worst(24, 4) == 0
    values = np.arange(24.0)
    assert quantile_bound(values, 4) == 19  # the fifth largest of 24 begins the worst fifth
    assert orders_beyond_worst(1, 5) == 113  # 114 / 120 = 95 %
    assert orders_beyond_worst(20, 5) == 16  # (1 - 17 / 120)^20 = 4.7 %
    assert quantile_bound(np.array([1.0]), 5) == np.inf
    assert quantile_bound(np.array([5.0]), 1) == 5
    with pytest.raises(ValueError, match="7 orders drawn of 6"):
        orders_beyond_worst(7, 3)


# --- halves ------------------------------------------------------------------------------------


def drawn(n: int = 4, orders: int = 9) -> tuple[str, ...]:
    every = [">".join(order) for order in permutations("abcdef"[:n])]
    return tuple(every[k] for k in np.random.default_rng(0).permutation(len(every))[:orders])


def test_halves_share_nothing_and_keep_as_a_study_grows() -> None:
    seeds = ("1", "2", "3", "4", "5")
    small, large = (halves(Design("random", drawn(orders=k), seeds)) for k in (8, 9))
    for one in (small, large):
        assert not set(one.select.orders) & set(one.report.orders)
        assert not set(one.select.seeds) & set(one.report.seeds)
        assert one.report.kind == one.select.kind == "random"
    assert set(small.select.orders) <= set(large.select.orders)
    assert set(small.report.orders) <= set(large.report.orders)
    assert len(large.report.orders) == 5
    assert large.report.seeds == ("1", "3", "5")
    crossed = halves(Design("all", drawn(3, 6), ("1", "1r7", "2r1", "2r7")))
    assert crossed.select.seeds == ("2r1", "2r7")
    assert crossed.report.kind == "random"  # half of all orders is a sample of them


def test_one_side_alone_may_be_halved_and_too_few_are_refused() -> None:
    design = Design("all", drawn(3, 6), ("1", "2"))
    only = halves(design, seeds=False)
    assert only.select.seeds == only.report.seeds == ("1", "2")
    with pytest.raises(ValueError, match=r"select_on\.seeds"):
        halves(Design("all", drawn(3, 6), ("1",)))
    with pytest.raises(ValueError, match=r"select_on\.orders"):
        halves(Design("list", drawn(3, 1), ("1", "2")))


def test_optimism_by_hand() -> None:
    design = Design("all", ORDERS, ("1", "2"))
    split = halves(design)
    assert (split.select.orders, split.select.seeds) == (("b>a",), ("2",))

    def frame(scores: dict[tuple[str, str, str], float]) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {
                    "method": "l2kd",
                    "setting": s,
                    "order": o,
                    "seed": seed,
                    "cl/avg": score,
                    "complete": True,
                }
                for (s, o, seed), score in scores.items()
            ]
        )

    dev = frame(
        {
            ("x", "b>a", "2"): 70,
            ("x", "a>b", "1"): 60,
            ("y", "b>a", "2"): 66,
            ("y", "a>b", "1"): 62,
            ("x", "a>b", "2"): 99,
        }
    )  # the last is of neither half
    test = frame({("x", "a>b", "1"): 58, ("x", "b>a", "2"): 80})
    found = optimism(dev, test, "l2kd", "x", split)
    assert (found.selected, found.held_out, found.reported) == (70, 60, 58)
    assert found.luck == 7  # x 10 and y 4
    assert found.total == 12
    assert found.of_selection == 3
    assert within(dev, split.select)["cl/avg"].tolist() == [70, 66]


def test_of_settings_that_are_all_alike_the_optimism_is_the_winners_curse() -> None:
    rng = np.random.default_rng(0)
    orders, seeds = drawn(orders=8), ("1", "2", "3", "4")
    split = halves(Design("random", orders, seeds))
    total, own = [], []
    for _ in range(40):
        frame = pd.DataFrame(
            [
                {
                    "method": "m",
                    "setting": str(s),
                    "order": o,
                    "seed": seed,
                    "complete": True,
                    "cl/avg": rng.normal(),
                }
                for s in range(6)
                for o in orders
                for seed in seeds
            ]
        )
        best = within(frame, split.select).groupby("setting")["cl/avg"].mean().idxmax()
        found = optimism(frame, frame, "m", best, split)
        total.append(found.total)
        own.append(found.of_selection)
    # The largest of 6 normal means of 4 orders x 2 seeds: 1.267 / sqrt(8).
    assert np.mean(own) == pytest.approx(1.267 / sqrt(8), abs=0.12)
    assert np.mean(total) == pytest.approx(np.mean(own), abs=0.12)


# --- test examples -----------------------------------------------------------------------------


def gaps_of(values: np.ndarray, clusters: list[int] | None = None) -> ExampleGaps:
    return ExampleGaps(values, clusters or list(range(values.shape[1])))


def test_the_variance_over_examples_is_that_of_the_bootstrap_over_clusters() -> None:
    rng = np.random.default_rng(0)
    gaps = 5 + rng.normal(0, 10, 60) + np.repeat(rng.normal(0, 10, 20), 3)
    clusters = [k // 3 for k in range(60)]
    by_cluster = gaps.reshape(20, 3).mean(axis=1)
    drawn = by_cluster[rng.integers(20, size=(40_000, 20))].mean(axis=1)
    found, free = example_variance({"woz": gaps_of(gaps[None], clusters)})
    assert found == pytest.approx(drawn.var() * 20 / 19, rel=0.03)
    assert found == pytest.approx(by_cluster.var(ddof=1) / 20)
    assert free == 19


def test_what_a_seed_and_an_example_do_together_is_not_counted_twice() -> None:
    """Of noise that is each seed's own on each example, the seeds' spread has all there is."""
    rng = np.random.default_rng(0)
    own = [example_variance({"t": gaps_of(rng.normal(size=(4, 50)))})[0] for _ in range(200)]
    alone = 1 / (4 * 50)
    assert np.mean(own) < 0.15 * alone  # above 0 as what is below is cut off
    shared = [
        example_variance({"t": gaps_of(rng.normal(size=50) + rng.normal(size=(4, 50)))})[0]
        for _ in range(200)
    ]
    assert np.mean(shared) == pytest.approx(1 / 50, rel=0.1)


def test_tasks_weigh_alike() -> None:
    rng = np.random.default_rng(0)
    small, large = gaps_of(rng.normal(4, 1, (1, 20))), gaps_of(rng.normal(1, 1, (1, 2000)))
    both, free = example_variance({"a": small, "b": large})
    each = [example_variance({"t": task})[0] for task in (small, large)]
    assert both == pytest.approx(sum(each) / 4)
    assert free == 19


def test_few_clusters_have_no_interval_and_other_lengths_are_refused() -> None:
    few = gaps_of(np.random.default_rng(0).normal(size=(3, 36)), [k // 4 for k in range(36)])
    assert np.isnan(example_variance({"t": few})[0])
    with pytest.raises(ValueError, match="in 2 clusters"):
        gaps_of(np.zeros((3, 4)), [0, 1])
    with pytest.raises(ValueError, match="no task"):
        example_variance({})


def test_one_more_source_never_narrows_the_interval() -> None:
    mean = moments(np.array([[1.0, 9.0, 4.0]]), 1)
    for variance in (0.0, 0.1, 1.0, 10.0):
        assert with_examples(mean, variance, 99).half_width >= mean.estimate().half_width
    assert not with_examples(mean, np.nan, np.nan).bounded


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_of_both_sources_holds_where_that_of_seeds_does_not(seeds: int) -> None:
    rng, both, alone = np.random.default_rng(0), [], []
    for _ in range(400):
        seed = rng.normal(size=(seeds, 1))
        tasks = {
            task: gaps_of(seed + 20 * rng.normal(size=32) + 10 * rng.normal(size=(seeds, 32)))
            for task in "abc"
        }
        table = np.mean([task.gaps.mean(axis=1) for task in tasks.values()], axis=0)
        mean = moments(np.tile(table, (6, 1)), 6)
        wider = with_examples(mean, *example_variance(tasks))
        both.append(abs(float(mean.mean)) < wider.half_width)
        alone.append(abs(float(mean.mean)) < float(mean.half_width()))
    assert 0.935 < np.mean(both) < 0.985
    assert np.mean(alone) < 0.85
