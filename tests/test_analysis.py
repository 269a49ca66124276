"""Metrics against numbers worked out by hand, and what a study's frames must say."""

from __future__ import annotations

import io
import json
import math
from math import nan, sqrt

import numpy as np
import pandas as pd
import pytest
from helpers.synthetic_study import gap_table, study
from hypothesis import given
from hypothesis import strategies as st

from l2kd_ray.analysis import (
    Caveat,
    NoInterval,
    Note,
    OrderPopulation,
    Reach,
    Undefined,
    compare,
    cvar,
    gap_closed,
    matrix,
    mean_gap,
    over_orders,
    results,
    select,
    trials,
)

R3 = np.array([[5, 6, 7], [80, 10, 20], [70, 60, 30], [50, 55, 90]], dtype=float)
R1 = np.array([[5], [80]], dtype=float)


def rows_of(
    R: np.ndarray,
    order: str = "a>b>c",
    method: str = "l2kd",
    seed: str = "1",
    setting: str = "{}",
    split: str = "test",
) -> list[dict[str, object]]:
    """The long form of one trial's matrix; for the references, of its last row."""
    tasks = order.split(">")
    reference = method in ("multitask", "single")
    trial = "-".join((method, "" if reference else order, seed, setting))
    return [
        {
            "trial": trial,
            "method": method,
            "setting": setting,
            "order": "" if reference else order,
            "seed": seed,
            "i": i,
            "j": j + 1,
            "task": task,
            "split": split,
            "metric": "em",
            "score": R[i, j],
            "key": f"{trial}:{split}:{i}:{j}",
            "model": f"{trial}:{i}",
            "teacher": "",
            "teacher_score": math.nan,
        }
        for i in ([len(R) - 1] if reference else range(len(R)))
        for j, task in enumerate(tasks)
        if not np.isnan(R[i, j])
    ]


def reference(method: str, scores: list[float], seed: str = "1", **more: str) -> list[dict]:
    order = ">".join("abc"[: len(scores)])
    return rows_of(np.array([scores, scores], dtype=float), order, method, seed, **more)


def end_at(final: list[float]) -> np.ndarray:
    """A matrix of which only the last row matters."""
    return np.vstack([np.full((len(final), len(final)), 50.0), final])


# --- one matrix -------------------------------------------------------------------------------


def test_metrics_of_a_matrix_by_hand() -> None:
    assert matrix.average(R3) == 65  # (50 + 55 + 90) / 3
    assert matrix.backward_transfer(R3) == -17.5  # ((50 - 80) + (55 - 60)) / 2
    assert matrix.forward_transfer(R3) == 13.5  # ((10 - 6) + (30 - 7)) / 2
    assert matrix.forgetting_max(R3) == 17.5  # ((80 - 50) + (60 - 55)) / 2
    assert matrix.forgetting_first(R3) == 17.5
    assert matrix.average_incremental(R3) == 70  # (80 + (70 + 60) / 2 + 65) / 3
    assert matrix.intransigence(R3, np.array([82.0, 66, 90])) == pytest.approx(8 / 3)
    assert matrix.gap(R3, np.array([81.0, 65, 88])).tolist() == [31, 10, -2]
    assert matrix.relative_gap(R3, np.array([81.0, 65, 88])) == pytest.approx(13 / 78)


def test_a_task_that_gets_better_before_it_gets_worse_tells_the_two_forgettings_apart() -> None:
    R = np.array([[0, 0, 0], [60, 0, 0], [90, 50, 0], [70, 50, 80]], dtype=float)
    assert matrix.forgetting_max(R) == 10  # ((90 - 70) + (50 - 50)) / 2
    assert matrix.forgetting_first(R) == -5  # ((60 - 70) + 0) / 2


def test_one_task_has_no_transfer_and_no_forgetting() -> None:
    assert matrix.average(R1) == 80
    assert matrix.intransigence(R1, np.array([81.0])) == 1
    for metric in (
        matrix.backward_transfer,
        matrix.forward_transfer,
        matrix.forgetting_max,
        matrix.forgetting_first,
    ):
        assert np.isnan(metric(R1))


def test_what_needs_a_missing_cell_is_undefined_and_nothing_else_is() -> None:
    untrained = R3.copy()
    untrained[0] = nan
    assert np.isnan(matrix.forward_transfer(untrained))
    assert matrix.backward_transfer(untrained) == -17.5

    future = R3.copy()  # tasks still to come were not evaluated
    future[np.triu_indices_from(future[1:], 1)[0] + 1, np.triu_indices_from(future[1:], 1)[1]] = nan
    assert matrix.forgetting_max(future) == 17.5
    assert matrix.average_incremental(future) == 70

    past = R3.copy()
    past[2, 0] = nan
    assert np.isnan(matrix.forgetting_max(past))
    assert np.isnan(matrix.average_incremental(past))
    assert matrix.forgetting_first(past) == 17.5
    assert np.isnan(matrix.relative_gap(R3, np.zeros(3)))


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(
            st.lists(st.floats(0, 100), min_size=n, max_size=n), min_size=n + 1, max_size=n + 1
        )
    )
)
def test_identities_of_the_metrics(cells: list[list[float]]) -> None:
    R = np.array(cells)
    assert matrix.forgetting_first(R) == -matrix.backward_transfer(R)
    assert matrix.forgetting_max(R) >= matrix.forgetting_first(R) - 1e-9
    assert matrix.gap(R, matrix.final(R)).tolist() == [0] * R.shape[1]


# --- results: a row a trial -------------------------------------------------------------------


def frame(*parts: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part])


def test_results_by_hand() -> None:
    scores = frame(
        rows_of(R3, "c>a>b"),
        reference("multitask", [65, 88, 81]),
        reference("single", [66, 90, 82]),
    )
    row = results(scores).set_index("method").loc["l2kd"]
    assert row["order"] == "c>a>b"
    assert (row["score/c/em"], row["score/a/em"], row["score/b/em"]) == (50, 55, 90)
    assert (row["gap/c"], row["gap/a"], row["gap/b"]) == (31, 10, -2)
    assert row["gap/abs"] == 13
    assert row["gap/rel"] == pytest.approx(13 / 78)
    assert (row["cl/avg"], row["cl/bwt"], row["cl/fwt"]) == (65, -17.5, 13.5)
    assert row["cl/incremental"] == 70
    assert row["cl/intransigence"] == pytest.approx(8 / 3)
    assert row["complete"]


def test_the_gap_to_teachers_by_hand() -> None:
    """The last row of R3 is 50, 55, 90, its diagonal 80, 60, 90, for c, a, b."""
    scores = frame(rows_of(R3, "c>a>b"), reference("multitask", [65, 88, 81]))
    own = {"a": 63.0, "b": 88.0, "c": 83.0}
    taught = scores["method"] == "l2kd"
    scores.loc[taught, "teacher"] = "of " + scores["task"]
    scores.loc[taught, "teacher_score"] = scores["task"].map(own)
    row = results(scores).set_index("method").loc["l2kd"]
    assert row["teacher/avg"] == 78
    assert row["gap/teacher"] == (33 + 8 - 2) / 3
    assert row["gap/teacher_first"] == float(np.mean([83, 63, 88] - matrix.learned(R3)))
    incomplete = scores.assign(teacher_score=scores["teacher_score"].where(scores["task"] != "a"))
    unknown = results(incomplete).set_index("method").loc["l2kd"]
    assert np.isnan(
        unknown[["teacher/avg", "gap/teacher", "gap/teacher_first"]].astype(float)
    ).all()


def test_references_have_scores_and_no_gap() -> None:
    rows = results(frame(rows_of(R3), reference("multitask", [65, 88, 81]))).set_index("method")
    assert rows.loc["multitask", "cl/avg"] == 78
    assert rows.loc["multitask", "complete"]
    assert np.isnan(rows.loc["multitask", "gap/abs"])


def test_the_bound_is_that_of_the_same_training_seed() -> None:
    scores = frame(
        rows_of(end_at([50, 50]), "a>b", seed="1r7"),
        rows_of(end_at([50, 50]), "a>b", seed="2"),
        rows_of(end_at([50, 50]), "a>b", seed="3"),
        reference("multitask", [60, 60], seed="1"),
        reference("multitask", [70, 70], seed="2"),
    )
    rows = results(scores)
    gaps = rows[rows["method"] == "l2kd"].set_index("seed")["gap/abs"]
    assert gaps["1r7"] == 10
    assert gaps["2"] == 20
    assert np.isnan(gaps["3"])


def test_the_bound_is_of_the_same_data_seed_and_of_any_replay_seed() -> None:
    seeds = ("1r7d5", "1r8d6", "1d9")
    scores = frame(
        *(rows_of(end_at([50, 50]), "a>b", seed=seed) for seed in seeds),
        reference("multitask", [60, 60], seed="1d5"),
        reference("multitask", [70, 70], seed="1r7d6"),
    )
    rows = results(scores)
    gaps = rows[rows["method"] == "l2kd"].set_index("seed")["gap/abs"]
    assert (gaps["1r7d5"], gaps["1r8d6"]) == (10, 20)
    assert np.isnan(gaps["1d9"])  # not another draw's


def test_a_single_task_model_fits_where_its_settings_agree() -> None:
    scores = frame(
        rows_of(end_at([50, 50]), "a>b", setting='{"kd.weight":1,"train.lr":0.1}'),
        rows_of(end_at([50, 50]), "a>b", setting='{"kd.weight":1,"train.lr":0.2}'),
        reference("single", [51, 51], setting='{"train.lr":0.1}'),
        reference("single", [53, 53], setting='{"train.lr":0.2}'),
    )
    rows = results(scores)
    lifelong = rows[rows["method"] == "l2kd"]
    assert lifelong.set_index("train.lr")["cl/intransigence"].to_dict() == {0.1: 1, 0.2: 3}


def test_results_do_not_depend_on_the_order_of_the_rows() -> None:
    scores = study(seeds=("531", "532"), settings={"l2kd": [{"kd.temperature": 10}, {"x": "y"}]})

    def parquet(rows: pd.DataFrame) -> bytes:
        buffer = io.BytesIO()
        results(rows).to_parquet(buffer)
        return buffer.getvalue()

    first = parquet(scores)
    assert parquet(scores.sample(frac=1, random_state=1)) == first
    assert parquet(scores.sample(frac=1, random_state=2).reset_index(drop=True)) == first


def test_searched_settings_are_columns_of_one_type_sorted_by_value() -> None:
    settings = [
        {"kd.temperature": t, "kd.objective": o} for t in (10, 2.5) for o in ("word", "seq")
    ]
    rows = results(study(settings={"l2kd": settings}), ["kd.weight"])
    assert rows["kd.temperature"].dtype == float
    assert rows["kd.weight"].isna().all()
    l2kd = rows[rows["method"] == "l2kd"]
    assert l2kd["kd.temperature"].is_monotonic_increasing is False  # objective sorts first
    assert (
        l2kd.groupby("kd.objective")["kd.temperature"]
        .apply(lambda values: values.is_monotonic_increasing)
        .all()
    )
    assert rows[rows["method"] == "lamol"]["kd.objective"].isna().all()


def test_a_half_way_trial_is_a_row_that_is_not_complete() -> None:
    scores = frame(rows_of(R3), reference("multitask", [65, 88, 81]))
    half = scores[~((scores["method"] == "l2kd") & (scores["i"] == 3) & (scores["task"] == "b"))]
    row = results(half).set_index("method").loc["l2kd"]
    assert not row["complete"]
    assert np.isnan(row["gap/abs"])
    assert row["gap/a"] == 15


def test_n_of_one() -> None:
    row = results(frame(rows_of(R1, "a"), reference("multitask", [82]))).set_index("method")
    assert row.loc["l2kd", "gap/abs"] == 2
    assert np.isnan(row.loc["l2kd", "cl/bwt"])
    table = gap_table(frame(rows_of(R1, "a"), reference("multitask", [82])))
    assert table["gap/abs"].iloc[0] == 2


def test_matrices_of_a_study_come_back() -> None:
    (trial,) = trials(frame(rows_of(R3, "b>c>a")))
    assert trial.tasks == ("b", "c", "a")
    np.testing.assert_array_equal(trial.R, R3)
    (on_dev,) = trials(frame(rows_of(R3)), "dev")
    assert np.isnan(on_dev.R).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda scores: scores.iloc[:0], "no rows"),
        (lambda scores: scores.drop(columns="score"), "no column score"),
        (lambda scores: pd.concat([scores, scores.iloc[:1]]), "two scores for one cell"),
        (lambda scores: scores.assign(metric=range(len(scores))), "has the metrics"),
        (lambda scores: scores.assign(order="a>b"), "has the task c"),
    ],
)
def test_a_frame_that_is_not_the_long_form_is_refused(spoil, message: str) -> None:
    scores = frame(rows_of(R3)).assign(metric="em")
    with pytest.raises(ValueError, match=message):
        results(spoil(scores.astype({"metric": str})).astype({"metric": str}, errors="ignore"))


# --- over orders and seeds --------------------------------------------------------------------


def gaps(values: dict[tuple[str, str], float]) -> pd.DataFrame:
    """Complete rows of results: {(order, seed): gap}."""
    return pd.DataFrame(
        [
            {"order": o, "seed": s, "gap/abs": gap, "complete": True}
            for (o, s), gap in values.items()
        ]
    )


def test_interval_over_seeds_by_hand() -> None:
    rows = gaps({("a>b", "1"): 1, ("b>a", "1"): 3, ("a>b", "2"): 3, ("b>a", "2"): 5})
    estimate = mean_gap(rows)
    assert estimate.value == 3  # of seed means 2 and 4
    half = 12.7062047 * sqrt(2) / sqrt(2)  # t(0.975, 1) * std(ddof 1) / sqrt(S)
    assert estimate.low == pytest.approx(3 - half)
    assert estimate.high == pytest.approx(3 + half)
    assert estimate.note == Note(reach=Reach(OrderPopulation.ALL, 2, 2))


def test_where_there_is_no_interval_the_note_says_why() -> None:
    alone = mean_gap(gaps({("a>b", "1"): 1, ("b>a", "1"): 3}))
    assert alone.note == Note(no_interval=NoInterval.ONE_SEED)
    crossed = mean_gap(gaps({("a>b", "1r7"): 1, ("a>b", "1r8"): 3}))
    assert (crossed.value, crossed.bounded) == (2, False)  # one training seed is one replicate
    unfinished = mean_gap(gaps({("a>b", "1"): 1, ("b>a", "1"): 3, ("a>b", "2"): 3}))
    assert (unfinished.value, unfinished.bounded) == (2.5, False)
    assert unfinished.note == Note(no_interval=NoInterval.SEEDS_DIFFER)
    part = mean_gap(gaps({("a>b>c", "1"): 1, ("a>b>c", "2"): 3}))
    assert part.note == Note(reach=Reach(OrderPopulation.LISTED, 1, 6))
    nothing = mean_gap(gaps({("a>b", "1"): nan}))
    assert np.isnan(nothing.value)
    assert nothing.note == Note(undefined=Undefined.NO_COMPLETE_TRIAL)


def test_cvar_counts_the_last_order_in_part() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 6])
    assert cvar(values) == pytest.approx((6 + 0.2 * 5) / 1.2)
    assert cvar(values[:5]) == 5  # exactly one of five
    assert cvar(values, 1.0) == 3.5
    with pytest.raises(ValueError, match="share is 0"):
        cvar(values, 0)


def test_over_orders_by_hand() -> None:
    scores = frame(
        *(rows_of(end_at([50, 60]), "a>b", seed=seed) for seed in "12"),
        rows_of(end_at([62, 40]), "b>a", seed="1"),  # a ends at 40, b at 62
        rows_of(end_at([66, 44]), "b>a", seed="2"),
        *(reference("multitask", [70, 70], seed=seed) for seed in "12"),
    )
    (row,) = over_orders(results(scores)).to_dict("records")
    assert row["n_orders"] == 2
    assert row["mean"] == 16  # gaps: a>b 15, b>a (19 + 15) / 2 = 17
    assert row["std"] == pytest.approx(sqrt(2))
    assert (row["best"], row["worst"], row["worst_order"]) == (15, 17, "b>a")
    assert row["cvar20"] == 17
    assert (row["opd/a"], row["opd/b"]) == (8, 4)  # 50 - 42, 64 - 60
    assert (row["aopd"], row["mopd"]) == (6, 8)


def test_one_order_has_no_disparity() -> None:
    (row,) = over_orders(results(frame(rows_of(R3)))).to_dict("records")
    assert np.isnan(row["aopd"])
    assert np.isnan(row["std"])


# --- comparing ---------------------------------------------------------------------------------


def two_arms(l2kd: list[float], lamol: list[float]) -> pd.DataFrame:
    """Order a>b; the gaps of each seed; a bound of 80."""
    parts = [reference("multitask", [80, 80], seed=str(s)) for s in range(len(l2kd))]
    for method, values in (("l2kd", l2kd), ("lamol", lamol)):
        parts += [
            rows_of(end_at([80 - gap, 80 - gap]), "a>b", method, str(seed))
            for seed, gap in enumerate(values)
        ]
    return frame(*parts)


def test_gap_closed_is_a_ratio_of_means() -> None:
    table = gap_table(two_arms([4, 5, 6], [9, 10, 11])).set_index("method")
    row = table.loc["l2kd"]
    assert row["gap/abs"] == pytest.approx(5)
    assert row["closed/value"] == pytest.approx(0.5)
    assert row["closed/low"] < 0.5 < row["closed/high"]
    assert np.isnan(table.loc["lamol", "closed/value"])


def test_fiellers_interval_holds_exactly_the_ratios_that_a_paired_t_test_keeps() -> None:
    x, y = np.array([4.0, 5, 7, 4.5]), np.array([9.0, 10.5, 11, 9.5])
    row = gap_table(two_arms(list(x), list(y))).set_index("method").loc["l2kd"]
    for bound in (row["closed/low"], row["closed/high"]):
        difference = x - (1 - bound) * y
        t = difference.mean() / (difference.std(ddof=1) / 2)
        assert abs(t) == pytest.approx(3.18244631, rel=1e-6)  # t(0.975, 3)


@pytest.mark.parametrize(
    ("l2kd", "lamol", "why"),
    [
        ([4.0], [9.0], Undefined.BASELINE_UNBOUNDED),
        ([4.0, 5.0], [-9.0, 11.0], Undefined.BASELINE_MAY_BE_ZERO),
        ([4.0, 5.0, 4.0], [-9.0, -9.1, -9.2], Undefined.BASELINE_ABOVE_BOUND),
    ],
)
def test_where_gap_closed_is_undefined_the_note_says_why(
    l2kd: list[float], lamol: list[float], why: Undefined
) -> None:
    row = gap_table(two_arms(l2kd, lamol)).set_index("method").loc["l2kd"]
    assert np.isnan(row["closed/value"])
    assert row["closed/note"].undefined is why


def test_gap_closed_compares_the_same_instances() -> None:
    own = gaps({("a>b", "1"): 2, ("a>b", "2"): 3, ("b>a", "1"): 90})
    other = gaps({("a>b", "1"): 10, ("a>b", "2"): 10.1})
    assert gap_closed(own, other).value == pytest.approx(1 - 2.5 / 10.05)


def test_selection_reads_dev_and_never_test() -> None:
    def arm(setting: dict[str, float], dev: float, test: float) -> list[dict]:
        text = json.dumps(setting)
        return rows_of(end_at([dev, dev]), "a>b", setting=text, split="dev") + rows_of(
            end_at([test, test]), "a>b", setting=text
        )

    scores = frame(
        arm({"t": 1}, dev=60, test=40),
        arm({"t": 2}, dev=50, test=70),
        reference("multitask", [80, 80]),
    )
    table = gap_table(scores)
    assert table[table["selected"] & ~table["reference"]]["t"].tolist() == [1]

    without_dev = gap_table(scores[scores["split"] == "test"])
    lifelong = without_dev[~without_dev["reference"]]
    assert not lifelong["selected"].any()
    assert set(lifelong["select/note"]) == {Caveat.NO_DEV_SCORE}


def test_selection_compares_settings_on_the_instances_they_share() -> None:
    def dev(setting: int, order: str, score: float) -> list[dict]:
        text = json.dumps({"t": setting})
        return rows_of(end_at([score, score]), order, setting=text, split="dev")

    # On the shared order setting 1 is better; setting 2 has an easy order of its own besides.
    scores = frame(dev(1, "a>b", 50), dev(2, "a>b", 40), dev(2, "b>a", 90))
    chosen = select(results(scores, split="dev"))
    assert chosen[chosen["selected"]]["setting"].tolist() == ['{"t": 1}']

    apart = select(results(frame(dev(1, "a>b", 50), dev(2, "b>a", 90)), split="dev"))
    assert set(apart["note"]) == {Caveat.PROVISIONAL}


def test_the_only_setting_is_selected_without_dev() -> None:
    table = gap_table(frame(rows_of(R3), reference("multitask", [65, 88, 81])))
    assert table["selected"].all()


def test_gap_table_of_a_finished_study() -> None:
    table = gap_table(study(seeds=("531", "532", "533")))
    assert table["method"].tolist() == ["l2kd", "lamol", "finetune", "multitask", "single"]
    arms = table[~table["reference"]]
    assert (arms["n_orders"] == 6).all()
    assert (arms["n_possible"] == 6).all()
    assert (arms["n_seeds"] == 3).all()
    per_task = arms[["gap/rnnlg.hotel", "gap/rnnlg.rest", "gap/rnnlg.tv"]].mean(axis=1)
    np.testing.assert_allclose(per_task, arms["gap/abs"])
    assert (arms["gap/low"] < arms["gap/abs"]).all()
    bound = table.set_index("method").loc["multitask", "cl/avg"]
    np.testing.assert_allclose(arms["gap/rel"], arms["gap/abs"] / bound)
    np.testing.assert_allclose(bound - arms["cl/avg"], arms["gap/abs"])


def test_gap_table_without_multitask_has_scores_and_no_gap() -> None:
    table = gap_table(study(multitask=False, single=False, untrained=False))
    assert table["gap/abs"].isna().all()
    assert table["cl/avg"].notna().all()
    arms = table[~table["reference"]]
    assert set(arms["gap/note"]) == {Note(undefined=Undefined.NO_COMPLETE_TRIAL)}


def test_gap_table_of_references_alone() -> None:
    scores = study()
    table = compare(*(results(scores[scores["order"] == ""], split=s) for s in ("test", "dev")))
    assert table["method"].tolist() == ["multitask", "single"]
