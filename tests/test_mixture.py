"""The sampler of MKD: one task a mini-batch, each task's batches once an epoch."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.families.mixture import Mixture

SIZES = {"b": 11, "a": 4, "c.d": 1}


@settings(max_examples=40)
@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 30), min_size=1),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_the_union_of_an_epochs_batches_is_the_data(
    sizes: dict[str, int], batch_size: int, seed: int, epoch: int
) -> None:
    mixture = Mixture(sizes, batch_size, seed)
    batches = mixture.epoch(epoch)
    seen = Counter((batch.task, place) for batch in batches for place in batch.examples)
    assert seen == Counter((task, place) for task, size in sizes.items() for place in range(size))
    counts = Counter(batch.task for batch in batches)
    assert counts == {task: math.ceil(size / batch_size) for task, size in sizes.items()}
    assert len(batches) == mixture.steps_per_epoch
    assert all(len(batch.examples) <= batch_size for batch in batches)


def test_any_step_can_be_gone_to() -> None:
    mixture = Mixture(SIZES, 3, seed=7)
    steps = 3 * mixture.steps_per_epoch
    whole = list(islice(mixture.batches(0), steps))
    assert whole == [batch for epoch in range(3) for batch in mixture.epoch(epoch)]
    for step in range(steps + 1):
        assert list(islice(mixture.batches(step), steps - step)) == whole[step:]


def test_neither_the_listing_nor_other_tasks_change_a_tasks_batches() -> None:
    one, other = Mixture(SIZES, 3, 7), Mixture(dict(reversed(SIZES.items())), 3, 7)
    assert one.epoch(1) == other.epoch(1)
    alone = Mixture({"b": 11}, 3, 7).epoch(1)
    assert {b for b in one.epoch(1) if b.task == "b"} == set(alone)


def test_epochs_and_seeds_differ_and_tasks_are_mixed() -> None:
    mixture = Mixture({"a": 40, "b": 40}, 2, 0)
    assert mixture.epoch(0) != mixture.epoch(1)
    assert mixture.epoch(0) != Mixture({"a": 40, "b": 40}, 2, 1).epoch(0)
    first_half = Counter(batch.task for batch in mixture.epoch(0)[:20])
    assert min(first_half["a"], first_half["b"]) > 4
