"""The contents of a report beside the scores, from one snapshot.

These are costs, replay and its samples, and per-example test scores.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Damaged
from l2kd_ray.families.evaluate import PREDICTIONS
from l2kd_ray.families.language.stages.replay import SAMPLES
from l2kd_ray.names import REFERENCES
from l2kd_ray.study.agenda import halves_of
from l2kd_ray.study.answers import answers, json_lines
from l2kd_ray.study.curves import curves_of
from l2kd_ray.study.data import data_of
from l2kd_ray.study.objectives import known_scores, objectives
from l2kd_ray.study.replays import replay_quality
from l2kd_ray.study.sections import SearchOrders
from l2kd_ray.study.snapshot import Snapshot
from l2kd_ray.study.study import Study
from l2kd_ray.study.trial import Cell, Trial
from l2kd_ray.study.work import devices, hours_by_method, peak_memory, work_by_method

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.analysis import ExampleGaps
    from l2kd_ray.analysis.extreme import OrderSearch
    from l2kd_ray.analysis.matrix import FloatArray
    from l2kd_ray.analysis.scope import Scope

_SHOWN = 12
"""Number of replay samples shown per method."""
_MOST_READ = 5_000
"""Largest number of prediction files read; more would take minutes."""


def shown(snapshot: Snapshot) -> dict[str, Any]:
    """The inputs of `report.write_report` beside the scores."""
    from l2kd_ray.analysis.looks import smaller_plans

    manifests = snapshot.manifests
    replay, last = replay_quality(snapshot.reported, manifests)
    counts = snapshot.plan.stages.values()
    return {
        "planned": {
            "trials": len(snapshot.trials),
            "trials_done": len(snapshot.done),
            "stages": sum(count.unique for count in counts),
            "stages_done": sum(count.unique - count.todo for count in counts),
        },
        "failures": snapshot.failures,
        "costs": _costs(snapshot),
        "work": work_by_method(snapshot.reported, manifests),
        "spent": hours_by_method(snapshot.trials, manifests),
        **_one_instance(snapshot),
        "notes": _notes(snapshot),
        "devices": devices(snapshot.plan.every, manifests),
        "doubts": snapshot.doubts,
        "data": data_of(snapshot.study, snapshot.trials, snapshot.reader),
        "replay": replay,
        "samples": _samples(last, snapshot.reader),
        "over_examples": _over_examples(snapshot) if len(snapshot.scores) else None,
        "split": halves_of(snapshot.study) if snapshot.study.config.tune.select_on else None,
        "verdict": snapshot.wanted.verdict,
        "looks": smaller_plans(snapshot.looks, snapshot.seen),
        "order_search": order_findings(snapshot),
        "objectives": _objectives(snapshot),
        "retention": snapshot.retention if snapshot.study.config.retention else None,
        "published": {
            arm.name: snapshot.study.family.methods[arm.method].published
            for arm in snapshot.study.config.arms
        },
        "methods": _in_words(snapshot.study),
        "divergences": _divergences(snapshot.reported),
        "top_k": top_k_bias(snapshot.manifests.values()),
        **inference(snapshot),
    }


def _in_words(study: Study) -> dict[str, str]:
    """The first paragraph of what the code of each arm's method says of it, and the settings in
    which the arm differs from the study's."""
    said = {}
    for arm in study.config.arms:
        doc = inspect.getdoc(study.family.methods[arm.method].step) or ""
        own = ", ".join(f"{key}: {value}" for key, value in arm.settings.items())
        parts = [*doc.split("\n\n")[0].split(), *([f"With {own}."] if own else [])]
        if parts:
            said[arm.name] = " ".join(parts)
    return said


def _objectives(snapshot: Snapshot) -> pd.DataFrame | None:
    """The objectives of the settings that a search with two of them has finished."""
    names = snapshot.study.config.tune.objectives
    if names is None:
        return None
    cells = (cell for trial in snapshot.reported for cell in trial.cells)
    return objectives(snapshot.reported, names, known_scores(snapshot.reader, cells))


def _divergences(trials: Iterable[Trial]) -> dict[str, tuple[str, ...]]:
    """By method, the built-in divergences that its students are distilled by."""
    found: dict[str, dict[str, None]] = {}
    for trial in trials:
        name = getattr(trial.steps[-1][0].stage.model, "divergence", None)
        if name is not None:
            found.setdefault(trial.method, {})[name] = None
    return {method: tuple(names) for method, names in found.items()}


def _one_instance(snapshot: Snapshot) -> dict[str, pd.DataFrame | None]:
    """The curves and the forgotten examples of each method's selected setting, on the instance
    that most of them have finished."""
    from l2kd_ray.analysis.forgotten import forgotten

    chosen: list[Trial] = []
    if len(snapshot.scores):
        arms = set(selected_scope(snapshot).arms)
        done = {trial.id for trial in snapshot.done}
        groups: dict[tuple[object, object], list[Trial]] = {}
        for trial in snapshot.reported:
            if trial.order and trial.id in done and trial.arm in arms:
                groups.setdefault((trial.order, trial.seed), []).append(trial)
        chosen = max(groups.values(), key=len, default=[])
    lost = None
    with suppress(Damaged, OSError):  # illustrations; the report must not fail for them
        lost = forgotten(answers(snapshot, chosen))
    return {"curves": curves_of(snapshot, chosen), "forgotten": lost}


def inference(snapshot: Snapshot) -> dict[str, Any]:
    """The inputs of inference: the design, failed instances, and whether the study could have
    ended, or was read, at a look before its end."""
    from l2kd_ray.analysis.looks import looked_half_way

    stop = snapshot.study.config.tune.stop.half_width is not None
    return {
        "design": snapshot.design,
        "failed": snapshot.failed_instances,
        "stopping": stop or looked_half_way(snapshot.looks, snapshot.seen),
    }


def selected_scope(snapshot: Snapshot) -> Scope:
    """The finished orders of each method's selected setting; a snapshot with scores."""
    from l2kd_ray.analysis import results, select, within
    from l2kd_ray.analysis.design import arms_of, without_score
    from l2kd_ray.analysis.scope import Scope

    searched = list(snapshot.study.config.search)
    chosen = select(results(snapshot.selectable, searched, split="dev"))
    chosen = chosen[chosen["selected"] & ~chosen["method"].isin(REFERENCES)]
    given = inference(snapshot)
    given["failed"] = [*given["failed"], *without_score(snapshot.scores)]
    test = within(results(snapshot.scores, searched), given["design"])
    return Scope.of(
        test, [arm for arm in arms_of(chosen) if arm[0] in set(test["method"])], **given
    )


def order_findings(snapshot: Snapshot) -> OrderSearch | None:
    """The findings of a search over orders; None if the study has none, or nothing is tried."""
    import pandas as pd

    from l2kd_ray.analysis import results
    from l2kd_ray.analysis.extreme import order_search

    config = snapshot.study.config
    if not isinstance(config.orders, SearchOrders) or snapshot.scores.empty:
        return None
    scores = pd.concat([snapshot.scores, snapshot.proposed_scores], ignore_index=True)
    test, dev = results(scores), results(scores, split="dev")
    goal, budget = config.orders.search, config.orders.budget
    return order_search(test, dev, config.orders_arm or "", snapshot.design, goal, budget)


def is_read(snapshot: Snapshot) -> bool:
    """Whether a report of it shows an interval of a mean."""
    from l2kd_ray.analysis.looks import reading
    from l2kd_ray.analysis.trials import train_seed

    seen = snapshot.seen
    replicates = len(set(map(train_seed, seen.seeds)))
    return (
        replicates > 1
        and bool(seen.orders)
        and reading(seen.orders, seen.planned).level is not None
    )


def top_k_bias(manifests: Iterable[Manifest]) -> list[dict[str, float]]:
    """The bias of `kd.top_k`, by temperature: medians over trainings of
    `distill.gradients.bias`."""
    found: dict[float, list[Mapping[str, float]]] = {}
    for manifest in manifests:
        if "top_k/error" in manifest.scores:
            temperature = manifest.settings["objective"]["temperature"]
            found.setdefault(temperature, []).append(manifest.scores)

    def of(scores: list[Mapping[str, float]], name: str) -> float:
        return median(one[f"top_k/{name}"] for one in scores)

    names = ("mass", "error", "cosine")
    return [
        {"temperature": temperature, **{name: of(scores, name) for name in names}}
        for temperature, scores in sorted(found.items())
    ]


def _notes(snapshot: Snapshot) -> list[str]:
    """Notes that a reader of the report needs first."""
    tasks = snapshot.study.resolved.tasks
    notes = [f"**{name}:** {note}" for name in snapshot.study.tasks for note in tasks[name].notes]
    if shared := _taught_alike(snapshot.reported):
        notes.append(
            f"**One teacher for all seeds** of {', '.join(shared)}: intervals and tests hold for "
            "this teacher, and another one may move all seeds alike."
        )
    return notes


def _taught_alike(trials: Iterable[Trial]) -> list[str]:
    """The methods whose seeds share a task's teacher (`kd.teacher_seed`)."""
    seeds: dict[tuple[str, str, Stage], set[str]] = {}
    for trial in trials:
        for cell in () if trial.is_reference else trial.teachers:
            of_model = seeds.setdefault((trial.method, cell.task, cell.stage.model), set())
            of_model.add(str(trial.seed.train))
    return sorted({method for (method, *_), own in seeds.items() if len(own) > 1})


def _costs(snapshot: Snapshot) -> pd.DataFrame:
    """Finished stages, their seconds and the largest peak of memory, by kind; `unshared` counts
    them without sharing."""
    import pandas as pd

    rows = [(m.kind, m.seconds, peak_memory([m]) / 1e9) for m in snapshot.manifests.values()]
    frame = pd.DataFrame(rows, columns=["kind", "seconds", "peak_gb"])
    costs = frame.groupby("kind", as_index=False).agg(
        stages=("seconds", "size"), seconds=("seconds", "sum"), peak_gb=("peak_gb", "max")
    )
    alone = Counter[str]()
    for role, count in snapshot.plan.stages.items():
        alone["learn" if role == "teacher" else role] += count.naive
    return costs.assign(unshared=costs["kind"].map(alone))


def _samples(last: Mapping[str, Manifest], reader: StoreView) -> dict[str, list[dict[str, Any]]]:
    """A few lines of each method's last replay stage."""
    found = {}
    for method, manifest in last.items():
        # Samples are illustrations; the report must not fail for them.
        with suppress(Damaged, OSError):
            read = reader.each([manifest], SAMPLES, lambda file: json_lines(file, _SHOWN))
            found[method] = read[manifest.key]
    return found


def _over_examples(snapshot: Snapshot) -> pd.DataFrame:
    """The variance of each selected arm's gap that is due to the choice of test examples.

    Columns: method, setting, variance, df (`analysis.example_variance`, over the orders that the
    mean gap is over). No row for an arm with a task whose metric is no mean over examples. Empty if
    there are more than `_MOST_READ` files, or one of them is damaged.
    """
    import pandas as pd

    from l2kd_ray.analysis import MULTITASK, example_variance

    scope = selected_scope(snapshot)
    test = scope.results
    bound = test[(test["method"] == MULTITASK) & test["complete"]]
    used = {arm: scope.rows(arm) for arm in scope.arms}
    used = {a: rows[rows["order"].isin(scope.cells(a).orders)] for a, rows in used.items()}
    read = [trial for rows in (bound, *used.values()) for trial in rows["trial"]]
    by_id = {trial.id: trial for trial in snapshot.trials}
    rows: list[tuple[str, str, float, float]] = []
    if sum(len(by_id[trial].steps[-1]) for trial in read) <= _MOST_READ:
        with suppress(Damaged, OSError):  # the next sweep computes it again
            known = _Predictions(snapshot, [by_id[trial] for trial in read])
            of_bound = known.by_seed(bound, by_id)
            for arm, own in used.items():
                gaps = known.gaps(of_bound, known.by_seed(own, by_id))
                if gaps:
                    rows.append((*arm, *example_variance(gaps)))
    return pd.DataFrame(rows, columns=["method", "setting", "variance", "df"])


class _Predictions:
    """Per-example scores of the final evaluations of some trials; reads each file once."""

    def __init__(self, snapshot: Snapshot, trials: Iterable[Trial]) -> None:
        cells = {cell.stage.key: cell for trial in trials for cell in _final(trial)}
        stages = [snapshot.manifests[key] for key in cells]
        self._groups: dict[str, list[str]] = {}
        self._scores: dict[str, FloatArray] = {}
        self._corpus: set[str] = set()
        """Tasks whose metric is no mean over examples, which can be told from the scores alone."""
        for key, (scores, groups) in snapshot.reader.each(stages, PREDICTIONS, _judged).items():
            cell = cells[key]
            self._scores[key] = scores
            self._groups.setdefault(cell.task, groups)
            aggregate = snapshot.manifests[key].scores[cell.stage.metric_name]
            if not np.isclose(scores.mean(), aggregate, atol=1e-6):
                self._corpus.add(cell.task)

    def by_seed(
        self, rows: pd.DataFrame, trials: Mapping[str, Trial]
    ) -> dict[str, dict[str, FloatArray]]:
        """By training seed and task, the mean score of each test example over the trials."""
        from l2kd_ray.analysis.trials import train_seed

        found: dict[str, dict[str, FloatArray]] = {}
        for seed, own in rows.groupby(rows["seed"].map(train_seed)):
            cells = [cell for trial in own["trial"] for cell in _final(trials[trial])]
            found[str(seed)] = {
                task: np.mean([self._scores[c.stage.key] for c in cells if c.task == task], axis=0)
                for task in sorted({cell.task for cell in cells})
            }
        return found

    def gaps(
        self, bound: Mapping[str, dict[str, FloatArray]], own: Mapping[str, dict[str, FloatArray]]
    ) -> dict[str, ExampleGaps]:
        """The gaps on each test example, by task; none where a task's metric is of the corpus."""
        from l2kd_ray.analysis import ExampleGaps

        tasks = sorted({task for scores in own.values() for task in scores})
        if self._corpus.intersection(tasks):
            return {}
        return {
            task: ExampleGaps(
                np.stack([bound[seed][task] - scores[task] for seed, scores in own.items()]),
                self._groups[task],
            )
            for task in tasks
        }


def _judged(file: bytes) -> tuple[FloatArray, list[str]]:
    """The score of each example, and the group with which it is resampled."""
    lines = json_lines(file)
    scores = np.array([line["score"] for line in lines], dtype=float)
    return scores, [line.get("group") or line["id"] for line in lines]


def _final(trial: Trial) -> Iterator[Cell]:
    return (cell for cell in trial.steps[-1] if cell.split == "test")
