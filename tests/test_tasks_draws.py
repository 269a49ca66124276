"""Carve and cap: partitions, deterministic, prefix-stable, without leaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.tasks import Example
from l2kd_ray.tasks.draws import cap, carve, shuffled

# Few contexts and groups, so that many rows share one.
examples = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from([None, None, "g", "h"])), min_size=1, max_size=40
).map(
    lambda rows: [
        Example(str(n), f"context {context}", "?", ("a",), group)
        for n, (context, group) in enumerate(rows)
    ]
)
seeds = st.integers(0, 5)


@settings(max_examples=100)
@given(rows=examples, fraction=st.floats(0.05, 0.5), seed=seeds)
def test_carve_is_a_partition_without_leaks(rows: Any, fraction: float, seed: int) -> None:
    def side(name: Any) -> list[Example]:
        return carve(rows, dev_fraction=fraction, side=name, data_seed=seed, task="t")

    train, dev = side("train"), side("dev")
    assert sorted(train + dev, key=lambda e: int(e.id)) == rows
    assert len(dev) >= fraction * len(rows)
    ungrouped = [[e.context for e in part if e.group is None] for part in (train, dev)]
    assert not set(ungrouped[0]) & set(ungrouped[1])
    assert not {e.group for e in train if e.group} & {e.group for e in dev if e.group}
    assert dev == side("dev")


@settings(max_examples=100)
@given(rows=examples, size=st.integers(1, 45), seed=seeds)
def test_cap_is_a_sample_in_order_and_grows_by_adding(rows: Any, size: int, seed: int) -> None:
    kept = cap(rows, size, data_seed=seed, task="t")
    ids = [int(e.id) for e in kept]
    assert len(kept) == min(size, len(rows))
    assert ids == sorted(set(ids))
    assert set(ids) <= {int(e.id) for e in cap(rows, size + 1, data_seed=seed, task="t")}


def test_cap_keeps_dialogues_from_their_start() -> None:
    rows = [
        Example(f"{d}{t}", f"{d} {t}", "?", ("a",), f"d{d}") for d in range(6) for t in range(4)
    ]
    kept = cap(rows, 10, data_seed=3, task="t")
    turns = {
        group: [e.id[1] for e in kept if e.group == group] for group in {e.group for e in kept}
    }
    assert sorted(len(turn) for turn in turns.values()) == [2, 4, 4]
    assert all(turn == [str(t) for t in range(len(turn))] for turn in turns.values())


def test_draws_of_any_character_are_the_same_in_every_python() -> None:
    """U+1FA77 is of Unicode 15, so that `repr` escapes it up to Python 3.11; U+0378 is nothing."""
    texts = ("\U0001fa77", "\u0378", "\u00e9", "a", "'", "\n")
    rows = [Example(str(n), f"{text} {n}", "?", ("x",)) for n, text in enumerate(texts * 2)]
    dev = carve(rows, dev_fraction=0.4, side="dev", data_seed=0, task="t")
    # Pinned, as of a Python of any version.
    assert [row.id for row in dev] == ["1", "3", "5", "9", "11"]
    grouped = [replace(row, group=row.context) for row in rows]
    kept = cap(grouped, 4, data_seed=0, task="\U0001fa77")
    assert [row.id for row in kept] == ["1", "2", "9", "10"]


def test_draws_depend_on_seed_stream_and_task_and_on_nothing_else() -> None:
    def order(data_seed: int = 0, stream: str = "s", task: str = "t") -> list[int]:
        return shuffled(range(50), data_seed=data_seed, stream=stream, task=task)

    assert order() == order()
    assert len({tuple(o) for o in (order(), order(1), order(stream="x"), order(task="x"))}) == 4
    # Pinned: the data of published studies must not change with a version of anything.
    assert order()[:8] == [4, 6, 46, 43, 2, 39, 41, 36]
