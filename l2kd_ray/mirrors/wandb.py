"""The W&B mirror: a run per trial and one of the aggregate, grouped by the study.

Online where a key is set, else offline below the study's folder, as after a failure online. Offline
runs cannot be resumed, so they are written anew, without what has been uploaded meanwhile.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from l2kd_ray.mirrors import AXIS, Mirror, MirroredStudy, StudyState, TrialRun
from l2kd_ray.study.schema import StudyConfig

# Variables that would tie our runs to a run, a sweep or a service of the calling process.
_FOREIGN = ("SERVICE", "SWEEP_ID", "LAUNCH", "RUN_ID", "NOTES", "RESUME_FROM", "FORK_FROM", "MODE")
_LONGEST_TAG, _LONGEST_NAME = 64, 128  # the server refuses longer ones
_WRITTEN = "points"
"""A file in an offline run: the number of the trial's next point."""


class Wandb(Mirror):
    """Weights & Biases; `wandb` in the study file says where."""

    title = "W&B"

    @classmethod
    def ways(cls, config: StudyConfig) -> Sequence[str]:
        """The modes to try in turn; with `auto` the child asks W&B whether a key is set."""
        mode: str = config.wandb.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE", mode)
        known: dict[str, tuple[str, ...]] = {
            "online": ("online", "offline"),
            "offline": ("offline",),
            "dryrun": ("offline",),  # W&B's former name of it
            "disabled": (),
        }
        return known.get(mode, ("auto", "offline"))

    def __init__(self, study: MirroredStudy) -> None:
        super().__init__(study)
        _prepare(study.way)
        import wandb

        has_key = study.way == "auto" and wandb.login(prompt=False, verify=False)
        self._online = study.way == "online" or has_key
        self.live = self._online
        self._trials, self._where = set[str](), ""

    def on_study(self, study: StudyState) -> None:
        import wandb

        if study.state == "running" and not study.numbers:
            return
        with self._open(
            study.id,
            self._first(study.id),
            f"{self.study.name}: report",
            job_type="report",
            config=dict(study.config),
        ) as run:
            # W&B copies an artifact's files there (default: home folder), offline until the sync.
            os.environ["WANDB_DATA_DIR"] = run.settings.sync_dir
            figures = [path for path in study.files if path.suffix == ".png"]
            media = {f"tables/{name}": _table(frame) for name, frame in study.tables.items()}
            media |= {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
            done = {"trials": study.trials_done, "trials_wanted": study.trials}
            run.define_metric("*", step_metric="trials")
            run.log({**media, **study.numbers, **done})
            run.summary.update({**done, **study.numbers})
            if study.files:
                artifact = wandb.Artifact(_artifact(self.study.name, "results"), type="results")
                for path in study.files:
                    name = path.relative_to(self.study.folder).as_posix()
                    artifact.add_file(str(path), name=name)
                run.log_artifact(artifact)
            self._where = str(run.url)

    def on_trial(self, trial: TrialRun) -> None:
        first = self._first(trial.id)
        tags = [
            f"{key}:{value}"
            for key, value in (("method", trial.method), ("order", trial.order))
            if value
        ]
        with self._open(
            trial.id,
            first,
            trial.name,
            job_type=trial.method,
            tags=[tag[:_LONGEST_TAG] for tag in tags],
            config=dict(trial.config),
        ) as run:
            run.define_metric(AXIS)
            run.define_metric("*", step_metric=AXIS)
            first = run.starting_step if self._online else first
            for point in trial.points:
                if point.number >= first:
                    run.log({AXIS: point.step, **point.values}, step=point.number)
            run.summary.update(trial.numbers)
            if trial.student is not None:
                _keep_student(run, trial)
            if not self._online:
                written = Path(run.settings.sync_dir, _WRITTEN)
                written.write_text(str(trial.points[-1].number + 1), encoding="utf-8")
        self._trials.add(trial.id)
        if self._online:  # else a later sync would upload it a second time
            self._remove_offline(trial.id)

    def close(self) -> str:
        how = "online" if self._online else "offline"
        written = f"W&B: {len(self._trials)} trials and the aggregate written {how}"
        if self._online:
            return f"{written}: {self._where}"
        folder = self.study.folder / "wandb"
        return f"{written} to {folder} (`wandb sync {folder}/offline-run-*` uploads)"

    def _open(self, identity: str, first: int, name: str, **fields: Any) -> Any:
        """Start the run of that id, or resume it."""
        import wandb

        folder, config = self.study.folder, self.study.config
        if not self._online:
            if not os.access(folder, os.W_OK):  # W&B would write to the temp folder instead
                raise PermissionError(f"cannot write to {folder}")
            self._remove_offline(identity)
        return wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity,
            group=config.name,
            id=identity,
            name=name[:_LONGEST_NAME],
            mode="online" if self._online else "offline",
            dir=tempfile.gettempdir() if self._online else folder,
            resume="allow" if self._online else None,
            allow_val_change=True,
            settings=wandb.Settings(
                init_timeout=min(15.0, self.study.limit / 4),
                finish_timeout=min(45.0, self.study.limit),  # the default is for ever
                finish_timeout_raises=True,
                symlink=False,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                x_transaction_log_flush_interval=2,
            ),
            **fields,
        )

    def _offline(self, identity: str) -> list[Path]:
        return sorted((self.study.folder / "wandb").glob(f"offline-run-*-{identity}"))

    def _first(self, identity: str) -> int:
        """The number of the first point that no synced offline run has; 0 where none is synced."""
        synced = [run / _WRITTEN for run in self._offline(identity) if _is_synced(run)]
        return max((int(file.read_text("utf-8")) for file in synced if file.exists()), default=0)

    def _remove_offline(self, identity: str) -> None:
        for run in self._offline(identity):
            if self._online or not _is_synced(run):
                shutil.rmtree(run)


def _is_synced(run: Path) -> bool:
    """True if `wandb sync` has uploaded an offline run."""
    return any(run.glob("*.synced"))


def _prepare(way: str) -> None:
    """Set up this process for W&B, before its import."""
    foreign = {f"WANDB_{name}" for name in _FOREIGN}
    if way == "offline":
        foreign.add("WANDB_API_KEY")  # not needed, so it cannot be written anywhere
    for name in foreign:
        os.environ.pop(name, None)
    os.environ |= {
        "WANDB_CACHE_DIR": tempfile.gettempdir(),
        "WANDB_ERROR_REPORTING": "false",  # nothing calls home
        "WANDB_SILENT": "true",  # or the search for a key asks the server for the user's name
    }
    # Each run would be given the inputs that a W&B Launch job has staged; there are none, and the
    # import of Launch is more than a third of the CPU time of 25 finished trials (docs/log.md).
    unstaged = SimpleNamespace(apply=lambda _: None)
    launch: Any = SimpleNamespace(StagedLaunchInputs=lambda: unstaged)
    sys.modules["wandb.sdk.launch.inputs.internal"] = launch
    # W&B gives wandb-core a session of its own, in which it would outlive this process. Here it
    # stays in our process group, and killing the group ends it, too.
    start = subprocess.Popen.__init__

    def start_here(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **{**kwargs, "start_new_session": False})

    subprocess.Popen.__init__ = start_here  # type: ignore[method-assign]


def _keep_student(run: Any, trial: TrialRun) -> None:
    """Store a trial's final student, with the stages that it came from, in the run that made it."""
    import wandb

    os.environ["WANDB_DATA_DIR"] = run.settings.sync_dir
    lineage = {name: trial.config[name] for name in ("trial", "method", "order", "seed", "models")}
    artifact = wandb.Artifact(_artifact("student", trial.trial), type="model", metadata=lineage)
    artifact.add_dir(str(trial.student))
    run.log_artifact(artifact)


def _artifact(*parts: str) -> str:
    """A name for an artifact, with forbidden characters replaced."""
    return re.sub(r"[^\w.-]", "_", "-".join(parts))


def _table(frame: pd.DataFrame) -> Any:
    import wandb

    cells = frame.astype(object).where(frame.notna(), None)
    return wandb.Table(
        columns=[str(column) for column in cells],
        data=list(cells.to_numpy()),
        allow_mixed_types=True,
    )
