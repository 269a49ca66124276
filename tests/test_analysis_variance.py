"""The mean over orders and its variance: by enumeration of every sample, and by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations
from math import sqrt
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from l2kd_ray.analysis import (
    Cells,
    Design,
    Undefined,
    advise,
    compare_methods,
    decompose,
    moments,
    ratio,
)
from l2kd_ray.analysis.anova import (
    components,
    contrasts,
    degrees,
    expected,
    mean_products,
    subsets,
)
from l2kd_ray.analysis.components import fixed_orders, large_sample, residual_df
from l2kd_ray.analysis.estimate import Moments
from l2kd_ray.analysis.foresight import foresee, foresee_given
from l2kd_ray.analysis.mean import BOTH, ORDER, SEED


def cells(table: np.ndarray) -> Cells:
    orders, train = (tuple(map(str, range(size))) for size in table.shape[:2])
    return Cells(table, orders, train, ("replay", "data")[: table.ndim - 2])


# --- mean squares ------------------------------------------------------------------------------


def test_mean_squares_by_hand() -> None:
    squares = mean_products(*[np.array([[1.0, 3], [5, 11]])] * 2)
    # Grand mean 5; orders 2 and 8; seeds 3 and 7; residuals 1, -1, -1, 1.
    assert squares[ORDER] == 2 * (9 + 9) / 1
    assert squares[SEED] == 2 * (4 + 4) / 1
    assert squares[BOTH] == 4 / 1


@given(st.integers(0, 1000))
def test_mean_squares_split_the_sum_of_squares(seed: int) -> None:
    table = np.random.default_rng(seed).normal(size=(4, 3, 2))
    squares = mean_products(table, table, 3)
    whole = sum(float(squares[a]) * degrees(table.shape, a) for a in subsets(3))
    assert whole == pytest.approx(((table - table.mean()) ** 2).sum())


def test_the_components_of_two_factors_are_the_textbooks() -> None:
    # 4 of 8 orders, 3 seeds: E[MS_O] = s_os + 3 s_o; E[MS_S] = (1 - 1/2) s_os + 4 s_s.
    assert expected((4, 3), 8) == {
        ORDER: {ORDER: 3, BOTH: 1},
        SEED: {SEED: 4, BOTH: 0.5},
        BOTH: {BOTH: 1},
    }
    assert contrasts((4, 3), 8)[ORDER] == pytest.approx({ORDER: 1 / 3, BOTH: -1 / 3})
    assert contrasts((4, 3), 8)[SEED] == pytest.approx({SEED: 1 / 4, BOTH: -1 / 8})


def test_components_are_unbiased_over_every_sample_of_orders() -> None:
    population = np.random.default_rng(3).normal(size=(6, 4))
    whole = components(mean_products(population, population), (6, 4), 6)
    found = [
        components(mean_products(population[list(kept)], population[list(kept)]), (3, 4), 6)
        for kept in combinations(range(6), 3)
    ]
    for effect in (ORDER, SEED, BOTH):
        mean = np.mean([one[effect] for one in found])
        assert mean == pytest.approx(whole[effect]), effect


def test_components_of_crossed_seeds_come_back() -> None:
    rng, many, shape = np.random.default_rng(0), 4000, (4, 3, 3)
    table = np.zeros((many, *shape))
    std = {(0,): 2.0, (1,): 1.0, (2,): 0.5, (0, 1): 0.7, (0, 2): 0.4, (1, 2): 0.6, (0, 1, 2): 0.3}
    for effect, size in std.items():
        axes = [n if k in effect else 1 for k, n in enumerate(shape)]
        table += size * rng.normal(size=(many, *axes))
    found = components(mean_products(table, table, 3), shape, 10**9)
    for effect, size in std.items():
        values = found[effect]
        off = 4 * values.std() / sqrt(many)
        assert values.mean() == pytest.approx(size**2, abs=off), effect


# --- the mean and its variance -----------------------------------------------------------------


def test_of_all_orders_the_interval_is_students_over_seeds() -> None:
    found = moments(np.array([[1.0, 3], [3, 5]]), 2)
    assert (found.mean, found.order, found.seed) == (3, 0, 1)  # seed means 2 and 4
    estimate = found.estimate()
    assert estimate.half_width == pytest.approx(12.7062047)


@pytest.mark.parametrize("drawn", [2, 3, 5, 6])
def test_the_variance_is_unbiased_over_every_sample_of_orders(drawn: int) -> None:
    # Orders far apart, so that no sample's order part is below 0 and truncated.
    population = np.random.default_rng(1).normal(size=(6, 3)) + 10 * np.arange(6)[:, None]
    samples = [population[list(kept)] for kept in combinations(range(6), drawn)]
    exact = np.mean([(sample.mean() - population.mean()) ** 2 for sample in samples])
    of_orders = population.mean(axis=1).var(ddof=1)
    assert exact == pytest.approx((1 - drawn / 6) * of_orders / drawn)
    of_seeds = population.mean(axis=0).var(ddof=1) / 3
    found = [moments(sample, 6) for sample in samples]
    mean = np.mean([float(one.order + one.seed) for one in found])
    assert mean == pytest.approx(exact + of_seeds)
    assert np.mean([float(one.mean) for one in found]) == pytest.approx(population.mean())


def test_a_table_at_a_time_is_many_at_once() -> None:
    tables = np.random.default_rng(0).normal(size=(5, 4, 3)) + 3 * np.arange(4)[None, :, None]
    together = moments(tables, 24)
    for k, table in enumerate(tables):
        alone = moments(table, 24)
        assert (together.mean[k], together.order[k], together.seed[k]) == pytest.approx(
            (alone.mean, alone.order, alone.seed)
        )
        assert together.half_width()[k] == pytest.approx(alone.half_width())


def test_the_quantile_lies_between_those_of_its_parts() -> None:
    orders, seeds = stats.t.ppf(0.975, 9), stats.t.ppf(0.975, 2)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        q = float(Moments(np.array(0.0), np.array(share), np.array(1 - share), 9, 2).quantile())
        assert orders - 1e-9 <= q <= seeds + 1e-9
    half = Moments(np.array(0.0), np.array(1.0), np.array(1.0), 9, 2)
    assert float(half.quantile()) == pytest.approx((orders + seeds) / 2)
    only = Moments(np.array(0.0), np.array(2.0), np.array(0.0), 9, 2)
    assert float(only.quantile()) == pytest.approx(orders)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 6), st.integers(0, 3))
def test_p_is_below_a_twentieth_exactly_where_the_interval_leaves_0_out(
    seed: int, orders: int, seeds: int, beyond: int
) -> None:
    table = np.random.default_rng(seed).normal(1, 1, size=(orders, seeds))
    found = moments(table, orders + beyond)
    estimate = found.estimate()
    assert (found.p < 0.05) == (not estimate.low <= 0 <= estimate.high)


@given(st.integers(0, 1000), st.floats(-5, 5), st.floats(0.1, 10))
def test_an_interval_moves_and_grows_with_its_numbers(seed: int, by: float, times: float) -> None:
    table = np.random.default_rng(seed).normal(size=(4, 3))
    one, other = moments(table, 24).estimate(), moments(by + times * table, 24).estimate()
    assert other.value == pytest.approx(by + times * one.value)
    assert other.half_width == pytest.approx(times * one.half_width)


def test_one_seed_or_one_order_of_many_has_no_interval() -> None:
    assert not moments(np.array([[1.0], [2]]), 2).estimate().bounded
    assert not moments(np.array([[1.0, 2]]), 6).estimate().bounded
    assert moments(np.array([[1.0, 2]]), 1).estimate().bounded


def test_all_orders_but_one_differ_little_from_all() -> None:
    table = np.random.default_rng(0).normal(size=(720, 4)) + np.arange(720)[:, None] / 100
    whole, most = moments(table, 720), moments(table[:719], 720)
    assert most.half_width() == pytest.approx(whole.half_width(), rel=0.05)


# --- ratios ------------------------------------------------------------------------------------


def test_a_ratio_of_a_sample_is_wider_than_of_all_orders() -> None:
    rng = np.random.default_rng(4)
    x = 5 + rng.normal(0, 0.2, (6, 4)) + np.arange(6)[:, None]
    y = 10 + rng.normal(0, 0.2, (6, 4))
    these, drawn = ratio(x, y, 6), ratio(x, y, 24)
    assert these.value == drawn.value == pytest.approx(x.mean() / y.mean())
    assert drawn.low < these.low < these.value < these.high < drawn.high


def test_the_bounds_of_a_ratio_are_those_that_the_mean_of_the_difference_just_refuses() -> None:
    rng = np.random.default_rng(5)
    x, y = 5 + rng.normal(size=(6, 4)), 10 + rng.normal(size=(6, 4))
    found = ratio(x, y, 6)
    for bound in (found.low, found.high):
        difference = moments(x - bound * y, 6)
        assert abs(float(difference.mean)) == pytest.approx(float(difference.half_width()))


def test_a_ratio_to_what_may_be_0_is_undefined() -> None:
    x, y = np.ones((2, 3)), np.array([[-1.0, 1, 2], [1, -2, 1]])
    assert np.isnan(ratio(x, y, 2).value)
    assert ratio(x, y, 2).note.undefined is Undefined.RATIO_MAY_BE_TO_ZERO
    assert ratio(x, 0 * y, 2).note.undefined is Undefined.RATIO_TO_ZERO
    alone = ratio(x[:, :1], 2 * x[:, :1], 2)
    assert (alone.value, alone.bounded) == (0.5, False)


# --- components --------------------------------------------------------------------------------


def test_decomposition_by_hand() -> None:
    frame = decompose(cells(np.array([[1.0, 3], [5, 11]])), 2).set_index("component")
    # MS 36, 16, 4; all orders: s_os = 4, s_o = (36 - 4) / 2, s_s = 16 / 2.
    assert frame["variance"].to_dict() == pytest.approx({"order": 16, "seed": 8, "order x seed": 4})
    assert frame["share"].to_dict() == pytest.approx(
        {"order": 16 / 28, "seed": 8 / 28, "order x seed": 4 / 28}
    )
    assert frame.loc["order", "std"] == 4
    # Of all orders, the seeds' component is a plain variance: a chi-square interval.
    low, high = 8 / stats.chi2.ppf([0.975, 0.025], 1)
    assert frame.loc["seed", ["low", "high"]].tolist() == pytest.approx([sqrt(low), sqrt(high)])


def test_two_seeds_leave_the_residual_and_what_rests_on_it_without_interval() -> None:
    table = np.random.default_rng(0).normal(size=(6, 2)) + np.arange(6)[:, None]
    whole = decompose(cells(table), 6).set_index("component")
    assert whole["low"].isna().to_dict() == {"order": True, "seed": False, "order x seed": True}
    assert decompose(cells(table), 24)["low"].isna().all()  # the seeds' part rests on it too
    third = np.random.default_rng(1).normal(size=(6, 3)) + np.arange(6)[:, None]
    assert decompose(cells(third), 6)["low"].notna().all()
    alike = np.tile(np.arange(6.0)[:, None], 3)  # no spread over seeds is not known to be none
    assert np.isnan(residual_df(alike))
    assert decompose(cells(alike), 6).set_index("component").loc["order", ["low"]].isna().all()


def test_below_0_the_bound_is_one_sided() -> None:
    """With 5 % beyond it: the upper end of the two-sided interval at 90 %."""
    rng, seen = np.random.default_rng(0), 0
    for _ in range(20):
        table = rng.normal(size=(6, 4))
        row = decompose(cells(table), 6).iloc[0]
        if row["variance"] < 0:
            seen += 1
            assert row["std"] == 0
            above = sqrt(fixed_orders(table, 0.9)[1])
            bounds = (0, above) if above else (np.nan, np.nan)  # never 0 to 0, as if it were known
            assert (row["low"], row["high"]) == pytest.approx(bounds, nan_ok=True)
    assert seen > 5


def test_a_component_below_0_is_shown_as_none() -> None:
    frame = decompose(cells(np.array([[1.0, 5], [5, 1]])), 24).set_index("component")
    assert frame.loc["order", "variance"] < 0
    assert frame.loc["order", "std"] == frame.loc["order", "share"] == 0
    assert frame["share"].sum() == pytest.approx(1)


def test_crossed_seeds_have_their_own_components() -> None:
    table = np.random.default_rng(0).normal(size=(6, 3, 2))
    frame = decompose(cells(table), 6)
    assert frame["component"].tolist()[:3] == ["order", "training seed", "replay seed"]
    assert len(frame) == 7
    uncrossed = decompose(cells(table[:, :, 0]), 6)
    assert uncrossed["component"].tolist() == ["order", "seed", "order x seed"]


def test_nothing_is_split_of_one_seed_and_missing_orders_are_left_out() -> None:
    table = np.random.default_rng(0).normal(size=(6, 3))
    assert decompose(cells(table[:, :1]), 6).empty
    holed = np.vstack([table, [[np.nan, 1, 1]]])
    assert decompose(cells(holed), 24).equals(decompose(cells(table), 24))


def test_the_large_sample_interval_of_one_mean_square_is_exact() -> None:
    low, high = large_sample({BOTH: 1.0}, {BOTH: np.array(3.0)}, {BOTH: 10})
    assert [low, high] == pytest.approx(list(10 * 3.0 / stats.chi2.ppf([0.975, 0.025], 10)))


def test_the_large_sample_interval_of_a_difference_covers() -> None:
    rng, levels, held = np.random.default_rng(0), (8, 4), []
    combination = contrasts(levels, 10**9)[ORDER]
    free = {a: degrees(levels, a) for a in subsets(2)}
    for _ in range(1500):
        table = rng.normal(size=(8, 1)) + rng.normal(size=(1, 4)) + rng.normal(size=levels)
        low, high = large_sample(combination, mean_products(table, table), free)
        held.append(low <= 1 <= high)
    assert 0.935 < np.mean(held) < 0.975


def test_the_interval_of_orders_that_all_ran_needs_no_draw_of_orders() -> None:
    rng = np.random.default_rng(0)
    effects = rng.normal(size=24)
    held = []
    for _ in range(800):
        table = 2 * effects[:, None] + rng.normal(size=(24, 5))
        low, high = fixed_orders(table)
        held.append(low <= 4 * effects.var(ddof=1) <= high)
    assert 0.93 < np.mean(held) < 0.975


def test_degrees_of_freedom_are_fewer_where_orders_share_their_noise() -> None:
    rng = np.random.default_rng(0)
    free = [residual_df(rng.normal(size=(24, 10))) for _ in range(50)]
    assert 150 < np.mean(free) <= 207  # of 207
    half = np.repeat([[1.0], [-1]], 12, axis=0)  # two halves of the trie, and nothing else
    shared = [residual_df(half * rng.normal(size=10)) for _ in range(50)]
    assert np.mean(shared) == pytest.approx(9)  # S - 1


def test_the_residuals_interval_is_of_the_degrees_that_orders_with_shared_stages_leave() -> None:
    """Two halves of the trie with a noise of their own: S - 1 degrees, not (N - 1)(S - 1)."""
    rng = np.random.default_rng(0)
    half = np.repeat([[1.0], [-1.0]], 12, axis=0)
    table = rng.normal(size=(24, 1)) + half * rng.normal(size=10)
    found = decompose(cells(table), 24).set_index("component").iloc[-1]
    assert found["df"] == residual_df(table) == pytest.approx(9)
    squares = mean_products(table, table, 2)
    wide = large_sample(contrasts(table.shape, 24)[BOTH], squares, {BOTH: 9.0}, 0.95)
    assert (found["low"], found["high"]) == pytest.approx([sqrt(max(v, 0.0)) for v in wide])


# --- advice ------------------------------------------------------------------------------------


def test_advice_follows_what_the_variance_is_made_of() -> None:
    by_order = {"order": 9.0, "seed": 0.1, "order x seed": 0.1}
    by_seed = {"order": 0.1, "seed": 9.0, "order x seed": 0.1}
    orders, seeds = advise(by_order, 10, 5, 120), advise(by_seed, 10, 5, 120)
    assert seeds.more_seeds < seeds.more_orders
    assert orders.orders == 2  # a seed costs as much as 10 / 5 orders
    assert orders.more_orders < orders.more_seeds < orders.now
    parts = {"order": 2.0, "seed": 1.0, "order x seed": 3.0}
    order, seed = (1 - 10 / 120) * (2 + 3 / 5) / 10, 1 / 5
    exact = Moments(np.array(0.0), np.array(order), np.array(seed), 9, 4).half_width()
    assert advise(parts, 10, 5, 120).now == pytest.approx(float(exact))
    finished = advise(by_order, 6, 3, 6)
    assert np.isnan(finished.more_orders)
    assert finished.orders == 0
    expected_half = stats.t.ppf(0.975, 2) * sqrt(0.1 / 3)
    assert finished.now == pytest.approx(expected_half)


def test_advice_counts_the_references_of_a_seed_and_says_unequal_costs() -> None:
    parts = {"order": 4.0, "seed": 0.1, "order x seed": 0.1}
    few = advise(parts, 3, 5, 24, methods=1, references=2)
    assert (few.seed_trials, few.orders, few.order_trials) == (3 + 2, 1, 5)
    many = advise(parts, 12, 3, 24, methods=2, references=2)
    assert (many.seed_trials, many.orders, many.order_trials) == (12 * 2 + 2, 4, 4 * 3 * 2)


def test_a_pilot_foretells_the_precision_of_the_whole_study() -> None:
    """On average over pilots, it is what the whole study then has."""
    orders = tuple(">".join(order) for order in permutations("abcd"))
    seeds = tuple(map(str, range(1, 11)))
    rng, foretold, found = np.random.default_rng(0), [], []
    for _ in range(12):
        rows = pd.DataFrame(
            [
                {"method": m, "setting": "{}", "order": o, "seed": s, "complete": True}
                | {"gap/abs": own + of_seed + rng.normal(0, 0.5)}
                for m in "xy"
                for s, of_seed in zip(seeds, rng.normal(0, 1, 10), strict=True)
                for o, own in zip(orders, np.linspace(0, 3, 24), strict=True)
            ]
        ).assign(trial=0)
        pilot = rows[rows["seed"].astype(int) <= 6]
        arms, plan = [("x", "{}"), ("y", "{}")], Design("all", orders, seeds)
        known = foresee(pilot, arms, plan)
        assert known is not None
        assert known.pilot == (24, 6)
        foretold.append((known.half_width, known.detectable))
        table = compare_methods(rows, arms, plan).iloc[0]
        found.append(table["detectable"])
    assert np.mean([d for _, d in foretold]) == pytest.approx(np.mean(found), rel=0.15)
    assert foresee(rows[rows["seed"] == "1"], arms, plan) is None
    assert foresee(rows.iloc[:0], arms, plan) is None
    one = foresee(pilot, arms[:1], plan)
    assert one is not None
    assert np.isnan(one.detectable)


@pytest.mark.parametrize(
    ("ran", "tasks", "seeds"), [(6, "abc", 5), (12, "abcd", 4), (24, "abcd", 3)]
)
def test_a_difference_that_given_variances_foretell_is_found(
    ran: int, tasks: str, seeds: int
) -> None:
    stds = {"order": 1.5, "seed": 1.0, "both": 0.7}
    every = [">".join(order) for order in permutations(tasks)]
    kind: Literal["all", "random"] = "all" if ran == len(every) else "random"
    design = Design(kind, tuple(every[:ran]), tuple(map(str, range(seeds))))
    known = foresee_given(stds, 2, design)
    assert known.pilot is None
    stream, many = np.random.default_rng(0), 4000
    of_order = stream.normal(size=(many, len(every), 1))
    of_order -= of_order.mean(axis=1, keepdims=True)
    gaps = known.detectable + stds["order"] * of_order[:, :ran]
    gaps = gaps + stds["seed"] * stream.normal(size=(many, 1, seeds))
    gaps = gaps + stds["both"] * stream.normal(size=(many, ran, seeds))
    found = moments(gaps, len(every))
    assert np.mean(found.mean > found.half_width()) == pytest.approx(0.8, abs=0.05)
    assert np.sqrt(np.mean(found.half_width() ** 2)) == pytest.approx(known.half_width, rel=0.08)
    assert np.isnan(foresee_given(stds, 1, design).detectable)
    alone = replace(design, seeds=("1",))
    assert np.isnan(foresee_given(stds, 2, alone).half_width)
