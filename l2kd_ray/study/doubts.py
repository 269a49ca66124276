"""The doubts about a study's scores, from what its data and its stages tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.families.evaluate import SAME_ANSWER, SAME_REFERENCE
from l2kd_ray.study.replays import replay_quality
from l2kd_ray.study.trial import Trial
from l2kd_ray.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.analysis import Doubt


def doubts(
    scores: pd.DataFrame,
    trials: Sequence[Trial],
    manifests: Mapping[str, Manifest],
    tasks: Mapping[str, Task],
) -> list[Doubt]:
    """The doubts (`analysis.sanity`) about the test scores that are there; none without any."""
    from l2kd_ray.analysis import TaskFacts, sanity
    from l2kd_ray.analysis import trials as scored

    if scores.empty:
        return []
    tests = {name: task.summaries["test"] for name, task in tasks.items()}
    facts = {name: TaskFacts(test.kept, test.majority) for name, test in tests.items()}
    replay, _ = replay_quality(trials, manifests)
    return sanity(scored(scores), facts, _answers(trials, manifests), replay)


def _answers(trials: Sequence[Trial], manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """How alike the answers of each trial's final model are: one row per trial and task."""
    import pandas as pd

    rows = []
    for trial in trials:
        for cell in trial.steps[-1]:
            scores = manifests[cell.stage.key].scores if cell.stage.key in manifests else {}
            if cell.split == "test" and SAME_ANSWER in scores:
                alike = scores[SAME_ANSWER], scores[SAME_REFERENCE]
                rows.append((*trial.arm, cell.task, *alike))
    return pd.DataFrame(rows, columns=["method", "setting", "task", "answers", "references"])
