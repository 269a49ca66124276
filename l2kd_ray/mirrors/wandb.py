"""The W&B mirror of a study: one run per trial and one aggregate run, from the result files.

The Parquet files hold the numbers; W&B only shows them. All W&B work happens in a child process
under a time limit, so that a dead, slow, hanging or missing W&B costs bounded seconds and a
warning, and never an exception.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from l2kd_ray.core.scratch import Scratch
from l2kd_ray.errors import SECRET_NAME, masked
from l2kd_ray.study.schema import WandbSettings

log = logging.getLogger(__name__)

CurvePoints = Sequence[Mapping[str, float]]

_AXIS = "global_step"
"""Steps that a trial's stages have taken so far. Never `_step`: syncing a run twice shifts it."""
_RESULT_FILES = (
    *("scores.parquet", "results.parquet", "proposed.parquet"),
    *("report.html", "report.md"),
)
_HEADLINES = ("cl/", "gap/")
_REQUEST, _DONE = "request.json", "done"

# Variables that would tie our runs to a run, a sweep or a service of the calling process.
_FOREIGN = ("SERVICE", "SWEEP_ID", "LAUNCH", "RUN_ID", "NOTES", "RESUME_FROM", "FORK_FROM", "MODE")
_LONGEST_TAG, _LONGEST_NAME = 64, 128  # the server refuses longer ones


@dataclass(frozen=True)
class _Request:
    """The arguments of the child; it crosses the process border as JSON."""

    folder: str
    study: str
    project: str
    entity: str | None
    mode: str
    config: Mapping[str, Any]
    curves: Mapping[str, CurvePoints]
    students: Mapping[str, str]
    limit: float


def mirror(
    folder: Path,
    settings: WandbSettings,
    *,
    study: str,
    config: Mapping[str, Any],
    curves: Mapping[str, CurvePoints],
    students: Mapping[str, Path] | None = None,
    time_limit: float = 120.0,
) -> str:
    """Mirror the result files in `folder` to W&B; returns a line that says what was done.

    Online if a key is set, else offline below `folder/wandb`. A failure falls back one step
    (online, offline, nothing), each with one warning. Repeating it replaces the offline runs and
    continues the online ones.

    Args:
        study: the group of the runs.
        config: settings of the whole study; values whose names look like secrets are left out.
        curves: training curves (rows of `step`, `loss`, `lr`) of the models by stage key.
        students: folders of final students by stage key, stored as artifacts of their trials' runs.
        time_limit: seconds after which everything is stopped and this returns.
    """
    folder = Path(folder).absolute()
    deadline = time.monotonic() + time_limit
    modes = _modes(settings)
    for tried, mode in enumerate(modes, start=1):
        left = deadline - time.monotonic()
        try:
            return _in_child(
                _Request(
                    folder=str(folder),
                    study=study,
                    project=settings.project,
                    entity=settings.entity,
                    mode=mode,
                    config=flat(config),
                    curves={key: [dict(point) for point in curve] for key, curve in curves.items()},
                    students={key: str(path) for key, path in (students or {}).items()},
                    # A first attempt leaves a third of the time to the second one.
                    limit=left if tried == len(modes) else left * 2 / 3,
                )
            )
        except Exception as error:  # whatever it is: a failing mirror must not fail a sweep
            log.warning("W&B: could not mirror study %s (%s): %s", study, mode, error)
    if modes:
        return f"W&B: nothing was mirrored; the result files in {folder} are complete without it"
    return "W&B: disabled"


def run_id(study: str, trial: str = "") -> str:
    """The id of a trial's run, or of the aggregate run; the same each time it is written."""
    digest = hashlib.sha256(f"{study}\n{trial}".encode()).hexdigest()
    return f"l2kd-{digest[:16]}"


def flat(config: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, without secrets."""
    items = config.items() if isinstance(config, Mapping) else enumerate(config)
    flattened: dict[str, Any] = {}
    for key, value in items:
        name = f"{prefix}{key}"
        if _is_secret(str(key), value):
            continue
        if isinstance(value, Mapping) or (_is_list(value) and any(map(_is_nested, value))):
            flattened |= flat(value, f"{name}.")
        elif _is_list(value):
            flattened[name] = [_plain(item) for item in value if not _is_secret("", item)]
        else:
            flattened[name] = _plain(value)
    return flattened


def _is_secret(name: str, value: object) -> bool:
    if isinstance(value, str) and masked(value) != value:
        return True
    is_count = isinstance(value, int) and name.endswith("tokens")  # max_new_tokens: 64
    return SECRET_NAME.search(name) is not None and not is_count


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_nested(value: object) -> bool:
    return isinstance(value, Mapping) or _is_list(value)


def _plain(value: object) -> bool | int | float | str | None:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


# --- the parent's side ------------------------------------------------------------------------


def _modes(settings: WandbSettings) -> tuple[str, ...]:
    """The modes to try in turn; with `auto` the child asks W&B whether a key is set."""
    mode: str = settings.mode
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", mode)
    ways: dict[str, tuple[str, ...]] = {
        "online": ("online", "offline"),
        "offline": ("offline",),
        "dryrun": ("offline",),  # W&B's former name of it
        "disabled": (),
    }
    return ways.get(mode, ("auto", "offline"))


def _in_child(request: _Request) -> str:
    """Do the work in a child process. Raises RuntimeError with its error, or if time is over."""
    with Scratch("wandb") as folder:
        scratch = Path(folder)
        text = json.dumps(vars(request), default=float)
        (scratch / _REQUEST).write_text(text, encoding="utf-8")
        reason = ""
        with (scratch / "log").open("wb") as output:
            child = subprocess.Popen(
                # -P: the working folder is the user's and may hold a queue.py of theirs.
                [sys.executable, "-P", "-m", "l2kd_ray.mirrors.wandb", scratch],
                stdin=subprocess.DEVNULL,  # no terminal: W&B must not ask for a key
                stdout=output,
                stderr=output,
                env=_environment(request.mode, scratch),
                start_new_session=True,
            )
            try:
                child.wait(request.limit)
            except subprocess.TimeoutExpired:
                reason = f"not done within {request.limit:.0f} s"
            finally:
                _end_group(child)
        if (scratch / _DONE).exists():  # also where only the exit was too slow
            return (scratch / _DONE).read_text(encoding="utf-8")
        printed = (scratch / "log").read_text(encoding="utf-8", errors="replace").strip()
    raise RuntimeError(reason or printed.rpartition("\n")[2] or f"ended with {child.returncode}")


def _environment(mode: str, scratch: Path) -> dict[str, str]:
    """The caller's environment without the names of its own runs; temporary files go to scratch."""
    foreign = {f"WANDB_{name}" for name in _FOREIGN}
    if mode == "offline":
        foreign.add("WANDB_API_KEY")  # not needed, so it cannot be written anywhere
    code = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    added = {
        "PYTHONPATH": os.pathsep.join(filter(None, code)),
        "TMPDIR": str(scratch),
        "WANDB_CACHE_DIR": str(scratch),
        "WANDB_ERROR_REPORTING": "false",  # nothing calls home
        "WANDB_SILENT": "true",  # or the search for a key asks the server for the user's name
    }
    return {key: value for key, value in os.environ.items() if key not in foreign} | added


def _end_group(child: subprocess.Popen[bytes], grace: float = 0.5) -> None:
    """End the child and its processes; a wandb-core with a dead server ignores SIGTERM."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + grace
        while time.monotonic() < until:
            child.poll()  # reaps it: a zombie would keep the group
            try:
                os.killpg(child.pid, ending)
            except (ProcessLookupError, PermissionError):  # none left (macOS: or only zombies)
                return
            time.sleep(0.05)


# --- the child's side -------------------------------------------------------------------------


def _write(request: _Request) -> str:
    """Write all runs; returns the line that reports it."""
    import wandb

    if request.mode == "auto":
        has_key = wandb.login(prompt=False, verify=False)
        request = replace(request, mode="online" if has_key else "offline")
    folder = Path(request.folder)
    scores, results = _read(folder / "scores.parquet"), _read(folder / "results.parquet")
    trials = dict(list(scores.groupby("trial", sort=False))) if len(scores) else {}

    # The aggregate first: it is the more useful part if the mirror is cut short.
    where = _write_aggregate(request, trials, results)
    for trial, rows in trials.items():
        result = results[results["trial"] == trial] if len(results) else results
        _write_trial(request, str(trial), rows, result)

    written = f"W&B: {len(trials)} trials and the aggregate written {request.mode}"
    if request.mode == "online":
        for name in ("", *map(str, trials)):  # else a later sync would upload them a second time
            _remove_offline(folder, run_id(request.study, name))
        return f"{written}: {where}"
    return f"{written} to {folder / 'wandb'} (`wandb sync {folder}/wandb/offline-run-*` uploads)"


def _read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()


def _open(request: _Request, identity: str, **fields: Any) -> Any:
    """Start the run of that id, or resume it."""
    import wandb

    online = request.mode == "online"
    if not online:
        if not os.access(request.folder, os.W_OK):  # W&B would write to the temp folder instead
            raise PermissionError(f"cannot write to {request.folder}")
        _remove_offline(Path(request.folder), identity)  # offline resume does not exist
    return wandb.init(
        project=request.project,
        entity=request.entity,
        group=request.study,
        id=identity,
        mode="online" if online else "offline",
        dir=tempfile.gettempdir() if online else request.folder,
        resume="allow" if online else None,
        allow_val_change=True,
        settings=wandb.Settings(
            init_timeout=min(15.0, request.limit / 4),
            finish_timeout=min(60.0, request.limit),  # the default is for ever
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


def _remove_offline(folder: Path, identity: str) -> None:
    for former in (folder / "wandb").glob(f"offline-run-*-{identity}"):
        shutil.rmtree(former)


def _write_trial(request: _Request, trial: str, scores: pd.DataFrame, result: pd.DataFrame) -> None:
    first = scores.iloc[0]
    method, order, seed = str(first["method"]), str(first["order"] or ""), str(first["seed"])
    setting = flat(json.loads(first["setting"] or "{}"))
    config = {
        **request.config,
        **setting,
        "trial": trial,
        "method": method,
        "order": order,
        "seed": int(seed) if seed.isdigit() else seed,
        "models": list(dict.fromkeys(scores[scores["i"] > 0].sort_values("i")["model"])),
    }
    name = " ".join(part for part in (method, order, seed, _spelled(setting)) if part)
    tags = [f"{key}:{value}" for key, value in (("method", method), ("order", order)) if value]
    with _open(
        request,
        run_id(request.study, trial),
        name=name[:_LONGEST_NAME],
        job_type=method,
        tags=[tag[:_LONGEST_TAG] for tag in tags],
        config=config,
    ) as run:
        run.define_metric(_AXIS)
        run.define_metric("*", step_metric=_AXIS)
        # A trial's rows never change and only grow, so a resumed run lacks only the last ones.
        for step, row in enumerate(history(scores, request.curves)):
            if step >= run.starting_step:
                run.log(row, step=step)
        run.summary.update(_numbers(result, config))
        for model in dict.fromkeys(scores.loc[scores["i"] == scores["i"].max(), "model"]):
            if model in request.students:
                _keep_student(run, model, Path(request.students[model]), config)


def _keep_student(run: Any, model: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Store a trial's final student, with the stages that it came from, in the run that made it."""
    import wandb

    os.environ["WANDB_DATA_DIR"] = run.settings.sync_dir
    lineage = {name: config[name] for name in ("trial", "method", "order", "seed", "models")}
    artifact = wandb.Artifact(_artifact("student", model[:16]), type="model", metadata=lineage)
    artifact.add_dir(str(folder))
    run.log_artifact(artifact)


def history(scores: pd.DataFrame, curves: Mapping[str, CurvePoints]) -> Iterator[dict[str, float]]:
    """The rows of one trial: each stage's training curve, then the test scores of its model."""
    reached = 0
    for stage in sorted(set(scores["i"].tolist())):
        rows = scores[scores["i"] == stage]
        for model in dict.fromkeys(rows["model"]) if stage > 0 else ():
            start = reached
            for point in curves.get(model, ()):
                reached = start + int(point["step"])
                values = {f"train/{key}": value for key, value in point.items() if key != "step"}
                yield {_AXIS: reached, "stage": stage, **values}
        tests = rows[rows["split"] == "test"]
        evals = {
            f"eval/{task}/{metric}": float(score)
            for task, metric, score in zip(
                tests["task"], tests["metric"], tests["score"], strict=True
            )
        }
        if evals:
            yield {_AXIS: reached, "stage": stage, **evals}


def _write_aggregate(
    request: _Request, trials: Mapping[Any, pd.DataFrame], results: pd.DataFrame
) -> str:
    """Write tables, figures, headline numbers and the result files; returns the run's address."""
    import wandb

    folder = Path(request.folder)
    figures = sorted((folder / "figures").glob("*.png"))
    with _open(
        request,
        run_id(request.study),
        name=f"{request.study}: report",
        job_type="report",
        config=dict(request.config),
    ) as run:
        # W&B copies an artifact's files there (default: the home folder), offline until the sync.
        os.environ["WANDB_DATA_DIR"] = run.settings.sync_dir
        tables, headline = _aggregate(trials, results)
        media = {f"tables/{name}": _table(frame) for name, frame in tables.items()}
        media |= {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
        if media:
            run.log(media)
        run.summary.update({"trials": len(trials), **headline})

        artifact = wandb.Artifact(_artifact(request.study, "results"), type="results")
        for path in (*(folder / name for name in _RESULT_FILES), *figures):
            if path.exists():
                artifact.add_file(str(path), name=path.relative_to(folder).as_posix())
        run.log_artifact(artifact)
        return str(run.url)


def _artifact(*parts: str) -> str:
    """A name for an artifact, with forbidden characters replaced."""
    return re.sub(r"[^\w.-]", "_", "-".join(parts))


def _aggregate(
    trials: Mapping[Any, pd.DataFrame], results: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """The tables by name, and the means of each method (and setting) as named numbers."""
    if results.empty:
        return {}, {}
    settings = {
        trial: _spelled(json.loads(rows["setting"].iloc[0] or "{}"))
        for trial, rows in trials.items()
    }
    results = results.assign(setting=results["trial"].map(settings).fillna(""))
    numbers = results.select_dtypes("number")  # a column without any value is none
    columns = [name for name in numbers if str(name).startswith(_HEADLINES)]

    def means(*by: str) -> pd.DataFrame:
        groups = results.groupby(list(by), sort=False, dropna=False)
        return groups[columns].mean().assign(trials=groups.size()).reset_index()

    gap = means("method", "setting")
    headline = {
        f"{column}/{row['method']} {row['setting']}".rstrip(): float(row[column])
        for row in gap.to_dict("records")
        for column in columns
        if pd.notna(row[column])
    }
    tables = {"results": results, "gap": gap, "orders": means("method", "setting", "order")}
    return tables, headline


def _table(frame: pd.DataFrame) -> Any:
    import wandb

    cells = frame.astype(object).where(frame.notna(), None)
    return wandb.Table(
        columns=[str(column) for column in cells],
        data=list(cells.to_numpy()),
        allow_mixed_types=True,
    )


def _numbers(result: pd.DataFrame, config: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a trial's result row, which W&B shows as sortable columns."""
    values = result.select_dtypes("number").head(1).to_dict("records")
    return {
        str(name): value
        for name, value in (values[0] if values else {}).items()
        if pd.notna(value) and name not in config
    }


def _spelled(setting: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in setting.items())


def _join_groups() -> None:
    """Keep W&B's processes in our process group, so that killing the group ends them, too.

    W&B gives wandb-core a session of its own, in which it outlives this process.
    """
    start = subprocess.Popen.__init__

    def start_here(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **{**kwargs, "start_new_session": False})

    subprocess.Popen.__init__ = start_here  # type: ignore[method-assign]


def _main(scratch: Path) -> None:
    _join_groups()
    request = _Request(**json.loads((scratch / _REQUEST).read_text(encoding="utf-8")))
    try:
        line = _write(request)
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        os._exit(1)  # W&B's exit hooks would wait for the server that just failed
    (scratch / _DONE).write_text(line, encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
