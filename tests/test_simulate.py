"""The simulated cluster against schedules made by hand, and laws that every schedule keeps."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import AnyStore
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Listing, Store
from l2kd_ray.errors import InputError
from l2kd_ray.families.evaluate import Evaluate
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.language.stages.replay import Replay
from l2kd_ray.forecast.clock import Assumptions
from l2kd_ray.forecast.forecast import forecast, parse_assumptions, parse_duration, parse_money
from l2kd_ray.forecast.machines import Cluster, Prices
from l2kd_ray.forecast.simulate import POLICIES, Forecast, complete_by, simulate
from l2kd_ray.forecast.trie import Trie, trie_of, widths
from l2kd_ray.study import plan
from l2kd_ray.study.plan import missing_stages

AT_ONCE = Assumptions(boot_s=0, idle_s=1e9, preempted_per_hour=0, start_s=0)


def some(kind: type[Stage]) -> Stage:
    """A stage of which only its class matters."""
    stage: Stage = object.__new__(kind)
    return stage


def trie(*inputs: tuple[int, ...], kind: type[Stage] = Learn) -> Trie:
    made = Trie()
    for sources in inputs:
        made.add(some(kind), sources)
    made.trials = [np.arange(len(made))]
    made.names = [("a>b", "1")]
    return made


class Stored:
    """A storage of which its listing is known."""

    def __init__(
        self, finished: Mapping[str, str] | None = None, dropped: frozenset[str] = frozenset()
    ) -> None:
        self._listing = Listing(finished or {}, dropped)

    def listing(self) -> Listing:
        return self._listing

    def manifests(self, stages: Mapping[str, str]) -> dict[str, Manifest]:
        return {}


def depth(stage: Stage) -> int:
    """The length of the longest chain of stages that a stage waits for."""
    return 1 + max((depth(source) for _, source in stage.inputs()), default=0)


CHAIN = trie((), (0,), (1,))
FAN = trie((), (0,), (0,), (0,), (0,))


def run(work: Trie, seconds: list[float], cluster: str, **how: Any) -> Forecast:
    return simulate(work, Cluster.parse(cluster), np.array(seconds), **{"assumed": AT_ONCE, **how})


def test_a_chain_takes_its_sum_on_any_number_of_machines() -> None:
    for machines in (1, 7):
        found = run(CHAIN, [1, 2, 4], f"head + 0..{machines} x local")
        assert found.makespan_s == 7
        assert found.finish.tolist() == [1, 3, 7]
        assert len(found.up) == 1  # a chain asks for one


def test_a_fan_on_two_machines() -> None:
    found = run(FAN, [1, 3, 3, 3, 3], "head + 0..2 x local")
    assert found.makespan_s == 1 + 3 + 3
    assert found.machine_hours == pytest.approx((7 + 6) / 3600)  # the second came at 1
    assert found.utilisation == 1


def test_boot_idle_and_money_by_hand() -> None:
    """One stage of 100 s on a machine that boots for 50 s, then a chain that leaves one idle."""
    how = Assumptions(boot_s=50, idle_s=30, preempted_per_hour=0, start_s=5)
    work = trie((), (0,), (0,))
    found = run(work, [100, 200, 10], "head m5.large + 0..2 x m5.xlarge", assumed=how)
    # 0-50 boot, 50-155 first, 155-360 second; the other is asked for at 155, boots until 205,
    # works until 220, is idle and goes at 250.
    assert found.finish.tolist() == [155, 360, 220]
    assert sorted((begin, end) for begin, end, _ in found.up) == [(0, 360), (155, 250)]
    prices = Prices.read().machines
    paid = prices["m5.xlarge"].on_demand * (360 + 95) + prices["m5.large"].on_demand * 360
    assert found.usd() == pytest.approx(paid / 3600)
    assert found.usd(200) == pytest.approx(
        (prices["m5.xlarge"].on_demand * (200 + 45) + prices["m5.large"].on_demand * 200) / 3600
    )


def test_the_critical_path_first_is_shorter_where_arrival_is_not() -> None:
    """Two short stages came first; the long chain decides."""
    work = trie((), (), (), (2,))
    seconds = [2.0, 2.0, 2.0, 4.0]
    ends = {
        policy: run(work, seconds, "head + 2 x local", policy=policy).makespan_s
        for policy in POLICIES
    }
    assert ends["arrival"] == 8
    assert ends["critical"] == 6


def test_a_wide_stage_waits_for_all_its_workers_and_is_not_overtaken() -> None:
    work = trie((), (), ())
    found = run(work, [4, 1, 3], "head + 2 x local", widths=[1, 1, 2])
    assert found.finish.tolist() == [7, 4, 3]
    with pytest.raises(ValueError, match="3 slots"):
        run(work, [1, 1, 1], "head + 2 x local", widths=[1, 3, 1])


def test_slots_of_a_machine_are_filled_before_another_is_asked_for() -> None:
    found = run(FAN, [1, 3, 3, 3, 3], "head + 0..9 x local", slots=[4])
    assert found.makespan_s == 4
    assert len(found.up) == 1


@st.composite
def works(draw: st.DrawFn) -> tuple[Trie, list[float], list[int]]:
    count = draw(st.integers(1, 25))
    made = Trie()
    for number in range(count):
        sources = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        made.add(some(draw(st.sampled_from([Learn, Evaluate]))), sources)
    made.trials, made.names = [np.arange(count)], [("a", "1")]
    seconds = draw(st.lists(st.integers(1, 4000), min_size=count, max_size=count))
    widths = draw(st.lists(st.sampled_from([1, 1, 2]), min_size=count, max_size=count))
    return made, [float(s) for s in seconds], widths


@settings(max_examples=60)
@given(works(), st.integers(2, 6), st.sampled_from(POLICIES), st.integers(0, 5))
def test_nothing_is_lost_or_won(
    work: tuple[Trie, list[float], list[int]], machines: int, policy: Any, seed: int
) -> None:
    """Busy time is work, what was lost and starts; no stage ends before its inputs and itself."""
    made, seconds, widths = work
    how = Assumptions(boot_s=60, idle_s=120, preempted_per_hour=1, start_s=2, seed=seed)
    found = run(
        made, seconds, f"head + 0..{machines} x g5.xlarge spot",
        widths=widths, assumed=how, policy=policy,
    )  # fmt: skip
    assert found.busy_s == pytest.approx(found.work_s + found.lost_s + found.starts_s)
    assert found.busy_s <= found.available_s + 1e-6
    assert found.available_s <= 3600 * found.machine_hours + 1e-6
    longest = made.to_the_end(np.array(seconds)).max()
    assert found.makespan_s == found.finish.max() >= longest
    for stage, inputs in enumerate(made.inputs):
        begun = max((found.finish[source] for source in inputs), default=0.0)
        assert found.finish[stage] >= begun + seconds[stage] + how.start_s - 1e-6
    calm = run(made, seconds, f"head + {machines} x g5.xlarge", widths=widths, policy=policy)
    assert calm.lost_s == calm.preemptions == 0
    assert calm.makespan_s <= sum(seconds)
    narrow = max(widths) == 1
    if narrow:  # Graham (1969): any list schedule, within (2 - 1/m) of the least possible
        least = max(longest, sum(seconds) / machines)
        assert calm.makespan_s <= (2 - 1 / machines) * least + 1e-6


def test_more_machines_are_faster_and_more_preemption_is_dearer() -> None:
    wide = trie((), *[(0,)] * 60)
    seconds = [600.0] * 61
    spans = [run(wide, seconds, f"head + 0..{n} x g5.xlarge spot").makespan_s for n in (1, 4, 16)]
    assert spans == sorted(spans, reverse=True)
    lost = [
        np.mean([
            run(
                wide, seconds, "head + 0..8 x g5.xlarge spot",
                assumed=Assumptions(preempted_per_hour=rate, checkpoint_s=300, seed=seed),
            ).lost_s
            for seed in range(10)
        ])
        for rate in (0.0, 0.5, 3.0)
    ]  # fmt: skip
    assert lost[0] == 0 < lost[1] < lost[2]


def test_a_preempted_training_loses_at_most_what_came_after_its_checkpoint() -> None:
    how = {"boot_s": 0, "start_s": 0, "preempted_per_hour": 2, "seed": 3}
    seconds, cluster = [20_000.0], "head + 0..1 x g5.xlarge spot"
    saved = run(trie(()), seconds, cluster, assumed=Assumptions(**how, checkpoint_s=10))
    assert saved.preemptions > 3
    assert saved.lost_s <= 10 * saved.preemptions
    calm = Assumptions(**{**how, "preempted_per_hour": 0.2}, checkpoint_s=10)
    unsaved = run(trie((), kind=Replay), seconds, cluster, assumed=calm)
    assert unsaved.lost_s == pytest.approx(unsaved.makespan_s - 20_000)


def test_disk_peaks_where_models_wait_for_their_readers() -> None:
    sizes = np.ones(3)
    assert run(CHAIN, [1, 1, 1], "head + 1 x local", sizes=sizes).peak_bytes == 3
    kept = run(CHAIN, [1, 1, 1], "head + 1 x local", sizes=sizes, drops=True).peak_bytes
    assert kept == 2


def test_what_a_deadline_and_a_budget_reach() -> None:
    work = trie((), (0,), (0,))
    work.trials = [np.array([1]), np.array([2])]
    work.names = [("a>b", "1"), ("b>a", "1")]
    found = run(work, [3600, 3600, 3600], "head m5.large + 1 x m5.xlarge")
    ends = found.ends(work)
    assert ends.tolist() == [7200, 10800]
    assert complete_by(work, ends, 8000) == {"trials": 1, "orders": 1, "seeds": 0}
    assert complete_by(work, ends, math.inf) == {"trials": 2, "orders": 2, "seeds": 1}
    half = found.affordable_s(found.usd() / 2)
    assert half == pytest.approx(5400, abs=2)
    assert found.affordable_s(found.usd() + 1) == math.inf


def test_a_studys_trie_is_the_one_that_is_planned(tiny: Any, tmp_path: Path) -> None:
    study = tiny(seeds=[1, 2, 3], methods=["l2kd", "lamol"])
    store = Store(str(tmp_path / "none"))
    planned = plan(study.trials(), store)
    exact = trie_of(study, store, study.trials())
    assert len(exact) == len(planned.missing)
    assert sum(exact.unshared().values()) == sum(c.naive for c in planned.stages.values())
    assert all(max(inputs, default=-1) < n for n, inputs in enumerate(exact.inputs))


@pytest.mark.parametrize("seed", range(8))
def test_so_it_is_of_a_study_that_was_begun_and_whose_models_were_dropped(
    tiny: Any, seed: int
) -> None:
    """What is finished is drawn, with all that it was made from; some of it has lost its files."""
    study, random = tiny(seeds=[1, 2], methods=["l2kd"]), Random(seed)
    finished, dropped = dict[str, str](), set[str]()
    for stage in sorted(plan(study.trials(), cast("AnyStore", Stored())).every, key=depth):
        made = all(source.key in finished for _, source in stage.inputs())
        if made and random.random() < 0.9:
            finished[stage.key] = stage.kind
            dropped.update([stage.key] if random.random() < 0.4 else [])
    stored = Stored(finished, frozenset(dropped))
    missing = missing_stages(study.trials(), stored.listing())
    assert 0 < len(missing) < len(finished) + len(missing)
    exact = trie_of(study, cast("AnyStore", stored), study.trials())
    assert Counter(exact.kinds) == Counter(stage.kind for stage in missing)


def test_the_way_to_the_end_is_the_longest_one() -> None:
    fork = trie((), (0,), (0,), (1, 2), (0,))
    assert fork.to_the_end(np.array([1.0, 2, 9, 4, 1])).tolist() == [14, 6, 13, 4, 1]


def test_what_is_known_of_a_kind_goes_before_what_is_assumed() -> None:
    work = trie((), (0,))
    work.add(some(Replay), (0,))
    known = {"learn": 7.0}
    assert work.seconds(known) == {"learn": 7.0, "replay": Replay.default_seconds}
    assert work.bytes(known) == {"learn": 7.0, "replay": Replay.default_bytes}


def test_a_stage_starts_with_the_fewest_workers_it_may_have(tiny: Any, tmp_path: Path) -> None:
    scale = {"learn": {"workers": [2, 5]}, "replay": {"workers": 3}}
    study = tiny(methods=["lamol"], scale=scale)
    work = trie_of(study, Store(str(tmp_path / "none")), study.trials())
    needs = dict(zip(work.kinds, widths(work, study.config.scale), strict=True))
    assert (needs["learn"], needs["replay"], needs["evaluate"]) == (2, 3, 1)


def test_a_stage_that_reads_a_model_shared_out_needs_its_workers(tiny: Any, tmp_path: Path) -> None:
    study = tiny(methods=["lamol"], scale={"workers": 2}, train={"shard": "fsdp2"})
    work = trie_of(study, Store(str(tmp_path / "none")), study.trials())
    needs = dict(zip(work.kinds, widths(work, study.config.scale), strict=True))
    assert (needs["learn"], needs["evaluate"], needs["examples"]) == (2, 2, 1)


def test_replicates_are_what_one_by_one_they_would_be(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny(
        seeds=[1, 2, 3],
        search={"kd.temperature": {"grid": [1, 2]}},
        methods=["l2kd", "gem"],
    )
    store = Store(str(tmp_path / "none"))
    exact = trie_of(study, store)
    monkeypatch.setattr("l2kd_ray.forecast.trie._EXACT_CELLS", 0)
    taken = trie_of(study, store)
    assert taken.assumed
    assert sorted(taken.kinds) == sorted(exact.kinds)
    assert taken.unshared() == exact.unshared()
    assert sorted(taken.names) == sorted(exact.names)
    how = {"assumed": AT_ONCE, "policy": "critical"}
    spans = [
        run(
            t, t.values(dict.fromkeys(t.kinds, 10.0)).tolist(), "head + 3 x local", **how
        ).makespan_s
        for t in (exact, taken)
    ]
    assert spans[0] == spans[1]


@pytest.mark.parametrize(
    "text", ["", "head", "64 x g5.xlarge", "head + x g5.xlarge", "head + 9..2 x local",
             "head + 4 x warp9.huge", "head + 0 x local", "head + 4 x local later"],
)  # fmt: skip
def test_a_cluster_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--cluster"):
        Cluster.parse(text)


def test_a_clusters_text_reads_back() -> None:
    text = "head m5.large + 2..2 x m5.xlarge on-demand + 0..64 x g5.xlarge spot"
    assert str(Cluster.parse(text)) == text
    assert Cluster.parse("head + 3 x local").groups[0].least == 3
    assert Cluster.parse("head+0..3x g5.xlarge spot").groups[0].spot


def test_a_broken_price_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("machines: {a: {cpus: 1}}")
    with pytest.raises(InputError, match="not a price table"):
        Prices.read(tmp_path / "prices.yaml")


def test_a_forecast_says_what_it_assumes_and_what_fits(tiny: Any, store: Store) -> None:
    study = tiny(seeds=[1, 2])
    cluster = Cluster.parse("head + 0..4 x g5.xlarge spot")
    found = forecast(study, store, cluster, deadline_s=1800, budget_usd=1, seconds={"learn": 300})
    assert sum(found.stages.values()) == len(plan(study.trials(), store).missing)
    assert (found.source["learn"], found.source["evaluate"]) == ("given", "assumed")
    assert found.unshared_hours > found.work_hours
    assert {course.policy for course in found.courses} == set(POLICIES)
    for course in found.courses:
        assert course.machine_hours >= found.work_hours / 4  # a machine of 4 CPUs holds 4 workers
        done = course.by
        assert done["both"]["trials"] == min(done[name]["trials"] for name in ("0.5 h", "1 USD"))
    text = "\n".join(found.lines())
    assert "assumptions as of" in text
    with pytest.raises(InputError, match=r"scale\.gpus_per_worker"):
        forecast(tiny(scale={"gpus_per_worker": 1}), store, Cluster.parse("head + 2 x m5.large"))


def test_the_command_forecasts(study_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from l2kd_ray.cli import app

    words = ["plan", str(study_file()), "--cluster", "head + 2 x local", "--deadline", "1h"]
    app([*words, "--seconds", "learn=7", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"]["learn"] == 7
    assert found["courses"][0]["by"]["1 h"]["trials"] == found["trials"] == 8
    with pytest.raises(InputError, match="not a cluster"):
        app(["plan", str(study_file()), "--cluster", "two of them"], standalone_mode=False)


def test_words_of_time_money_and_assumptions() -> None:
    assert parse_duration("8h") == 28800
    assert parse_duration("90m") == 5400
    assert parse_money("200usd") == parse_money("$200") == 200
    assert parse_assumptions(["boot_s=10", "seed=3"]) == Assumptions(boot_s=10, seed=3)
    for call, text in ((parse_duration, "soon"), (parse_money, "all"), (parse_duration, "0h")):
        with pytest.raises(InputError):
            call(text)
    for pair in ("boot=3", "boot_s=-1", "boot_s", "boot_s=inf"):
        with pytest.raises(InputError, match="--assume"):
            parse_assumptions([pair])
