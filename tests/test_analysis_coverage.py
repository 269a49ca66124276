"""The benchmark of coverage, small: its made-up studies are what they claim, its rows are rows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "coverage.py"
spec = importlib.util.spec_from_file_location("coverage_of_intervals", FILE)
assert spec is not None
assert spec.loader is not None
coverage = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = coverage
spec.loader.exec_module(coverage)


def test_a_made_up_study_is_what_it_claims() -> None:
    trie, world = coverage.Trie.of(4), coverage.WORLDS[0]
    rng = np.random.default_rng(0)
    truth = trie.truth(world, rng, 50)
    assert np.abs(truth.mean(axis=1)).max() < 1e-9
    assert truth.std(axis=1).mean() == pytest.approx(world.orders, rel=0.1)

    # Orders share the noise of their common beginning: the longer, the more.
    noise = trie.noise(coverage.World("", 0, node=1, teacher=0, multitask=0), rng, 1, 20_000)[0]
    assert trie.orders[0][:2] == trie.orders[1][:2]
    alike = [np.corrcoef(noise[0], noise[k])[0, 1] for k in (1, 2, 23)]
    keep = np.cumprod([1, 0.64, 0.64, 0.64])[::-1]  # variance of a node's noise at the end
    shared = [keep[:2].sum(), keep[:1].sum(), 0]
    assert alike == pytest.approx([part / keep.sum() for part in shared], abs=0.03)


@pytest.mark.parametrize("part", sorted(coverage.PARTS))
def test_every_part_gives_rows(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "WORLDS", coverage.WORLDS[:3])
    rows = []
    for row in coverage.rows([part], repeats=64):
        rows.append(row)
        if len(rows) == 3:
            break
    for row in rows:
        assert set(row) == {"part", "what", "median", "low", "high", "n", "unit"}
        assert row["part"] == part
        assert row["low"] <= row["median"] <= row["high"]


def test_the_share_of_held_intervals_is_near_what_is_asked() -> None:
    trie, held = coverage.Trie.of(3), []
    for gaps, _, _ in coverage.studies(trie, coverage.WORLDS[2], 4, 2000):
        found = coverage.moments(gaps[:, :4], 6)
        held.append(np.abs(found.mean) <= found.half_width())
    assert 0.94 < np.concatenate(held).mean() < 0.98  # 4 of 6 orders: rather too wide


@pytest.mark.parametrize(("tasks", "ran"), [(4, 6), (4, 12), (5, 10), (5, 15)])
def test_a_hard_last_task_is_in_every_sample_of_orders(tasks: int, ran: int) -> None:
    """As orders are drawn, the interval holds; of orders that are drawn singly it does not."""
    trie = coverage.Trie.of(tasks)
    world = coverage.World("", orders=0.3, node=0.3, teacher=0.3, multitask=0.3, last=20.0)
    rng = np.random.default_rng(0)
    gaps = trie.truth(world, rng, 1500)[:, :, None] + trie.noise(world, rng, 1500, 5)
    count = len(trie.orders)
    blocks = trie.drawn[rng.integers(len(trie.drawn), size=1500)]
    singly = rng.permuted(np.tile(np.arange(count), (1500, 1)), axis=1)

    def held(drawn: np.ndarray) -> float:
        seen = np.take_along_axis(gaps, drawn[:, :ran, None], axis=1)
        found = coverage.moments(seen, count)
        return float((np.abs(found.mean) <= found.half_width()).mean())

    assert held(blocks) > 0.95
    assert held(singly) < 0.94 or ran > 10
