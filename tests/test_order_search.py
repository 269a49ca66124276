"""The search for the worst or the best order: what it proposes, and what its report may say."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, permutations
from math import factorial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from helpers.scored import Score, Scored, run
from helpers.studies import age, keys

from l2kd_ray.analysis.design import Design
from l2kd_ray.analysis.extreme import OrderSearch, order_search, predict
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.experiment import Experiment
from l2kd_ray.forecast.trie import trie_of
from l2kd_ray.names import SEPARATOR
from l2kd_ray.report.blocks import Document
from l2kd_ray.report.markdown import markdown
from l2kd_ray.report.search_section import search_section
from l2kd_ray.study import Study, inline
from l2kd_ray.study.agenda import batches, design_of, most, wanted
from l2kd_ray.study.garbage import find_garbage
from l2kd_ray.study.orders import candidates, orders_of
from l2kd_ray.study.sections import SearchOrders
from l2kd_ray.study.snapshot import Snapshot

THREE = ["gen.rest", "gen.intent", "gen.tv"]
FOUR = [*THREE, "gen.hotel"]
FIVE = [*FOUR, "gen.slots"]
Order = tuple[str, ...]


def additive(tasks: list[str], seed: int) -> dict[Order, float]:
    """A score of each order: a sum over pairs and the last task, and a little of its own."""
    rng = np.random.default_rng(seed)
    pairs = {pair: rng.normal() for pair in permutations(sorted(tasks), 2)}
    last = {task: rng.normal() for task in sorted(tasks)}
    return {
        order: 50 + sum(pairs[pair] for pair in combinations(order, 2)) + last[order[-1]]
        for order in permutations(sorted(tasks))
    }


def by_dev(world: Mapping[Order, float]) -> Score:
    """Scores that dev has and test has not: there, the worst order is the best."""
    return lambda trial, split: (
        90.0 if not trial.order else world[trial.order] * (1 if split == "dev" else -1) + 100
    )


@pytest.fixture
def searched(tiny: Any) -> Any:
    def make(tasks: list[str], budget: int, goal: str = "worst", **changes: Any) -> Study:
        orders = {"search": goal, "budget": budget, **changes.pop("orders", {})}
        more = {"methods": ["finetune"], "seeds": [1], **changes}
        return tiny(tasks=tasks, orders=orders, **more)  # type: ignore[no-any-return]

    return make


# What is proposed


@pytest.mark.parametrize(
    ("tasks", "budget", "world"), [(FOUR, 16, 1), (FOUR, 16, 2), (FIVE, 30, 3)]
)
@pytest.mark.parametrize("goal", ["worst", "best"])
def test_it_finds_the_extreme_of_all_orders_with_few_of_them(
    searched: Any, tasks: list[str], budget: int, world: int, goal: str
) -> None:
    truth = additive(tasks, world)
    study = searched(tasks, budget, goal)
    done, _, _ = run(study, by_dev(truth))
    tried = {trial.order for batch in done for trial in batch if trial.order}
    assert len(tried) == budget < factorial(len(tasks))
    extreme = min if goal == "worst" else max
    assert extreme(truth, key=truth.__getitem__) in tried
    drawn = {trial.order for trial in done[0] if trial.order}
    assert extreme(map(truth.get, tried)) != extreme(map(truth.get, drawn))  # the search found it


def test_half_is_drawn_and_only_the_searched_arm_goes_on(searched: Any) -> None:
    study = searched(FOUR, 15, methods=["finetune", "lamol"], orders={"method": "lamol"})
    done, _, _ = run(study, by_dev(additive(FOUR, 1)))
    drawn = orders_of(FOUR, SearchOrders(search="worst", budget=15), 0)
    assert study.orders == drawn == candidates(FOUR, 15, 0)[:4]
    assert done[0] == study.trials()
    assert {trial.method for trial in done[0] if trial.order} == {"finetune", "lamol"}
    assert [len(batch) for batch in done[1:]] == [4, 4, 3]  # one seed
    assert {trial.method for batch in done[1:] for trial in batch} == {"lamol"}
    assert all(study.is_proposed(trial) for batch in done[1:] for trial in batch)
    assert not any(map(study.is_proposed, done[0]))


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(searched: Any) -> None:
    score, study = by_dev(additive(FOUR, 4)), searched(FOUR, 15)
    whole, _, _ = run(study, score)
    for ended in range(len(whole)):
        store: Any = Scored(score)
        for batch in whole[:ended]:
            store.run(batch)
        store.run(whole[ended][:1])  # of the next one a part
        again = Study(study.config, study.resolved)
        assert wanted(again, store).trials == [t for batch in whole[: ended + 1] for t in batch]
        assert not wanted(again, store).complete
        assert len(most(again, store)) == sum(map(len, whole))  # at any time
        rest = batches(again, store)
        for batch in whole:
            assert next(rest).trials == batch
            store.run(batch)


def test_an_order_that_failed_is_not_proposed_again(searched: Any) -> None:
    study = searched(FOUR, 16)
    store: Any = Scored(by_dev(additive(FOUR, 1)))
    failed, seen = set[str](), list[Order]()
    for batch in batches(study, store, failed):
        own = [trial for trial in batch.trials if trial.order]
        seen += [trial.order for trial in own]
        store.run([trial for trial in batch.trials if trial is not own[0]])
        failed.add(own[0].steps[-1][0].stage.model.key)
        for cell in own[0].steps[-1]:
            store.scores.pop(cell.stage.key, None)
    assert len(set(seen)) == len(seen) == 16
    found = wanted(study, store, failed)
    assert found.complete
    assert [trial.order for trial in found.trials if trial.order] == seen
    assert not wanted(study, store).complete


def test_a_forecast_has_the_trials_of_a_whole_search(searched: Any) -> None:
    study, store = searched(FOUR, 16, seeds=[1, 2]), cast(Any, Scored(lambda *_: 1.0))
    trials = most(study, store)
    assert len({trial.order for trial in trials if trial.order}) == 16
    assert len(trie_of(study, store).trials) == len(trials)


def test_of_equal_orders_the_first_of_the_sample_are_next(searched: Any) -> None:
    """Where nothing is found, the search goes on with the sample, and rounding decides nothing."""
    done, _, _ = run(searched(FOUR, 16), lambda *_: 50.0)
    tried = [trial.order for batch in done for trial in batch if trial.order]
    assert set(tried) == set(candidates(FOUR, 16, 0)[:16])
    orders = list(permutations("abcd"))
    noise = 1e-10 * np.random.default_rng(0).normal(size=24)
    assert not np.ptp(predict(orders[:12], 50 + noise[:12], orders))


def test_more_tasks_than_can_be_looked_through_have_their_neighbours_looked_at() -> None:
    tasks = [f"t{k}" for k in range(10)]
    pool = candidates(tasks, 40, 0)
    assert len(pool) == len(set(pool)) == 40_320 + 40 < factorial(10)


# What is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"orders": {"search": "worst", "budget": 7}}, r"orders\.budget.*8 to 24"),
        ({"orders": {"search": "worst", "budget": 25}}, r"orders\.budget.*orders: all"),
        ({"orders": {"search": "worst"}}, r"orders\.budget.*missing|missing.*orders\.budget"),
        ({"orders": {"search": "hard", "budget": 9}}, r"orders\.search.*hard"),
        ({"orders": {"search": "best", "budget": 9, "methd": "lamol"}}, r"methd.*budget, method"),
        ({"orders": {"search": "best", "budget": 9, "method": "l2kd"}}, r"orders\.method.*lamol"),
        ({"search": {"replay.ratio": {"grid": [0.1, 0.5]}}}, "orders cannot both be searched"),
        ({"tune": {"stop": {"half_width": 1}}}, r"tune\.stop\.half_width.*random: k"),
        ({"tasks": THREE[:2]}, r"three tasks or more.*orders: all"),
        ({"orders": {"random": 0}}, r"orders\.random"),
    ],
)
def test_a_search_that_cannot_be_is_refused(tiny: Any, changes: Any, said: str) -> None:
    base = {"tasks": FOUR, "methods": ["lamol"], "orders": {"search": "worst", "budget": 9}}
    with pytest.raises(InputError, match=f"(?s){said}"):
        tiny(**{**base, **changes})


def test_methods_without_an_order_have_none_to_search(tiny: Any) -> None:
    tasks = [f"made.topics.{name}" for name in "abc"]
    bert = {"arch": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(InputError, match=r"(?s)orders\.method.*orders: all"):
        tiny(
            tasks=tasks,
            methods=["metakd"],
            student=bert,
            orders={"search": "worst", "budget": 6},
            replay=None,
            tokenizer=None,
            evaluate=None,
            train={"epochs": 1},
        )


# What is said


def rows(orders: list[Order], table: np.ndarray) -> pd.DataFrame:
    """`results` of a method: gaps `[orders, seeds]`."""
    return pd.DataFrame(
        [
            ("m", "{}", SEPARATOR.join(order), str(seed), True, gap)
            for order, gaps in zip(orders, table, strict=True)
            for seed, gap in enumerate(gaps)
        ],
        columns=["method", "setting", "order", "seed", "complete", "gap/abs"],
    )


def search(
    orders: list[Order], drawn: int, dev: np.ndarray, test: np.ndarray, goal: Any = "worst"
) -> OrderSearch:
    names = tuple(map(SEPARATOR.join, orders))
    design = Design("random", names[:drawn], tuple(map(str, range(dev.shape[1]))))
    found = order_search(rows(orders, test), rows(orders, dev), "m", design, goal, len(orders))
    assert found is not None
    return found


def test_the_order_is_picked_on_dev_and_its_gap_is_of_test() -> None:
    orders = list(permutations("abc"))[:4]
    dev = np.array([[1.0, 2.0], [5.0, 6.0], [3.0, 3.0], [9.0, 1.0]])
    test = np.array([[8.0, 9.0], [1.0, 3.0], [4.0, 4.5], [0.0, 1.0]])
    worst = search(orders, 3, dev, test)
    assert list(worst.orders["order"]) == ["a>c>b", "b>c>a", "b>a>c", "a>b>c"]
    first = worst.orders.iloc[0]
    assert (first["dev"], first["gap"], bool(first["proposed"])) == (5.5, 2.0, False)
    base = test[:3].mean(axis=0)
    assert first["more"] == pytest.approx(2.0 - base.mean())
    # Student's t of two seeds at 1 - 0.05 / 6, of the paired differences to the drawn orders' mean
    quantile = 1 / np.tan(np.pi * 0.05 / 6 / 2)
    assert first["gap/high"] - first["gap"] == pytest.approx(
        quantile * np.std([1, 3], ddof=1) / 2**0.5
    )
    wide = quantile * np.std(test[1] - base, ddof=1) / 2**0.5
    assert first["more/high"] - first["more"] == pytest.approx(wide)
    assert search(orders, 3, dev, test, "best").orders["order"].iloc[0] == "a>b>c"


def test_an_order_without_a_seed_is_not_counted_and_says_nothing_of_the_rest() -> None:
    orders = list(permutations("abc"))[:4]
    table = np.arange(8.0).reshape(4, 2)
    found = search(orders, 3, table, table)
    assert (len(found.orders), found.drawn, found.beyond) == (4, 3, 2)
    table[0, 1] = np.nan
    found = search(orders, 3, table, table)
    assert (len(found.orders), found.drawn, found.beyond) == (3, 2, None)


def test_no_more_orders_can_be_beyond_than_were_not_tried() -> None:
    every = list(permutations("abc"))
    assert search(every[:4], 3, np.zeros((4, 2)), np.zeros((4, 2))).beyond == 2


def test_the_interval_holds_for_what_was_picked_for_its_luck() -> None:
    """No order is worse than another, and the seeds' noise is one that the search can follow."""
    rng, orders = np.random.default_rng(1), list(permutations("abcd"))
    held, plain = 0, 0
    for _ in range(150):
        worlds = [additive(list("abcd"), int(rng.integers(1 << 30))) for _ in range(6)]
        table = np.array([[world[order] for world in worlds] for order in orders])
        table -= table.mean(axis=0)
        tried = [int(k) for k in rng.permutation(24)[:4]]
        while len(tried) < 16:
            left = [k for k in range(24) if k not in tried]
            known = table[tried].mean(axis=1)
            guess = predict([orders[k] for k in tried], known, [orders[k] for k in left])
            tried += [left[int(k)] for k in np.argsort(-guess, kind="stable")[:4]]
        found = search([orders[k] for k in tried], 4, table[tried], table[tried])
        first = found.orders.iloc[0]
        held += first["gap/low"] <= 0 <= first["gap/high"]
        half = (first["gap/high"] - first["gap"]) * 2.571 / 5.6  # about Student's at 95 %
        plain += abs(first["gap"]) <= half
    assert held >= 0.95 * 150
    assert plain < 0.9 * 150  # one that is not told of the search does not


def words(found: OrderSearch) -> str:
    sections = tuple(search_section(found))
    return markdown(Document("t", "", "", (), (), sections))


def test_only_a_whole_search_speaks_of_all_orders() -> None:
    orders = list(permutations("abc"))
    table = np.arange(12.0).reshape(6, 2) + np.array([0.0, 0.5])
    part, whole = (words(search(orders[:k], 3, table[:k], table[:k])) for k in (5, 6))
    assert "**c › a › b** is the worst for m on dev" in part  # noqa: RUF001
    assert "1 order of all 6 did not run. With 95 % confidence at most 1 of all (16.7 %)" in part
    assert "All 6 orders ran: none is worse than it on dev with these seeds." in whole
    assert "did not run" not in whole
    assert "the worst of all" not in part.split("A model of")[0]


# Never mixed


def test_means_are_those_of_the_orders_drawn(searched: Any, tiny: Any) -> None:
    score = by_dev(additive(FOUR, 3))
    study = searched(FOUR, 12, methods=["finetune", "lamol"], seeds=[1, 2])
    done, _, store = run(study, score)
    plain = tiny(tasks=FOUR, methods=["finetune", "lamol"], seeds=[1, 2], orders={"random": 4})
    mine, theirs = Snapshot(study, store), Snapshot(plain, store)
    assert mine.design == theirs.design == design_of(plain)
    assert mine.seen == theirs.seen
    on_test = mine.scores[mine.scores["split"] == "test"].reset_index(drop=True)
    pd.testing.assert_frame_equal(on_test, theirs.scores)
    assert len(mine.trials) - len(mine.reported) == sum(map(len, done[1:])) == 16
    assert mine.proposed_scores["trial"].nunique() == 16
    assert not set(mine.proposed_scores["order"]) & set(mine.scores["order"])


@pytest.mark.drill
def test_a_real_search_survives_interruption_and_gc_and_is_never_mixed(
    searched: Any, tiny: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"train": {"epochs": 1, "batch_size": 8, "lr": 5e-3}, "max_train": 8, "max_test": 2}
    study = searched(THREE, 6, seeds=[1, 2], **small)
    experiment, own = Experiment(study, store, "l2kd sweep"), keys(study)
    after = []

    def interrupted(stage: Any, *args: Any, **options: Any) -> Any:
        after.append(stage.key not in own)
        if sum(after) > 5:
            raise KeyboardInterrupt
        return obtain(stage, *args, **options)

    monkeypatch.setattr(inline, "obtain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.sweep("inline")
    monkeypatch.undo()
    known = set(store.listing().finished)
    assert len(known - own) >= 5  # of the proposals
    age(store)
    assert find_garbage(store) == []
    before = [trial.id for trial in experiment.snapshot().trials]
    ended = experiment.sweep("inline")
    assert [trial.id for trial in ended.snapshot.trials] == before  # the same proposals
    assert not experiment.plan().missing
    age(store)
    assert find_garbage(store) == []
    folder = Path(store.base, "studies", "tiny")
    assert len(list(folder.glob("keys*"))) == 1  # settled

    drawn = tiny(
        tasks=THREE, methods=["finetune"], seeds=[1, 2], orders={"random": 3}, name="drawn", **small
    )
    Experiment(drawn, store, "l2kd sweep").sweep("inline")
    plain = Path(store.base, "studies", "drawn")
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "results.parquet"), pd.read_parquet(plain / "results.parquet")
    )
    for table in (plain / "tables").glob("*.csv"):
        mine = folder / "tables" / table.name
        if table.stem == "gap":  # which has a column for dev
            gaps = [pd.read_csv(file).drop(columns="dev") for file in (mine, table)]
            pd.testing.assert_frame_equal(*gaps)
        elif table.stem not in ("costs", "trace"):
            assert mine.read_text() == table.read_text(), table.stem
    headline = [(f / "report.md").read_text().split("## ")[0] for f in (folder, plain)]
    assert headline[0].count("3 of 6 orders") == headline[1].count("3 of 6 orders") > 0
    found = pd.read_csv(folder / "tables" / "order_search.csv")
    assert len(found) == 6
    assert pd.read_parquet(folder / "proposed.parquet")["order"].nunique() == 3
    assert "All 6 orders ran" in (folder / "report.md").read_text()
