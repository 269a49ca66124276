"""Looks at an unfinished study, the rule that stops it, and the race of settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from l2kd_ray.analysis import Outcome, at_looks, moments, planned_looks, race, stop_rule
from l2kd_ray.analysis.looks import (
    RESERVE,
    Seen,
    alphas,
    joint_level,
    looked_half_way,
    reading,
    smaller_plans,
)
from l2kd_ray.report.sentences import verdict_words


def table(orders: int, seeds: int, *, order: float = 1.0, seed: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(orders * 100 + seeds)
    means = 5 + order * rng.normal(size=(orders, 1)) + seed * rng.normal(size=seeds)
    return means + 0.2 * rng.normal(size=(orders, seeds))


# --- looks -------------------------------------------------------------------------------------


def test_planned_looks() -> None:
    assert planned_looks(24) == (12, 24)
    assert planned_looks(120) == (15, 30, 60, 120)
    assert planned_looks(20) == (20,)
    assert planned_looks(6) == (6,)
    assert planned_looks(2) == (2,)


@given(st.integers(1, 5040))
def test_looks_spend_alpha_in_proportion_and_no_more(orders: int) -> None:
    looks = planned_looks(orders)
    spent = alphas(looks)
    whole = (1 - RESERVE * (len(looks) > 1)) * 0.05
    assert sum(spent) == pytest.approx(whole)
    assert looks[-1] == orders
    for upto in range(1, len(looks) + 1):
        share = looks[upto - 1] / orders
        assert sum(spent[:upto]) == pytest.approx(share * whole)


def test_a_look_is_the_interval_of_its_first_orders_at_its_level() -> None:
    values = table(40, 4)
    found = at_looks(values, 60, 120)
    assert [look.orders for look in found] == [15, 30]
    half = moments(values[:30], 120).half_width(found[1].level)
    assert found[1].estimate.half_width == pytest.approx(float(half))
    assert found[1].level == pytest.approx(1 - 0.9 * 0.05 * 15 / 60)


def test_a_failed_trials_order_counts_as_finished_and_is_left_out() -> None:
    values = table(12, 4)
    values[3, 1] = np.nan
    found = at_looks(values, 24, 24)
    assert [look.orders for look in found] == [12]
    kept = np.delete(values, 3, axis=0)
    assert found[0].estimate.value == pytest.approx(kept.mean())


def test_a_reading_is_the_last_look_and_95_percent_at_the_end() -> None:
    assert reading(24, 24).level == 0.95
    assert reading(24, 24, stopping=True).level == pytest.approx(1 - alphas((12, 24))[-1])
    assert reading(6, 6, stopping=True).level == 0.95  # one look: nothing was decided before
    half_way = reading(17, 24)
    assert half_way.orders == 12
    assert half_way.adjusted(0.01) == pytest.approx(0.01 * 0.05 / alphas((12, 24))[0])
    early = reading(11, 24)
    assert (early.orders, early.level) == (11, None)
    assert np.isnan(early.adjusted(0.01))


# --- the stop rule -----------------------------------------------------------------------------


def rule(values: np.ndarray, eps: float, planned: int = 24):
    return stop_rule(values, planned, 24, eps, method="l2kd")


def test_it_stops_at_the_first_look_that_is_narrow_enough_whenever_it_is_asked() -> None:
    values = table(24, 6, order=0.5, seed=0.1)
    widths = {look.orders: look.estimate.half_width for look in at_looks(values, 24, 24)}
    eps = widths[12] + 1e-9
    assert not rule(values[:11], eps).stop
    for finished in (12, 17, 24):
        verdict = rule(values[:finished], eps)
        assert verdict.stop
        assert verdict.look is not None
        assert verdict.look.orders == 12
        assert (verdict.method, verdict.metric) == ("l2kd", "gap/abs")
        words = verdict_words(verdict)
        assert words.startswith("gap/abs of l2kd: half-width ")
        assert " after 12 of 24 orders, at most " in words


def test_it_says_when_eps_is_out_of_reach_with_these_seeds() -> None:
    values = table(12, 4, order=0.5, seed=3.0)
    verdict = rule(values, 0.5)
    assert not verdict.stop
    assert verdict.outcome is Outcome.OUT_OF_REACH
    assert "0.5 is out of reach with 4 seeds" in verdict_words(verdict)
    assert verdict.seeds_needed is not None
    assert verdict.seeds_needed > 4
    assert f"about {verdict.seeds_needed} seeds" in verdict_words(verdict)


def test_the_seeds_needed_are_the_first_that_students_t_allows() -> None:
    values = table(24, 4, order=0.0, seed=2.0)
    eps, alpha = 1.0, alphas(planned_looks(24))[-1]
    verdict = rule(values, eps)
    std = values.mean(axis=0).std(ddof=1)

    def half(seeds: int) -> float:
        return float(stats.t.ppf(1 - alpha / 2, seeds - 1)) * std / np.sqrt(seeds)

    needed = verdict.seeds_needed
    assert needed is not None
    assert half(needed) <= eps < half(needed - 1)
    assert verdict.final_half_width == pytest.approx(half(4))
    assert verdict.outcome is Outcome.NO_ORDER_LEFT
    assert "no planned order is left" in verdict_words(verdict)


def test_what_all_orders_would_leave_is_foretold_without_the_noise_of_single_cells() -> None:
    rng = np.random.default_rng(2)
    values = 5 + 0.3 * rng.normal(size=4) + 2 * rng.normal(size=(12, 4))
    of_seed = values.mean(axis=0)
    residual = values - of_seed - values.mean(axis=1, keepdims=True) + values.mean()
    cell = (residual**2).sum() / (11 * 3)
    variance = of_seed.var(ddof=1) - (1 - 12 / 24) * cell / 12
    assert variance > 0
    t = float(stats.t.ppf(1 - alphas(planned_looks(24))[-1] / 2, 3))
    assert rule(values, 0.01).final_half_width == pytest.approx(t * np.sqrt(variance / 4))


def test_out_of_reach_is_said_only_when_it_is_sure() -> None:
    values = table(12, 4, order=0.5, seed=1.0)
    expected = rule(values, 1e-6).final_half_width
    unlikely = rule(values, 0.9 * expected)
    assert unlikely.outcome is Outcome.OPEN
    assert not unlikely.stop
    assert rule(values, 0.3 * expected).outcome is Outcome.OUT_OF_REACH


def test_it_goes_on_where_eps_may_still_be_reached() -> None:
    verdict = rule(table(12, 6, order=2.0, seed=0.05), 0.3)
    assert not verdict.stop
    assert verdict.outcome is Outcome.OPEN
    assert "would leave about" in verdict_words(verdict)
    early = rule(table(3, 6), 0.3)
    assert (early.stop, early.look) == (False, None)
    assert early.outcome is Outcome.EARLY
    assert "3 of the 12 orders of the first look" in verdict_words(early)


def test_one_seed_never_stops() -> None:
    verdict = rule(table(24, 1), 100.0)
    assert not verdict.stop
    assert verdict.outcome is Outcome.ONE_SEED
    assert "one seed has no interval" in verdict_words(verdict)


# --- racing ------------------------------------------------------------------------------------


def scores(apart: float, settings: int = 4, blocks: int = 24) -> np.ndarray:
    rng = np.random.default_rng(settings)
    common = 3 * rng.normal(size=blocks)
    return apart * np.arange(settings)[:, None] + common + 0.3 * rng.normal(size=(settings, blocks))


def test_a_clear_loser_is_dropped_early_and_equals_are_kept() -> None:
    clear = race(scores(5.0)[:, :12], 24)
    assert clear == {0: 12, 1: 12, 2: 12}
    assert race(scores(0.0)[:, :12], 24) == {}


def test_the_blocks_common_to_all_do_not_blur_a_race() -> None:
    values = scores(5.0)
    shifted = values + 100 * np.random.default_rng(9).normal(size=values.shape[1])
    assert race(shifted[:, :12], 24) == race(values[:, :12], 24) == {0: 12, 1: 12, 2: 12}


def test_a_race_tells_the_same_when_it_is_asked_again_with_more() -> None:
    values = scores(0.3)
    whole = race(values, 24)
    assert {*range(4)} - whole.keys() == {int(values.mean(axis=1).argmax())}
    for upto in (6, 11, 12, 20):
        part = race(values[:, :upto], 24)
        assert part.items() <= whole.items()
    holed = values.copy()
    for setting, look in whole.items():
        holed[setting, look:] = np.nan  # what is dropped does not run on
    assert race(holed, 24) == whole


def test_a_look_at_half_of_the_blocks_knows_them_as_half() -> None:
    t = float(stats.t.ppf(1 - alphas(planned_looks(24))[0], 11))
    spread = np.resize([1.0, -1.0], 12) / np.sqrt(12 / 11)  # std 1
    for factor, dropped in ((1.05, True), (0.95, False)):
        behind = factor * t * np.sqrt((1 - 12 / 24) / 12)
        values = np.stack([np.zeros(12), spread - behind])
        assert (race(values, 24) == {1: 12}) is dropped


def test_a_race_shares_its_alpha_among_the_rivals() -> None:
    """Behind by a t between the quantiles for one rival and for three (Bonferroni)."""
    alpha, k = alphas(planned_looks(24))[0], 12
    one, three = (float(stats.t.ppf(1 - alpha / rivals, k - 1)) for rivals in (1, 3))
    spread = np.resize([1.0, -1.0], k) / np.sqrt(k / (k - 1))  # std 1
    behind = (one + three) / 2 * np.sqrt((1 - k / 24) / k)
    alone = np.stack([np.zeros(k), spread - behind])
    among = np.stack([np.zeros(k), spread - behind, np.zeros(k), np.zeros(k)])
    assert race(alone, 24) == {1: k}
    assert race(among, 24) == {}


def test_a_race_waits_for_every_kept_setting() -> None:
    values = scores(5.0)[:, :12].copy()
    values[1, 4] = np.nan
    assert race(values, 24) == {}
    with pytest.raises(ValueError, match="blocks"):
        race(scores(1.0), 5)


def test_the_best_of_all_blocks_is_seldom_dropped() -> None:
    rng, lost = np.random.default_rng(0), 0
    for _ in range(400):
        values = rng.normal(size=(5, 24)) + 0.2 * rng.normal(size=(5, 1))
        lost += int(values.mean(axis=1).argmax()) in race(values, 24)
    assert lost <= 0.05 * 400


# --- what was looked at before -----------------------------------------------------------------


def test_a_study_that_was_read_half_way_has_its_end_for_a_look() -> None:
    end = Seen(("a", "b", "c", "d"), ("1", "2"), 24, 24)
    assert not looked_half_way([end], end)
    assert looked_half_way([replace(end, orders=12)], end)
    assert not looked_half_way([replace(end, orders=12, seeds=("1",))], end)  # of another plan


def test_a_plan_that_grew_out_of_others_is_told_of_them() -> None:
    now = Seen(("a", "b", "c", "d"), ("1", "2", "3"), 24, 24)
    fewer = replace(now, seeds=("1", "2"))
    half, least = replace(fewer, orders=12), replace(fewer, planned=6, orders=6)
    others = [replace(now, tasks=("a", "b")), replace(now, seeds=("1", "9"))]
    larger = replace(now, seeds=("1", "2", "3", "4"))
    assert smaller_plans([half, now, fewer, least, larger, *others], now) == [least, fewer]
    assert smaller_plans([now], now) == []
    assert joint_level(3) == pytest.approx(0.85)


def test_adding_seeds_until_p_is_small_errs_no_more_than_the_level_said() -> None:
    """Equal methods, looked at with 3 to 10 seeds: read at 95 % each, too often one is told."""
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(2000, 1, 10))
    told = {
        level: np.any(
            [
                np.abs((m := moments(tables[..., :seeds], 1)).mean) > m.half_width(level)
                for seeds in range(3, 11)
            ],
            axis=0,
        ).mean()
        for level in (0.95, 1 - 0.05 / 8)
    }
    assert told[0.95] > 0.12
    assert told[0.95] <= 1 - joint_level(8)
    assert told[1 - 0.05 / 8] < 0.05
