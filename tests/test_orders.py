"""Orders: as many as asked for, each once, the same for everyone."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2kd_ray.errors import InputError
from l2kd_ray.study.orders import WINDOW, orders_of, spread, williams
from l2kd_ray.study.sections import RandomOrders

sizes = st.integers(1, 6)


def names(n: int) -> list[str]:
    return [f"t{k}" for k in range(n)]


@given(sizes)
def test_all_are_all(n: int) -> None:
    orders = orders_of(names(n), "all", 0)
    assert len(orders) == len(set(orders)) == math.factorial(n)


@given(sizes, st.data(), st.integers(0, 5))
def test_a_sample_is_distinct_and_a_prefix_of_a_larger_one(
    n: int, data: st.DataObject, seed: int
) -> None:
    k = data.draw(st.integers(1, math.factorial(n)))
    large = orders_of(names(n), RandomOrders(random=math.factorial(n)), seed)
    small = orders_of(names(n), RandomOrders(random=k), seed)
    assert small == large[:k]
    assert len(set(large)) == math.factorial(n)


def test_a_sample_of_many_tasks_needs_no_list_of_all_orders() -> None:
    orders = orders_of(names(12), RandomOrders(random=50), 0)
    assert len(set(orders)) == 50
    assert orders[:20] == orders_of(names(12), RandomOrders(random=20), 0)


def test_a_sample_does_not_depend_on_how_the_tasks_are_listed() -> None:
    wanted = RandomOrders(random=5)
    assert orders_of(names(4), wanted, 1) == orders_of(names(4)[::-1], wanted, 1)


def test_more_orders_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="at most 6"):
        orders_of(names(3), RandomOrders(random=7), 0)


@given(st.integers(2, 9))
def test_williams_is_balanced(n: int) -> None:
    orders = williams(names(n))
    assert len(orders) == (2 * n if n % 2 else n) or n == 2
    for place in range(n):
        assert len(set(Counter(order[place] for order in orders).values())) == 1
    follows = Counter(pair for order in orders for pair in pairwise(order))
    assert len(follows) == n * (n - 1)
    assert len(set(follows.values())) == 1


@given(sizes)
def test_neighbours_begin_with_different_tasks_and_stay_in_their_window(n: int) -> None:
    orders = orders_of(names(n), "all", 0)
    mixed = spread(orders)
    for start in range(0, len(orders), WINDOW):
        window, former = mixed[start : start + WINDOW], orders[start : start + WINDOW]
        assert sorted(window) == sorted(former)
        different = {order[0] for order in former}
        assert {order[0] for order in window[: len(different)]} == different


@given(sizes, st.integers(0, 5))
def test_all_orders_come_in_the_sequence_that_samples_are_taken_from(n: int, seed: int) -> None:
    every = orders_of(names(n), "all", seed)
    assert sorted(every) == sorted(permutations(names(n)))
    k = 1 + len(every) // 2
    assert every[:k] == orders_of(names(n), RandomOrders(random=k), seed)


@given(st.integers(2, 6), st.integers(0, 5))
def test_every_block_has_each_task_first_once_and_last_once(n: int, seed: int) -> None:
    orders = orders_of(names(n), "all", seed)
    for start in range(0, len(orders), n):
        block = orders[start : start + n]
        assert {order[0] for order in block} == {order[-1] for order in block} == set(names(n))


def test_every_order_is_equally_likely_at_every_place() -> None:
    """The mean over any prefix is then unbiased for the mean over all orders."""
    seen = [orders_of(names(3), "all", seed) for seed in range(3000)]
    for place in range(6):
        counts = Counter(orders[place] for orders in seen)
        assert len(counts) == 6
        assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 20.5  # chi2(5), 0.1 %
