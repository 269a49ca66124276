"""Precedence effects, the model-assisted mean, and the best and the worst order."""

from __future__ import annotations

from importlib import import_module
from itertools import combinations, permutations
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from l2kd_ray.analysis import assisted, effects, extremes, moments, precedence_map
from l2kd_ray.analysis.precedence import (
    Effect,
    Ridge,
    Untold,
    _Predictor,
    enough_orders,
    estimable,
    feature_count,
    features,
    fit,
    population_effects,
)

FOUR = [">".join(order) for order in permutations("abcd")]
DRAWN = [FOUR[k] for k in np.random.default_rng(0).permutation(24)]


def gaps(orders: list[str], *, noise: float = 0.0, seeds: int = 4) -> np.ndarray:
    """b loses 4 points where a comes first, and 2 are won by ending with d."""
    rng = np.random.default_rng(1)
    hurt = [4.0 * (o.index("a") < o.index("b")) - 2.0 * o.endswith("d") for o in orders]
    return 5 + np.array(hurt)[:, None] + noise * rng.normal(size=(len(orders), seeds))


def test_features_have_mean_0_over_all_orders() -> None:
    for n in (2, 3, 4):
        tasks = "abcd"[:n]
        x = features(list(permutations(tasks)), tasks)
        assert x.shape[1] == n * (n - 1) // 2 + n
        assert np.abs(x.mean(axis=0)).max() < 1e-12
        assert n == 2 or np.linalg.matrix_rank(x) == feature_count(n)
    (row,) = features([("b", "a", "c")], "abc")
    assert row.tolist() == pytest.approx([-0.5, 0.5, 0.5, -1 / 3, -1 / 3, 2 / 3])


def test_ridge_is_the_solution_of_its_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x = features([tuple(order.split(">")) for order in DRAWN[:18]], "abcd")
    y = x @ rng.normal(size=x.shape[1]) + 0.3 * rng.normal(size=18)
    model = fit(x, y)
    centred = x - x.mean(axis=0)
    by_hand = np.linalg.solve(
        centred.T @ centred + model.penalty * np.eye(x.shape[1]), centred.T @ (y - y.mean())
    )
    np.testing.assert_allclose(model.smoother @ y, by_hand, atol=1e-9)


def test_restricted_likelihood_finds_the_ratio_of_variances() -> None:
    rng = np.random.default_rng(0)
    x = features([tuple(order.split(">")) for order in FOUR], "abcd")
    ratio = [fit(x, x @ (2 * rng.normal(size=10)) + rng.normal(size=24)).penalty for _ in range(60)]
    assert np.median(ratio) == pytest.approx(1 / 4, rel=0.5)
    none = [fit(x, rng.normal(size=24)).penalty for _ in range(60)]
    assert np.median(none) > 5


def every(n: int) -> list[str]:
    return [">".join(order) for order in permutations("abcde"[:n])]


@pytest.mark.parametrize("n", [3, 4])
def test_where_all_orders_ran_an_effect_is_a_difference_of_their_means(n: int) -> None:
    names, table = every(n), np.random.default_rng(n).normal(size=(len(every(n)), 5))
    found = effects(table, names)
    assert len(found) == n * (n - 1) // 2 + 2 * n
    for row in found.to_dict("records"):
        one, other = row["task"], row["other"]
        if row["effect"] is Effect.BEFORE:
            group = np.array([name.index(one) < name.index(other) for name in names])
            by_seed = table[group].mean(axis=0) - table[~group].mean(axis=0)
        else:
            edge = name_at(names, -1 if row["effect"] is Effect.LAST else 0)
            by_seed = table[edge == one].mean(axis=0) - table.mean(axis=0)
        half = stats.t.ppf(0.975, 4) * by_seed.std(ddof=1) / sqrt(5)
        assert row["value"] == pytest.approx(by_seed.mean())
        assert (row["low"], row["high"]) == pytest.approx(
            (by_seed.mean() - half, by_seed.mean() + half)
        )
        assert row["p"] == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
    assert effects(table[:2], names[:2]).empty
    assert effects(table[:, :1], names)["low"].isna().all()


def name_at(names: list[str], place: int) -> np.ndarray:
    return np.array([name.split(">")[place] for name in names])


def test_of_all_orders_of_three_tasks_effects_are_not_shrunk() -> None:
    """Planted effects on all 6 orders: slope 1 of estimate on truth, and 95 % hold the truth."""
    rng, names = np.random.default_rng(0), every(3)
    held, products = [], np.zeros(2)
    for _ in range(300):
        truth = 3 * rng.normal(size=6)
        found = effects(truth[:, None] + 2 * rng.normal(size=(6, 3)), names)
        exact = effects(truth[:, None], names)["value"]
        held += list(found["low"].le(exact) & found["high"].ge(exact))
        products += [found["value"] @ exact, exact @ exact]
    assert products[0] / products[1] == pytest.approx(1, abs=0.03)
    assert 0.93 < np.mean(held) < 0.97


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_effects_are_combinations_of_coefficients(n: int) -> None:
    x = features([tuple(name.split(">")) for name in every(n)], "abcde"[:n])
    pairs = n * (n - 1) // 2
    scale = np.array([4.0] * pairs + [float(n)] * n)
    by_enumeration = scale[:, None] * (x.T @ x) / len(x)
    np.testing.assert_allclose(population_effects(n), by_enumeration, atol=1e-12)


def test_what_the_orders_do_not_tell_has_no_value() -> None:
    """Every five of the six orders, and ten of 24 drawn 20 times: by the rank of the rows."""
    for n, chosen in (
        (3, list(combinations(range(6), 5))),
        (4, [tuple(np.random.default_rng(k).permutation(24)[:10]) for k in range(20)]),
    ):
        names, tasks = every(n), "abcde"[:n]
        wanted = population_effects(n)
        for kept in chosen:
            ran = [names[k] for k in kept]
            x = features([tuple(name.split(">")) for name in ran], tasks)
            centred = x - x.mean(axis=0)
            # An effect is told where adding it to the rows does not raise their rank.
            rank = np.linalg.matrix_rank(centred)
            told = [np.linalg.matrix_rank(np.vstack([centred, row])) == rank for row in wanted]
            assert estimable(x, wanted).tolist() == told
            found = effects(np.random.default_rng(0).normal(size=(len(ran), 3)), ran)
            assert found["value"].notna().tolist() == told
            spare = len(ran) - 1 - rank  # orders that are left to tell the misfit
            assert found["low"].notna().tolist() == [bool(spare) and one for one in told]
            assert found["note"].isna().tolist() == told


def test_a_task_that_is_never_last_has_its_reason() -> None:
    ran = [name for name in FOUR if not name.endswith("d")]
    found = effects(np.random.default_rng(0).normal(size=(18, 3)), ran)
    row = found[(found["effect"] == Effect.LAST) & (found["task"] == "d")].iloc[0]
    assert np.isnan(row["value"])
    assert row["note"] is Untold.ONE_GROUP
    aliased = effects(np.random.default_rng(0).normal(size=(4, 3)), FOUR[:23:6])
    assert set(aliased["note"]) >= {Untold.CONFOUNDED}


def test_effects_of_a_sample_of_an_additive_gap_are_those_of_all_orders() -> None:
    table, exact = effects(gaps(DRAWN[:14]), DRAWN[:14]), effects(gaps(FOUR), FOUR)
    both = table.merge(exact, on=["effect", "task", "other"], suffixes=("", "/exact"))
    assert len(both) == 10
    np.testing.assert_allclose(both["value"], both["value/exact"], atol=1e-9)


def test_the_interval_of_an_effect_of_a_sample_holds_the_effect_over_all_orders() -> None:
    """With order effects that the model has no term for, weak or strong ones alike."""
    rng, held = np.random.default_rng(0), []
    x = features([tuple(order.split(">")) for order in FOUR], "abcd")
    for k in range(150):
        truth = (k % 3) * (x @ rng.normal(size=10)) + rng.normal(size=24)
        exact = effects(truth[:, None], FOUR)["value"][:10]
        drawn = rng.permutation(24)[:16]
        table = truth[drawn][:, None] + rng.normal(size=(1, 4)) + rng.normal(size=(16, 4))
        found = effects(table, [FOUR[k] for k in drawn])
        told = found["value"].notna()
        held += (found["low"].le(exact) & found["high"].ge(exact))[told].tolist()
    assert 0.92 < np.mean(held) < 0.99


def test_where_nothing_comes_of_precedence_an_interval_is_not_a_point() -> None:
    table = effects(np.random.default_rng(0).normal(size=(20, 4)), DRAWN[:20])
    assert (table["high"] - table["low"] > 0.1).all()
    assert (table["low"] < 0).mean() > 0.7


def test_a_sample_of_orders_makes_effects_less_sure() -> None:
    table = gaps(DRAWN, noise=0.05) + np.random.default_rng(3).normal(size=(24, 1))
    whole, part = effects(table, DRAWN), effects(table[:16], DRAWN[:16])
    assert (part["high"] - part["low"]).mean() > 2 * (whole["high"] - whole["low"]).mean()


def test_the_map_says_who_hurts_whom() -> None:
    hurt = gaps(FOUR, noise=0.05)
    calm = 5 + 0.05 * np.random.default_rng(2).normal(size=hurt.shape)
    table = precedence_map({"a": calm, "b": hurt}, FOUR).set_index(["earlier", "task"])
    assert table.loc[("a", "b"), "value"] == pytest.approx(4, abs=0.2)
    assert table.loc[("a", "b"), "low"] < 4.2 < table.loc[("a", "b"), "high"] + 0.3
    assert abs(table.loc[("b", "a"), "value"]) < 0.2
    assert len(table) == 2 * 4  # three others and being last, of two tasks


def test_a_map_of_nothing_has_an_outline_in_a_twentieth_of_studies() -> None:
    rng, any_by_holm, any_by_itself = np.random.default_rng(0), [], []
    for _ in range(200):
        found = precedence_map({task: rng.normal(size=(6, 5)) for task in "abc"}, every(3))
        any_by_holm.append((found["p_holm"] < 0.05).any())
        any_by_itself.append((found["p"] < 0.05).any())
    assert np.mean(any_by_holm) < 0.08
    assert np.mean(any_by_itself) > 0.15


# --- the model-assisted mean -------------------------------------------------------------------


def test_of_an_additive_gap_the_assisted_mean_is_exact() -> None:
    found = assisted(gaps(DRAWN[:16], noise=1e-6), DRAWN[:16], 24)
    plain = moments(gaps(DRAWN[:16], noise=1e-6), 24)
    assert float(found.mean) == pytest.approx(5 + 2 - 0.5, abs=1e-3)
    assert abs(float(plain.mean) - 6.5) > 0.05
    assert float(found.half_width()) < float(plain.half_width()) / 20


def test_it_is_the_plain_mean_of_few_orders_and_of_all() -> None:
    assert enough_orders(14, 4, 24)
    assert not enough_orders(13, 4, 24)
    assert not enough_orders(24, 4, 24)
    for k in (13, 24):
        table = gaps(DRAWN[:k], noise=1.0)
        found, plain = assisted(table, DRAWN[:k], 24), moments(table, 24)
        assert float(found.mean) == float(plain.mean)
        assert float(found.half_width()) == float(plain.half_width())


def test_with_a_model_that_says_nothing_it_is_the_plain_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(x: np.ndarray, y: np.ndarray) -> Ridge:
        return Ridge(np.zeros((x.shape[1], len(y))), np.inf, 1.0)

    monkeypatch.setattr(import_module("l2kd_ray.analysis.assisted"), "fit", nothing)
    table = gaps(DRAWN[:15], noise=1.0)  # five folds of three
    found, plain = assisted(table, DRAWN[:15], 24), moments(table, 24)
    for name in ("mean", "order", "seed"):
        assert float(getattr(found, name)) == pytest.approx(float(getattr(plain, name)))


def test_each_fold_corrects_the_models_sum_over_all_orders() -> None:
    table, every = gaps(DRAWN[:16], noise=2.0), [tuple(order.split(">")) for order in FOUR]
    x, seen_at = features(every, "abcd"), [FOUR.index(order) for order in DRAWN[:16]]
    values, folds = table.mean(axis=1), []
    for fold in range(5):
        seen = np.arange(16) % 5 != fold
        at = np.array(seen_at)
        slope = fit(x[at[seen]], values[seen]).smoother @ values[seen]
        level = values[seen].mean() - x[at[seen]].mean(axis=0) @ slope
        model = level + x @ slope
        unseen = np.setdiff1d(np.arange(24), at[seen])
        wrong = (values[~seen] - model[at[~seen]]).mean()
        folds.append((values[seen].sum() + model[unseen].sum() + len(unseen) * wrong) / 24)
    assert float(assisted(table, DRAWN[:16], 24).mean) == pytest.approx(np.mean(folds))


def test_it_is_unbiased_over_the_draw_of_orders_even_where_the_model_is_wrong() -> None:
    rng = np.random.default_rng(0)
    truth = rng.exponential(size=24) * 5
    off = []
    for _ in range(600):
        drawn = rng.permutation(24)[:15]
        found = assisted(truth[drawn][:, None] * np.ones(2), [FOUR[k] for k in drawn], 24)
        off.append(float(found.mean) - truth.mean())
    assert np.mean(off) == pytest.approx(0, abs=4 * np.std(off) / sqrt(len(off)))


# --- best and worst ----------------------------------------------------------------------------


def test_the_extremes_of_an_additive_gap_are_found_unseen() -> None:
    table = gaps(DRAWN[:15], noise=0.05)
    truth = dict(zip(FOUR, gaps(FOUR).mean(axis=1), strict=True))
    found = extremes(table, DRAWN[:15]).set_index("which")
    for which, value in (("best", 3.0), ("worst", 9.0)):
        row = found.loc[which]
        assert truth[row["order"]] == pytest.approx(value)
        assert row["low"] < value < row["high"]
        assert row["value"] == pytest.approx(value, abs=0.3)
        assert row["ran"] == (row["order"] in DRAWN[:15])


def test_of_all_orders_without_noise_the_extremes_are_those_seen() -> None:
    truth = np.random.default_rng(5).normal(size=24)
    table = truth[:, None] + 1e-4 * np.random.default_rng(6).normal(size=(24, 3))
    found = extremes(table, FOUR).set_index("which")
    assert found.loc["worst", "order"] == FOUR[int(truth.argmax())]
    assert found.loc["best", "order"] == FOUR[int(truth.argmin())]
    assert found.loc["worst", "value"] == pytest.approx(truth.max(), abs=0.01)


def test_noise_alone_is_not_taken_for_a_worst_order() -> None:
    table = np.random.default_rng(7).normal(size=(24, 4))
    found = extremes(table, FOUR).set_index("which")
    raw = table.mean(axis=1)
    assert found.loc["worst", "value"] - table.mean() < 0.7 * (raw.max() - raw.mean())
    assert found.loc["worst", "low"] < table.mean() < found.loc["worst", "high"]


def test_a_seeds_own_precedence_effects_are_noise() -> None:
    rng = np.random.default_rng(0)
    x = features([tuple(order.split(">")) for order in FOUR], "abcd")
    signal, apparent = [], []
    for _ in range(60):
        table = x @ rng.normal(size=(10, 4)) + 0.1 * rng.normal(size=(24, 4))
        signal.append(_Predictor.of(x, np.arange(24), table).tau2)
        model = fit(x, table.mean(axis=1))
        apparent.append(model.noise / model.penalty)
    assert np.mean(apparent) == pytest.approx(1 / 4, rel=0.3)  # of 4 seeds
    assert np.mean(signal) < 0.4 * np.mean(apparent)


def test_the_interval_of_an_extreme_holds_what_other_seeds_say_of_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = extremes(rng.normal(size=(24, 4)), FOUR)
        assert (found["low"] <= found["crossed"]).all()
        assert (found["crossed"] <= found["high"]).all()
        worst = found.set_index("which").loc["worst"]
        assert worst["low"] <= worst["value"] <= worst["high"]


def test_too_few_orders_seeds_or_too_many_tasks_have_no_extremes() -> None:
    assert extremes(gaps(DRAWN[:8], noise=1), DRAWN[:8]).empty
    assert extremes(gaps(FOUR, noise=1, seeds=2), FOUR).empty
    many = [">".join(order) for order, _ in zip(permutations("abcdefghi"), range(80), strict=False)]
    assert extremes(gaps(many, noise=1), many).empty


def test_an_effect_lies_in_the_middle_of_its_interval() -> None:
    """Of each pair in both directions: turned round, the bounds change places."""
    table = gaps(DRAWN, noise=1.0)
    rows = precedence_map(dict.fromkeys("abcd", table), DRAWN)
    below, above = rows["value"] - rows["low"], rows["high"] - rows["value"]
    assert len(rows) == 4 * 4
    assert (below > 0).all()
    np.testing.assert_allclose(below, above)
    pairs = rows[rows["earlier"] != ""].set_index(["earlier", "task"])
    assert pairs.loc[("a", "b"), "low"] == pytest.approx(-pairs.loc[("b", "a"), "high"])
