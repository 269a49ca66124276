"""The data of a study's tasks, split by split, with what its stages have counted so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from l2kd_ray.core.reader import AnyStore
from l2kd_ray.core.stage import Stage
from l2kd_ray.families.cut import PREFIX
from l2kd_ray.families.evaluate import Evaluate
from l2kd_ray.study.study import Study
from l2kd_ray.study.trial import Trial
from l2kd_ray.tasks.spec import Split
from l2kd_ray.tasks.summary import SplitSummary

Cuts = Mapping[str, int]
"""The scores of `families.cut`, without their prefix."""


@dataclass(frozen=True)
class SplitData:
    """One split of one task."""

    task: str
    split: Split
    summary: SplitSummary
    cut: Cuts | None
    """Counts of examples and tokens that did not fit; None before a stage has counted them."""
    remarks: tuple[str, ...] = ()
    """Sentences about how the task's splits came about, kept with its training split."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def data_of(study: Study, trials: Iterable[Trial], source: AnyStore) -> list[SplitData]:
    """The data of each task and split; one stored stage of each tells what is cut."""
    stored = source.listing().finished
    counted: dict[tuple[str, str], Stage] = {}
    for trial in trials:
        for stage in trial.stages():
            place = _place(stage)
            if place is not None and stage.key in stored:
                counted.setdefault(place, stage)
    manifests = source.manifests({stage.key: stage.kind for stage in counted.values()})
    cuts = {
        place: _cuts(manifests[stage.key].scores)
        for place, stage in counted.items()
        if stage.key in manifests
    }
    return [
        SplitData(
            name, split, summary, cuts.get((name, split)), task.remarks if split == "train" else ()
        )
        for name, task in ((name, study.resolved.tasks[name]) for name in study.tasks)
        for split, summary in task.summaries.items()
    ]


def _place(stage: Stage) -> tuple[str, str] | None:
    """The task and the split whose examples a stage counts: an evaluation's, or the one trained
    on."""
    if isinstance(stage, Evaluate):
        return stage.task, stage.examples.data.split
    tasks: Sequence[Any] = getattr(stage, "tasks", ())
    return (tasks[0].task, "train") if stage.kind == "learn" and len(tasks) == 1 else None


def _cuts(scores: Mapping[str, float]) -> Cuts:
    return {
        name.removeprefix(PREFIX): int(n) for name, n in scores.items() if name.startswith(PREFIX)
    }
