"""Task orders: all of them, a seeded sample, a balanced square, or a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, permutations
from math import factorial

import numpy as np

from l2kd_ray.errors import InputError
from l2kd_ray.families.method import Order
from l2kd_ray.names import SEPARATOR
from l2kd_ray.study.sections import OrdersSetting, RandomOrders, SearchOrders


def order_id(order: Sequence[str]) -> str:
    """The form of an order in the result files: `a>b>c`."""
    return SEPARATOR.join(order)


def orders_of(tasks: Sequence[str], orders: OrdersSetting, data_seed: int) -> list[Order]:
    """The orders of a study, in the sequence in which they are run.

    `random: k` is the prefix of one seeded permutation of all orders, and `all` is the whole of it.
    So a larger k keeps the former orders, and an unfinished study is a random sample of all orders,
    balanced over first and last tasks (`_blocks`).
    `williams` is a design balanced for carry-over: every task stands once at each position and
    follows every other task equally often (n orders for even n, 2 n for odd n).

    Raises: InputError if more orders are requested than there are.
    """
    if isinstance(orders, RandomOrders):
        possible = factorial(len(tasks))
        if orders.random > possible:
            raise InputError(
                "more orders are asked for than there are",
                key="orders.random",
                got=orders.random,
                expected=f"at most {possible} for {len(tasks)} tasks",
                fix="write orders: all",
            )
        return _sample(tasks, orders.random, data_seed)
    if isinstance(orders, SearchOrders):
        return _sample(tasks, orders.drawn(len(tasks)), data_seed)
    if orders == "williams":
        return williams(tasks)
    if orders == "all":
        return _sample(tasks, factorial(len(tasks)), data_seed)
    return list(orders)


_CANDIDATES = factorial(8)
"""Orders that a search looks through: all of them up to eight tasks."""


def candidates(tasks: Sequence[str], budget: int, data_seed: int) -> list[Order]:
    """The orders that a search over orders may propose, in the sequence of the sample.

    They begin with those drawn before the search. Of more than eight tasks, a part of all n!.
    """
    return _sample(tasks, min(factorial(len(tasks)), _CANDIDATES + budget), data_seed)


def neighbours(order: Order) -> list[Order]:
    """The orders in which two adjacent tasks have changed places."""
    return [(*order[:k], order[k + 1], order[k], *order[k + 2 :]) for k in range(len(order) - 1)]


def _sample(tasks: Sequence[str], wanted: int, seed: int) -> list[Order]:
    """`wanted` distinct orders; each is equally likely to be any of all n! (see `_blocks`).

    The draw does not depend on the order in which the study lists its tasks.
    """
    return list(islice(_blocks(sorted(tasks), np.random.default_rng([seed, len(tasks)])), wanted))


def _blocks(tasks: Sequence[str], stream: np.random.Generator) -> Iterator[Order]:
    """All orders in blocks of n: in a block every task is first once and last once.

    One task that is hard when it comes last decides the gap of every n-th order; a simple random
    sample of a few orders may miss it, and its variance is then far too small. A block cannot, so
    that the variance of simple random sampling errs on the wide side for such effects, and not for
    those of what stands between (docs/metrics.md).
    A block shifts a random ring of the tasks: what is first at i is last at i + shift. The n - 1
    shifts of a ring have every pair of a first and a last task once. What stands between is drawn
    without replacement. No step looks at a task's name, so every order is equally likely.
    """
    n = len(tasks)
    if n < 2:
        yield tuple(tasks)
        return
    between = {
        (first, last): _permutations([task for task in tasks if task not in (first, last)], draw)
        for (first, last), draw in zip(permutations(tasks, 2), stream.spawn(n * n - n), strict=True)
    }
    for _ in range(factorial(n - 2)):
        ring = [tasks[index] for index in stream.permutation(n)]
        for shift in 1 + stream.permutation(n - 1):
            for start in stream.permutation(n):
                first, last = ring[start], ring[(start + shift) % n]
                yield (first, *next(between[first, last]), last)


def _permutations(tasks: Sequence[str], stream: np.random.Generator) -> Iterator[Order]:
    """All permutations, each once, in random sequence."""
    if len(tasks) <= 6:  # 720 at most: shuffling them all avoids duplicates
        every = list(permutations(tasks))
        yield from (every[index] for index in stream.permutation(len(every)))
        return
    drawn: set[Order] = set()
    while True:
        order = tuple(tasks[index] for index in stream.permutation(len(tasks)))
        if order not in drawn:
            drawn.add(order)
            yield order


def williams(tasks: Sequence[str]) -> list[Order]:
    """Williams's design (1949): the first row goes 0, 1, n-1, 2, n-2, ..., the others add 1."""
    n = len(tasks)
    first = [0] + [(k + 1) // 2 if k % 2 else n - k // 2 for k in range(1, n)]
    square = [tuple(tasks[(position + shift) % n] for position in first) for shift in range(n)]
    mirrored = [order[::-1] for order in square] if n % 2 else []
    return list(dict.fromkeys(square + mirrored))


WINDOW = 6
"""Number of orders begun together: no look at the results needs fewer (`analysis.looks`)."""


def spread(orders: Sequence[Order]) -> list[Order]:
    """The orders, rearranged so that neighbours begin with different tasks.

    The first wave of trials then does not wait for one shared first stage. No order leaves its
    window of the sequence.
    """
    windows = [orders[start : start + WINDOW] for start in range(0, len(orders), WINDOW)]
    return [order for window in windows for order in _apart(window)]


def _apart(orders: Sequence[Order]) -> list[Order]:
    queues: dict[Order, list[Order]] = {}
    for order in orders:
        queues.setdefault(order[:1], []).append(order)
    longest = max(map(len, queues.values()), default=0)
    return [queue[k] for k in range(longest) for queue in queues.values() if k < len(queue)]
