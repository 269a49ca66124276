"""Other summaries: by hand, and how often their intervals hold."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from helpers.synthetic_study import study
from scipy import stats

from l2kd_ray.analysis import Design, cells, results
from l2kd_ray.analysis.findings import find
from l2kd_ray.analysis.summaries import (
    improvement,
    interquartile,
    interquartile_mean,
    profile,
    summaries,
)

SEEDS = tuple(str(seed) for seed in range(1, 6))


def test_the_interquartile_mean_leaves_a_quarter_out_on_both_sides() -> None:
    values = np.array([[100.0, 1, 2, 3], [4, 5, 6, -50]])
    assert interquartile_mean(values) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean(values) == stats.trim_mean(values, 0.25, axis=None)


def test_shares_by_hand() -> None:
    gaps = np.array([[[1.0, 3, 9, 2, 4]], [[6, 1, 1, 30, 2]]])  # two tasks, an order, five seeds
    against = np.full_like(gaps, 3.0)
    by_seed = np.array([0.5, 0.75, 0.5, 0.5, 0.5])  # the second ties on one task
    found = improvement(gaps, against, 0.95)
    half = stats.t.ppf(0.975, 4) * by_seed.std(ddof=1) / sqrt(5)
    assert (found.value, found.low, found.high) == pytest.approx((0.55, 0.55 - half, 0.55 + half))
    two, five, *_ = profile(gaps, 0.95)
    assert (two.value, five.value) == (0.5, 0.7)
    assert 0 <= five.low <= five.value <= five.high <= 1
    assert not two.bounded  # all seeds agree
    assert not improvement(gaps[..., :4], against[..., :4], 0.95).bounded  # four seeds


@pytest.mark.parametrize("seeds", [5, 10])
def test_their_intervals_hold(seeds: int) -> None:
    rng = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        noise = 3 * rng.normal(size=(1, 1, count)) + 3 * rng.normal(size=(3, 6, count))
        levels = np.array([0.0, 5, 12])[:, None, None] + np.linspace(0, 5, 6)[None, :, None]
        return np.asarray(levels + noise)

    many, other = draw(20_000), draw(20_000) - 1
    truth = interquartile_mean(many), (other < many).mean(), (many <= 5).mean()
    held = []
    for _ in range(300):
        gaps = draw(seeds)
        found = (
            interquartile(gaps, 0.95),
            improvement(draw(seeds) - 1, gaps, 0.95),
            profile(gaps, 0.95)[1],
        )
        held.append([one.low <= value <= one.high for one, value in zip(found, truth, strict=True)])
    assert (np.mean(held, axis=0) > 0.9).all()
    assert (np.mean(held, axis=0) < 0.99).all()


def test_the_frame_is_of_the_used_orders_of_each_method() -> None:
    scores = study(seeds=SEEDS)
    orders = tuple(sorted(set(scores["order"]) - {""}))
    found = find(scores, (), Design("all", orders, SEEDS))
    frame = summaries(found.scope, found.tasks).set_index("method")
    rows = results(scores)
    own, base = (
        np.stack(
            [
                cells(rows[rows["method"] == m], f"gap/{t}", orders, SEEDS).by_seed
                for t in found.tasks
            ]
        )
        for m in ("finetune", "lamol")
    )
    assert frame.loc["finetune", "iqm"] == pytest.approx(interquartile_mean(own))
    assert frame.loc["finetune", "better"] == pytest.approx((own < base).mean())
    assert frame.loc["finetune", "within/10"] == pytest.approx((own <= 10).mean())
    assert np.isnan(frame.loc["lamol", "better"])
