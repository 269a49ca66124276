"""The trackio mirror: a project a study, in trackio's own local database (`TRACKIO_DIR`).

trackio show --project NAME
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l2kd_ray.mirrors import AXIS, Mirror, StudyState, TrialRun


class Trackio(Mirror):
    """trackio, whose interface is W&B's."""

    title = "trackio"

    def on_trial(self, trial: TrialRun) -> None:
        rows = {one.number: {AXIS: one.step, **one.values} for one in trial.points}
        if trial.done:
            # Rows of their own: a trial may be done, and its gap known, after its last point.
            last = trial.points[-1]
            rows[last.number + 1 + ("gap/abs" in trial.numbers)] = {
                AXIS: last.step,
                **trial.numbers,
            }
        self._log(f"{trial.name} {trial.trial}", trial.method, dict(trial.config), rows)

    def on_study(self, study: StudyState) -> None:
        if study.numbers:
            row = {study.trials_done: {"trials": study.trials_done, **study.numbers}}
            self._log("report", "report", dict(study.config), row)

    def close(self) -> str:
        return f"trackio: trackio show --project {self.study.name}"

    def _log(
        self,
        name: str,
        group: str,
        config: Mapping[str, Any],
        rows: Mapping[int, Mapping[str, float]],
    ) -> None:
        """Log the rows of a run that it does not have yet, by their numbers."""
        import trackio

        run = trackio.init(
            project=self.study.name,
            name=name,
            group=group,
            config=dict(config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        first = run._next_step  # after the last step that is stored; there is no public name
        for number, row in rows.items():
            if number >= first:
                run.log(dict(row), step=number)
        trackio.finish()
