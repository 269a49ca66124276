"""Stops, races and selection on a half: what is run, given scores that a test writes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.scored import Scored, run

from l2kd_ray.analysis import Outcome, results, select
from l2kd_ray.cluster import sweep
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.names import SEPARATOR
from l2kd_ray.study import Study, Trial
from l2kd_ray.study.agenda import batches, design_of, halves_of, most, wanted
from l2kd_ray.study.trial import stages_of

FOUR = ["gen.hotel", "gen.intent", "gen.rest", "gen.tv"]  # 24 orders: looks at 12, 24


def orders_in(trials: list[Trial]) -> set[str]:
    return {SEPARATOR.join(trial.order) for trial in trials if trial.order}


def noise(trial: Trial) -> float:
    """A small number of the trial, the same every time."""
    return (int(trial.id, 16) % 1000) / 1000 - 0.5


@pytest.fixture
def four(tiny: Any) -> Callable[..., Study]:
    def make(**changes: Any) -> Study:
        return tiny(**{"tasks": FOUR, "methods": ["lamol"], "seeds": [1, 2, 3], **changes})  # type: ignore[no-any-return]

    return make


def test_without_a_rule_everything_is_one_batch(four: Any) -> None:
    study = four()
    nothing: Any = Scored(lambda *_: 0.0)
    assert [batch.trials for batch in batches(study, nothing)] == [study.trials()]
    assert not wanted(study, nothing).complete


def test_a_narrow_interval_stops_at_the_first_look(four: Any) -> None:
    study = four(tune={"stop": {"half_width": 5.0}})
    done, found, store = run(study, lambda t, _: 90.0 if not t.order else 50.0 + noise(t))
    assert len(done) == 1
    assert orders_in(done[0]) == set(design_of(study).orders[:12])
    assert found.verdict is not None
    assert found.verdict.stop
    assert len(most(study, store)) == 24 * 3 + 6


def test_a_width_out_of_reach_runs_on_and_says_so(four: Any) -> None:
    study = four(tune={"stop": {"half_width": 0.01}})

    def seeds_differ(trial: Trial, split: str) -> float:
        return 90.0 if not trial.order else 50.0 + 5 * trial.seed.train + noise(trial)

    done, found, _ = run(study, seeds_differ)
    assert [len(orders_in(batch)) for batch in done] == [12, 12]
    assert found.verdict is not None
    assert not found.verdict.stop
    assert found.verdict.outcome is Outcome.NO_ORDER_LEFT


def test_a_race_gives_up_settings_that_cannot_win(four: Any) -> None:
    study = four(search={"replay.ratio": {"grid": [0.1, 0.5, 0.6]}}, tune={"scheduler": "race"})

    def small_is_bad(trial: Trial, split: str) -> float:
        if not trial.order:
            return 90.0
        return {0.1: 10.0, 0.5: 60.0, 0.6: 60.2}[trial.setting["replay.ratio"]] + noise(trial)

    done, found, store = run(study, small_is_bad)
    ran = [{t.setting["replay.ratio"] for t in batch if t.order} for batch in done]
    assert ran[0] == {0.1, 0.5, 0.6}
    assert 0.1 not in ran[1]
    assert ran[1] >= {0.6}
    assert found.dropped["lamol"]['{"replay.ratio": 0.1}'] == 12

    scores = study.scores(store, found.trials)  # type: ignore[arg-type]
    chosen = select(results(found.selectable(scores), ["replay.ratio"], split="dev"))
    best = chosen.loc[chosen["selected"] & (chosen["method"] == "lamol"), "setting"]
    assert best.tolist() == ['{"replay.ratio": 0.6}']
    assert set(found.selectable(scores)["setting"]) == set(scores["setting"])  # test scores stay


def test_a_race_is_between_the_settings_that_a_method_reads(four: Any) -> None:
    """LAMOL reads no temperature: its settings are two, and the worse one is given up."""
    search = {"replay.ratio": {"grid": [0.1, 0.6]}, "kd.temperature": {"grid": [1, 2]}}
    study = four(search=search, tune={"scheduler": "race"}, methods=["lamol", "l2kd"])

    def small_is_bad(trial: Trial, split: str) -> float:
        return {0.1: 10.0, 0.6: 60.0}[trial.setting.get("replay.ratio", 0.6)] + noise(trial)

    done, found, _ = run(study, small_is_bad)
    assert found.dropped["lamol"] == {'{"replay.ratio": 0.1}': 12}
    left = [t for t in done[1] if t.method == "lamol"]
    assert {t.setting["replay.ratio"] for t in left} == {0.6}


OPTUNA = {"searcher": "optuna", "num_samples": 4}
RATIOS = (0.1, 0.5, 0.6)
GIVEN_UP = '{"replay.ratio": 0.1}'


def racing(four: Any) -> Study:
    return four(search={"replay.ratio": {"grid": [*RATIOS]}}, tune={"scheduler": "race"})  # type: ignore[no-any-return]


def ratio(trial: Trial) -> float:
    return float(trial.setting.get("replay.ratio", 0.5))


def test_a_race_reads_dev_alone(four: Any) -> None:
    """On test the setting that loses on dev is the best by far."""

    def opposite(trial: Trial, split: str) -> float:
        worst, best = (0.1, 0.6) if split == "dev" else (0.6, 0.1)
        return {worst: 10.0, 0.5: 50.0, best: 60.0}[ratio(trial)] + noise(trial)

    _, found, _ = run(racing(four), opposite)
    assert found.dropped["lamol"][GIVEN_UP] == 12
    assert '{"replay.ratio": 0.6}' not in found.dropped["lamol"]


class AsFinal(Scored):
    """The score that a test gives belongs to the last student; those before it have another."""

    def run(self, trials: Any) -> None:
        for trial in trials:
            for cell in trial.cells:
                last = cell in trial.steps[-1]
                value = self.score(trial, cell.split) if last else 100 * (ratio(trial) == 0.1)
                self.scores[cell.stage.key] = {cell.stage.metric_name: value}


def test_a_race_reads_the_student_after_its_last_task(four: Any) -> None:
    """Before that, the setting that loses is at 100 and the others at 0."""
    store: Any = AsFinal(lambda trial, _: 60.0 - 5 * (ratio(trial) == 0.1) + noise(trial))
    dropped = {}
    for batch in batches(racing(four), store):
        store.run(batch.trials)
        dropped = dict(batch.dropped)
    assert dropped["lamol"][GIVEN_UP] == 12


def test_a_race_does_not_judge_a_block_that_lacks_a_seed(four: Any) -> None:
    """A trial that failed has no score; the mean of the other seeds is none of the block."""
    study = racing(four)

    def small_is_bad(trial: Trial, split: str) -> float:
        return {0.1: 10.0, 0.5: 60.0, 0.6: 60.2}[ratio(trial)] + noise(trial)

    store: Any = Scored(small_is_bad)
    looks = batches(study, store)
    first = next(looks)
    store.run(first.trials)
    lost = next(t for t in first.trials if t.order and t.setting["replay.ratio"] == 0.1)
    for cell in lost.steps[-1]:
        del store.scores[cell.stage.key]
    second = next(looks)
    assert second.dropped == {"lamol": {}}
    assert {ratio(t) for t in second.trials if t.order} == set(RATIOS)


def test_selection_leaves_out_the_dev_scores_of_what_was_given_up(four: Any) -> None:
    """And nothing else: they may be of easy orders, and the highest of all."""
    study = racing(four)
    _, found, store = run(study, lambda t, _: 10.0 * ratio(t) + 0.1 * noise(t))
    scores = study.scores(store, found.trials)  # type: ignore[arg-type]
    lost = scores["setting"].isin(found.dropped["lamol"]) & (scores["method"] == "lamol")
    wanted = scores[~(lost & (scores["split"] == "dev"))]
    assert GIVEN_UP in set(scores["setting"][lost])
    assert found.selectable(scores).equals(wanted)
    assert len(wanted) < len(scores)


def test_settings_are_selected_on_one_half_and_run_on_the_other(four: Any) -> None:
    study = four(
        search={
            "replay.ratio": {"grid": [0.1, 0.5]},
            "select_on": {"orders": "half", "seeds": "half"},
        }
    )

    def score(trial: Trial, split: str) -> float:
        if not trial.order:
            return 90.0
        best_on_dev = trial.setting["replay.ratio"] == 0.5
        return 60.0 if best_on_dev == (split == "dev") else 40.0

    done, _, store = run(study, score)
    split = halves_of(study)
    first, second = ([t for t in batch if t.order] for batch in done)
    assert {t.setting["replay.ratio"] for t in first} == {0.1, 0.5}
    assert {t.setting["replay.ratio"] for t in second} == {0.5}  # by dev, though test says else
    assert orders_in(first) == set(split.select.orders)
    assert orders_in(second) == set(split.report.orders)
    assert not orders_in(first) & orders_in(second)
    assert not {str(t.seed) for t in first} & {str(t.seed) for t in second}
    assert len(most(study, store)) == sum(map(len, done))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {
                "search": {"replay.ratio": {"uniform": [0.1, 0.5]}},
                "tune": {"scheduler": "asha"},
            },
            "easy ones",
        ),
        ({"tune": {"scheduler": "race"}}, "nothing is searched"),
        (
            {
                "orders": {"random": 22},
                "search": {"replay.ratio": {"grid": [0.1, 0.5]}},
                "tune": {"scheduler": "race"},
            },
            "no look before its last one",
        ),
        ({"tune": {"stop": {"half_width": 1, "method": "nobody"}}}, "no such method"),
        (
            {
                "search": {"replay.ratio": {"grid": [0.1, 0.5]}},
                "tune": {"scheduler": "race", "select_on": {"seeds": "half"}},
            },
            "together",
        ),
        (
            {
                "search": {"replay.ratio": {"grid": [0.1, 0.5]}},
                "tune": {"stop": {"half_width": 1}},
            },
            "one setting",
        ),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(four: Any, changes: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        four(**changes)


# An adaptive search by Ray Tune ------------------------------------------------------------------


def test_a_search_notes_each_setting_as_it_ends(four: Any, capsys: Any) -> None:
    """So that a sweep that is killed goes on with what it has finished."""
    study = four(search={"replay.ratio": {"uniform": [0.1, 0.6]}}, tune=OPTUNA)
    noted = []
    log = sweep.SearchLog(study, "lamol", [], lambda setting, whole: noted.append((setting, whole)))
    whole = study.training_length
    results = {0.1: {"trained": whole}, 0.2: {"trained": whole - 1}, 0.3: {"failed": True}, 0.4: {}}
    for ratio, told in results.items():
        score = {} if "failed" in told or not told else {sweep._OBJECTIVE: 100 * ratio}
        named = {sweep._TRAINED if name == "trained" else name: v for name, v in told.items()}
        config = {"trial": {"setting": {"replay.ratio": ratio}}}
        trial = SimpleNamespace(config=config, last_result={**named, **score})
        log.on_trial_complete(0, [], trial)
    # The second was cut by ASHA, and the last by the time limit, so it is open again.
    assert noted == [
        ({"replay.ratio": 0.1}, True), ({"replay.ratio": 0.2}, False), ({"replay.ratio": 0.3}, True)
    ]  # fmt: skip
    assert "replay.ratio=0.1: dev 10.00" in capsys.readouterr().err


def test_an_adaptive_search_drops_no_model_before_its_end(four: Any, store: Store) -> None:
    """Its next proposals may read any."""
    for changes, drops in ((OPTUNA, False), ({}, True)):
        study = four(search={"replay.ratio": {"uniform": [0.1, 0.6]}}, tune=changes, keep="leaves")
        trials = study.trials({"lamol": [{"replay.ratio": 0.2}]} if study.is_adaptive else None)
        assert bool(sweep._readers(study, store, trials, stages_of(trials))) == drops
