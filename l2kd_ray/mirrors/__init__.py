"""Mirrors, which show a study elsewhere, while it runs and at its end.

A mirror is a class with the methods of `Mirror`: W&B, TensorBoard, MLflow, trackio, a command or
URL on events (`on_event`), or one of the user's own (`report_to: [./file.py:Mine]`). The Parquet
files hold the numbers; a mirror only shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.section import Section
from l2kd_ray.study.schema import StudyConfig

if TYPE_CHECKING:
    import pandas as pd

AXIS = "global_step"
"""The x axis of all curves: steps that a trial's stages have taken so far."""
ConfigValue = bool | int | float | str | None | Sequence[bool | int | float | str | None]


@dataclass(frozen=True)
class Point:
    """One row of a trial: a training step's values, or the test scores after a task."""

    number: int
    """Its place among the trial's points, the same whenever it is sent. A number is left out where
    the curve of a stage is gone (`keep: leaves`)."""
    step: int
    """Steps that the trial's stages have taken so far."""
    values: Mapping[str, float]
    """`stage` (tasks learned), `train/loss`, `eval/<task>/<metric>`, ..."""


@dataclass(frozen=True)
class TrialRun:
    """A trial as far as it has come. Points never change: a later call only has more of them."""

    id: str
    """The same in every sweep and report of the study."""
    trial: str
    method: str
    order: str
    """`a>b>c`; empty for references and methods without an order."""
    seed: str
    setting: str
    """`kd.temperature=2 kd.weight=1`, the searched settings; may be empty."""
    config: Mapping[str, ConfigValue]
    """All settings of the trial by dotted name, defaults included, without secrets."""
    points: Sequence[Point]
    numbers: Mapping[str, float]
    """`score/<task>/<metric>`, `cl/avg`, `gap/abs`, ... as far as they are known, and `seconds`."""
    done: bool
    student: Path | None = None
    """The folder of the final student, if it is to be uploaded."""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.method, self.order, self.seed, self.setting)))


@dataclass(frozen=True)
class StudyState:
    """A study as far as it has come: the aggregate over its trials."""

    id: str
    state: Literal["running", "finished", "failed", "late"]
    """`failed`: a stage or the machine failed; `late`: the time budget is over."""
    trials: int
    trials_done: int
    looks: int
    """Planned looks that have been reached (`tune.stop.half_width`, `scheduler: race`)."""
    numbers: Mapping[str, float]
    """Means by method: `gap/abs/l2kd kd.temperature=2`, ..."""
    tables: Mapping[str, pd.DataFrame]
    config: Mapping[str, ConfigValue]
    """The study file by dotted name, without secrets."""
    failures: Sequence[str] = ()
    files: Sequence[Path] = ()
    """The result files and figures, once the report is written."""


@dataclass(frozen=True)
class MirroredStudy:
    """The arguments of a mirror: what it shows, and how."""

    config: StudyConfig
    folder: Path
    """The folder of the study's result files; what a mirror keeps in files belongs there."""
    way: str = ""
    """One of the mirror's `ways`."""
    options: Section | None = None
    """The mirror's own section of the study file, if its class declares one (`door.options`)."""
    limit: float = 60.0
    """Seconds that a call may take."""

    @property
    def name(self) -> str:
        return self.config.name


class Mirror:
    """The base class of mirrors. Each method may be left as it is.

    All calls come from one process beside the sweep, one after another, and may be repeated with
    what they were given before: nothing may be shown twice. An exception, or a call that takes
    longer than a minute, ends the mirror with one warning; when the study has ended a new instance
    is given everything once more.
    """

    title: ClassVar[str] = ""
    """Its name in messages; default: as in the study file."""
    live: bool = True
    """False if nobody can look before the end of the study: until then the mirror is told finished
    trials only, and no aggregate."""

    @classmethod
    def ways(cls, config: StudyConfig) -> Sequence[str]:
        """The ways to try in turn; the same one again is tried at the end of the study."""
        return "", ""

    def __init__(self, study: MirroredStudy) -> None:
        self.study = study

    def on_stage(self, stage: Manifest) -> None:
        """A stage has finished, in this sweep or before."""

    def on_trial(self, trial: TrialRun) -> None:
        """A trial has come further."""

    def on_study(self, study: StudyState) -> None:
        """The study has come further; the last call has another state than `running`."""

    def close(self) -> str:
        """The last call; returns where the study is shown, for the terminal. All must have been
        written or sent by then: what the process leaves to its exit may be cut short."""
        return ""
