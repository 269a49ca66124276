"""Several streams of tasks together: the count, the mean, and the command `l2kd compare`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import synthetic_study
from helpers.studies import tiny_data
from scipy import stats

import l2kd_ray
from l2kd_ray import cli
from l2kd_ray.analysis import (
    Cells,
    Design,
    NoInterval,
    Undefined,
    compare_methods,
    moments,
    paired,
    results,
)
from l2kd_ray.analysis.looks import Reading, Seen
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.scope import Scope
from l2kd_ray.analysis.streams import compare_streams, mean_over_streams, replicated
from l2kd_ray.errors import InputError
from l2kd_ray.report.comparison_streams import stream_notes, stream_sections
from l2kd_ray.report.terminal import print_section
from l2kd_ray.study.streams import Stream, pairs_of

# --- in how many streams -----------------------------------------------------------------------


def count_by_definition(p: Sequence[float], alpha: float) -> int:
    """Dror et al. 2017: the largest u for which every u' up to u is told.

    "At least u of N differ" is rejected as false only if, whichever N - u + 1 streams are left when
    u - 1 are set aside, one of them differs: the largest of their Bonferroni p-values.
    """
    found = 0
    for u in range(1, len(p) + 1):
        size = len(p) - u + 1
        if max(size * min(left) for left in combinations(p, size)) >= alpha:
            break
        found = u
    return found


def test_the_count_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    counts = set()
    for _ in range(300):
        size = int(rng.integers(2, 6))
        differences = rng.choice([-1.0, 1.0], size)
        p = rng.uniform(0, 1, size) ** rng.choice([1, 4, 8])
        adjusted = replicated(differences, p)
        for sign in (-1, 1):
            fits = differences == sign
            one_sided = np.where(fits, p / 2, 1 - p / 2)
            count = int((adjusted[fits] < 0.05).sum())
            assert count == count_by_definition(one_sided.tolist(), 0.025)
            counts.add(count)
    assert counts >= {0, 1, 2, 3}


def test_a_stream_without_a_test_counts_as_one_that_shows_nothing() -> None:
    assert replicated([-1, -1, -1], [0.02, np.nan, 0.01]) == pytest.approx([0.04, 1, 0.03])
    assert replicated([-1, 1], [0.01, 0.03], pairs=3) == pytest.approx([0.06, 0.18])


@pytest.mark.parametrize("shared", [0.0, 0.95, -0.3])
def test_more_streams_than_differ_are_rarely_shown(shared: float) -> None:
    """One of four differs, by a lot; the noise of a seed is common to the streams, or opposed."""
    rng, wrong, reps = np.random.default_rng(1), 0, 1500
    mixed = np.linalg.cholesky(np.full((4, 4), shared) + (1 - shared) * np.eye(4))
    for _ in range(reps):
        by_seed = mixed @ rng.normal(size=(4, 5)) - np.array([[9.0], [0], [0], [0]])
        means, p = by_seed.mean(axis=1), stats.ttest_1samp(by_seed, 0, axis=1).pvalue
        shown = replicated(means, p) < 0.05
        wrong += (shown & (means < 0)).sum() > 1 or bool((shown & (means > 0)).any())
    assert wrong / reps < 0.05 + 3 * sqrt(0.05 * 0.95 / reps)


# --- the mean ----------------------------------------------------------------------------------


def table(values: FloatArray, seeds: Sequence[object]) -> Cells:
    return Cells(values, ("",) * len(values), tuple(map(str, seeds)))


def test_with_the_same_seeds_the_mean_is_student_over_the_seeds_means() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 2, 4))
    b = b[:, ::-1]  # listed the other way round: seeds are matched by name
    found = mean_over_streams([table(a, "1234"), table(b, "4321")], [2, 2])
    means = (a.mean(axis=0) + b.mean(axis=0)[::-1]) / 2
    assert float(found.mean) == pytest.approx(means.mean())
    assert found.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert found.estimate().half_width == pytest.approx(
        stats.t.ppf(0.975, 3) * means.std(ddof=1) / 2
    )


def test_with_seeds_of_their_own_variances_add() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 3)), 3 * rng.normal(size=(2, 6))
    found = mean_over_streams([table(a, "123"), table(b, "456789")], [2, 2])
    parts = a.mean(axis=0).var(ddof=1) / 3 / 4, b.mean(axis=0).var(ddof=1) / 6 / 4
    assert float(found.seed) == pytest.approx(sum(parts))
    assert found.seed_df == pytest.approx(sum(parts) / (parts[0] / 2 + parts[1] / 5))
    assert float(found.mean) == pytest.approx((a.mean() + b.mean()) / 2)


def test_one_stream_is_the_mean_of_its_table() -> None:
    values = np.random.default_rng(4).normal(size=(6, 5)) + np.arange(6)[:, None]
    found, alone = mean_over_streams([table(values, "12345")], [24]), moments(values, 24)
    for name in ("mean", "order", "seed", "order_df", "seed_df"):
        assert getattr(found, name) == pytest.approx(getattr(alone, name)), name


def test_order_parts_may_go_together() -> None:
    """The same table twice is one stream, however often it is read."""
    values = np.random.default_rng(5).normal(size=(6, 5)) + np.arange(6)[:, None]
    twice, alone = mean_over_streams([table(values, "12345")] * 2, [24, 24]), moments(values, 24)
    assert float(alone.order) > 0
    assert float(twice.order) == pytest.approx(float(alone.order))
    assert float(twice.seed) == pytest.approx(float(alone.seed))
    whole = mean_over_streams([table(values, "12345"), table(values[:2], "12345")], [24, 2])
    assert whole.order_df == 5  # of the streams whose orders are a sample


def test_a_lone_seed_and_seeds_that_agree_leave_no_interval() -> None:
    values = np.random.default_rng(6).normal(size=(2, 4))
    lone = mean_over_streams([table(values, "1234"), table(values[:, :3], "123")], [2, 2])
    assert lone.seed_df == 0
    assert np.isnan(lone.p)
    alike = mean_over_streams([table(values, "1234"), table(np.ones((2, 4)), "1234")], [2, 2])
    assert alike.estimate().note.no_interval is NoInterval.SEEDS_ALIKE


SEEDS = {
    "same": ["abcde"] * 3,
    "own": ["abc", "defgh", "ijklm"],
    "some": ["abc", "abcdef", "defgh"],
}


@pytest.mark.parametrize("plan", SEEDS)
@pytest.mark.parametrize(("ran", "every"), [(2, 2), (6, 24)])
def test_the_interval_of_the_mean_holds(plan: str, ran: int, every: int) -> None:
    rng, held, reps = np.random.default_rng(7), 0, 600
    for _ in range(reps):
        of_order, of_seed = rng.normal(size=every), rng.normal(size=13)
        drawn = rng.choice(every, ran, replace=False)  # one draw of orders for all streams
        tables = []
        for names in SEEDS[plan]:
            seed = of_seed[["abcdefghijklm".index(name) for name in names]]
            noise = 0.5 * rng.normal(size=(ran, len(names)))
            tables.append(table((of_order - of_order.mean())[drawn, None] + seed + noise, names))
        found = mean_over_streams(tables, [every] * 3).estimate()
        held += found.low <= 0 <= found.high
    assert held / reps > 0.95 - 3 * sqrt(0.05 * 0.95 / reps)


# --- studies together --------------------------------------------------------------------------


def stream(
    name: str, methods: Sequence[str] = ("lamol", "l2kd"), settings: Mapping[str, Any] | None = None
) -> Scope:
    """A made-up study of three tasks, all 6 orders and 3 seeds."""
    tasks, seeds = [f"{name}.{task}" for task in "abc"], ("1", "2", "3")
    scores = synthetic_study.study(tasks, methods=methods, seeds=seeds, settings=settings)
    found = results(scores)
    lifelong = found[found["order"] != ""]
    design = Design("all", tuple(dict.fromkeys(lifelong["order"])), seeds)
    arms = lifelong.drop_duplicates("method").set_index("method")["setting"]
    return Scope.of(found, list(arms.items()), design)


def test_a_stream_has_the_numbers_of_its_own_pair() -> None:
    scopes = {name: stream(name) for name in ("x", "y")}
    found = compare_streams(scopes, [("l2kd", "lamol")])
    assert found.pairs["n_streams"].tolist() == [2]
    for row in found.streams.to_dict("records"):
        scope = scopes[row["stream"]]
        pair = [("l2kd", "{}"), ("lamol", "{}")]
        own = compare_methods(scope.results, pair, scope.design).iloc[0]
        for name in ("difference", "low", "high", "p"):
            assert row[name] == pytest.approx(own[name]), name
        assert row["note"] == own["note"]
        a, b = (scope.cells(arm).by_seed for arm in pair)
        assert row["p"] == pytest.approx(paired(a, b, 6).p)
        assert row["difference"] < 0
        assert row["shown"]
    assert found.pairs[["nearer", "further"]].to_numpy().tolist() == [[2, 0]]
    turned = compare_streams(scopes, [("lamol", "l2kd")]).pairs.iloc[0]
    assert turned[["nearer", "further"]].tolist() == [0, 2]
    assert turned["difference"] == pytest.approx(-found.pairs["difference"].iloc[0])


def test_intervals_of_means_hold_for_all_pairs_and_looks_together() -> None:
    scopes = {name: stream(name) for name in ("x", "y")}
    one = compare_streams(scopes, [("l2kd", "lamol")]).pairs.iloc[0]
    pairs = [("l2kd", "lamol"), ("lamol", "l2kd")]
    two = compare_streams(scopes, pairs)
    assert two.pairs["p"].iloc[0] == pytest.approx(2 * one["p"])
    half = (one["high"] - one["low"]) / 2
    wider = (two.pairs["high"] - two.pairs["low"]).iloc[0] / 2
    assert wider / half == pytest.approx(stats.t.ppf(1 - 0.025 / 2, 2) / stats.t.ppf(0.975, 2))
    of_two = two.streams["p_adjusted"][:2].to_numpy()
    of_one = compare_streams(scopes, pairs[:1]).streams["p_adjusted"].to_numpy()
    assert of_two == pytest.approx(2 * of_one)
    looks = {  # both at a look that spends a fifth
        name: replace(scope, reading=Reading(6, 0.99)) for name, scope in scopes.items()
    }
    looked = compare_streams(looks, pairs[:1])
    assert looked.pairs["p"].iloc[0] == pytest.approx(25 * one["p"])
    assert looked.pairs["note"].iloc[0].look == pytest.approx(0.998)
    assert looked.streams["p"].iloc[0] == pytest.approx(5 * two.streams["p"].iloc[0])


def test_a_pair_without_a_whole_order_in_a_stream_has_no_mean() -> None:
    scopes = {name: stream(name) for name in ("x", "y")}
    rows = scopes["y"].results
    scopes["y"] = replace(scopes["y"], results=rows[rows["method"] != "l2kd"])
    found = compare_streams(scopes, [("l2kd", "lamol")])
    assert found.pairs["note"][0].undefined is Undefined.NO_FINISHED_ORDER
    assert found.pairs[["difference", "low", "p"]].isna().all(axis=None)
    assert found.streams["shown"].tolist() == [True, False]
    assert json.loads(json.dumps(found.to_json()))["pairs"][0]["difference"] is None
    words = [block.words for s in stream_sections(found) for block in s.blocks[1:]]
    assert "l2kd ends nearer to multi-task than lamol in at least 1 of 2 streams: x." in words


def test_only_pairs_that_all_streams_have_are_compared() -> None:
    scopes = {
        "x": stream("x", methods=("finetune", "lamol", "l2kd")),
        "y": stream("y", methods=("l2kd", "lamol", "ewc")),
    }
    assert pairs_of(scopes) == [("l2kd", "lamol")]
    assert pairs_of(scopes, ("lamol", "l2kd")) == [("lamol", "l2kd")]
    with pytest.raises(InputError, match=r"(?s)--pair.*x: finetune, l2kd, lamol; y: ewc"):
        pairs_of(scopes, ("l2kd", "ewc"))
    with pytest.raises(InputError, match="no such pair"):
        pairs_of({"x": scopes["x"], "z": stream("z", methods=("ewc", "lamol"))})


def test_settings_and_what_weakens_a_stream_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    tuned = {"l2kd": [{"kd.temperature": 2}]}
    scopes = {name: stream(name, settings=tuned) for name in ("x", "y")}
    found = compare_streams(scopes, [("l2kd", "lamol")])
    for section in stream_sections(found):
        print_section(section)
    words = capsys.readouterr().out
    assert "kd.temperature 2" in words
    assert "l2kd ends nearer to multi-task than lamol in at least 2 of 2 streams: x, y." in words
    assert "x, y: all 6 orders." in words
    seen = Seen(("a", "b"), ("1", "2"), 2, 2)
    notes = list(stream_notes({"x": Stream(scopes["x"], [], [seen], {"l2kd": 4, "lamol": 1})}))
    assert ["2 orders x 2 seeds" in notes[0], "best of 4" in notes[1]] == [True, True]
    assert len(notes) == 2


# --- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of other tasks; files of studies that they have run, and of one that is new."""
    folder = tmp_path_factory.mktemp("streams")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, task, seeds in (
            ("first", "gen.intent", [1, 2]),
            ("second", "gen.slots", [1, 2]),
            ("again", "gen.slots", [1, 2]),
            ("alone", "gen.intent", [1]),
        ):
            data = tiny_data(
                name=name,
                tasks=["gen.rest", task],
                orders=[["gen.rest", task]],
                seeds=seeds,
                methods=["finetune", "lamol-real"],
                train={"epochs": 1, "batch_size": 8, "lr": 5e-3},
                storage="results",
            )
            Path(f"{name}.yaml").write_text(yaml.safe_dump(data))
            if name in ("first", "second"):
                l2kd_ray.load_study(f"{name}.yaml").sweep("inline")
        new = tiny_data(name="new", methods=["finetune", "lamol-real"], storage="results")
        Path("new.yaml").write_text(yaml.safe_dump(new))
    return folder


@pytest.fixture
def compare(
    swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `l2kd compare`: its exit code and what it prints."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.chdir(swept)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", ["l2kd", "compare", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return run


def test_two_studies_are_compared_by_file_and_by_name(
    compare: Callable[..., tuple[int, str]],
) -> None:
    code, words = compare("first.yaml", "second", "--storage", "results")
    assert code == 0, words
    assert "finetune − lamol-real" in words  # noqa: RUF001
    assert "Mean of these 2 streams" in words
    assert "first, second: 1 of 2 orders" in words
    assert "Right after learning a task" in words  # what weakens a stream is said here, too
    code, words = compare(
        *("first.yaml", "second.yaml", "--pair", "lamol-real", "finetune", "--json")
    )
    found: Mapping[str, Any] = json.loads(words)
    assert code == 0
    assert [row["stream"] for row in found["streams"]] == ["first", "second"]
    assert found["pairs"][0]["n_streams"] == 2
    assert found["notes"]
    frame = pd.read_csv("results/studies/first/tables/comparisons.csv").iloc[0]
    sign = -1 if frame["method"] == "finetune" else 1
    assert found["streams"][0]["difference"] == pytest.approx(sign * frame["difference"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["first.yaml"], "two studies or more"),
        (["first.yaml", "first.yaml"], "each named once"),
        (["second.yaml", "again.yaml"], "share trials"),
        (["second.yaml", "alone.yaml"], "alone: the study has no tested difference yet"),
        (["second.yaml", "new.yaml"], "0 of 2 orders finished"),
        (["second.yaml", "new.yaml"], "l2kd sweep new.yaml"),
        (["first.yaml", "second.yaml", "--pair", "finetune", "gem"], "finetune and gem"),
        (["first.yaml", "nobody"], "no such study"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    words: Sequence[str], said: str, compare: Callable[..., tuple[int, str]]
) -> None:
    code, printed = compare(*words)
    assert code == 2, printed
    assert said in printed
    assert "Traceback" not in printed
