"""The MLflow mirror: an experiment a study, with a run a trial and one of the aggregate.

The tracking server is MLflow's own setting (`MLFLOW_TRACKING_URI`); without one MLflow keeps its
database in the working folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from l2kd_ray.mirrors import ConfigValue, Mirror, MirroredStudy, StudyState, TrialRun

_ID, _NEXT = "l2kd.id", "l2kd.next_point"
_AT_ONCE, _LONGEST = 900, 6000
"""MLflow takes 1,000 metrics, and parameters of 6,000 characters."""


class MLflow(Mirror):
    """MLflow by its client, so that no run of the process is touched."""

    title = "MLflow"

    def __init__(self, study: MirroredStudy) -> None:
        super().__init__(study)
        # A dead server would be asked 7 times, for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()
        found = self._client.get_experiment_by_name(study.name)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(study.name)
        )

    def on_trial(self, trial: TrialRun) -> None:
        from mlflow.entities import Metric, RunTag

        tags = {"method": trial.method, "order": trial.order, "seed": trial.seed}
        run = self._run(trial.id, trial.name, tags, trial.config)
        first = int(run.data.tags.get(_NEXT, 0))
        metrics = [
            (point.number, Metric(_name(key), value, point.number, point.step))
            for point in trial.points
            if point.number >= first
            for key, value in point.values.items()
        ]
        for start in range(0, len(metrics), _AT_ONCE):
            part = metrics[start : start + _AT_ONCE]
            # A point that is cut in two is sent again after a crash; MLflow keeps it once.
            whole = start + _AT_ONCE >= len(metrics)
            tag = RunTag(_NEXT, str(part[-1][0] + whole))
            self._client.log_batch(run.info.run_id, metrics=[one for _, one in part], tags=[tag])
        self._numbers(run, trial.numbers, trial.points[-1].step)
        if trial.done:
            self._client.set_terminated(run.info.run_id)

    def on_study(self, study: StudyState) -> None:
        if study.state == "running" and not study.numbers:
            return
        run = self._run(study.id, f"{self.study.name}: report", {}, study.config)
        self._numbers(run, {"trials": study.trials_done, **study.numbers}, study.trials_done)
        for path in study.files:
            folder = path.parent.relative_to(self.study.folder).as_posix()
            self._client.log_artifact(run.info.run_id, str(path), folder.strip("."))
        if study.state != "running":
            state = "FAILED" if study.state == "failed" else "FINISHED"
            self._client.set_terminated(run.info.run_id, state)

    def close(self) -> str:
        from mlflow import get_tracking_uri

        return f"MLflow: experiment {self.study.name} at {get_tracking_uri()}"

    def _run(
        self, identity: str, name: str, tags: Mapping[str, str], config: Mapping[str, ConfigValue]
    ) -> Any:
        """The run with our id as a tag, made if there is none."""
        from mlflow.entities import Param

        found = self._client.search_runs([self._experiment], f"tags.`{_ID}` = '{identity}'")
        if found:
            return found[0]
        run = self._client.create_run(self._experiment, run_name=name, tags={_ID: identity, **tags})
        # What is only known later (the stages so far) is no parameter: those cannot change.
        params = [
            Param(key, str(value)[:_LONGEST])
            for key, value in config.items()
            if key not in ("models", "started")
        ]
        for start in range(0, len(params), 100):
            self._client.log_batch(run.info.run_id, params=params[start : start + 100])
        return run

    def _numbers(self, run: Any, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_name(key), value, step, step) for key, value in numbers.items()]
        self._client.log_batch(run.info.run_id, metrics=metrics)


def _name(key: str) -> str:
    """A metric's name as MLflow accepts it."""
    return re.sub(r"[^\w\-. /]", "_", key)
