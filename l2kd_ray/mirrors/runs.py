"""The words of mirrors on a snapshot: its trials with their points, and the aggregate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.stage import CURVE, Stage
from l2kd_ray.core.store import Damaged
from l2kd_ray.errors import SECRET_NAME, masked
from l2kd_ray.mirrors import ConfigValue, Point, StudyState, TrialRun
from l2kd_ray.study.orders import order_id
from l2kd_ray.study.snapshot import Snapshot
from l2kd_ray.study.study import Study
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

_Curve = Sequence[Mapping[str, float]]
_HEADLINES = ("cl/", "gap/")
_FRAME = ("data_seed", "max_train", "max_dev", "max_test")
_FILES = (
    *("scores.parquet", "results.parquet", "proposed.parquet"),
    *("report.html", "report.md", "figures/*.png"),
)


def run_id(study: str, trial: str = "") -> str:
    """The id of a trial's run, or of the aggregate run; the same each time it is written."""
    digest = hashlib.sha256(f"{study}\n{trial}".encode()).hexdigest()
    return f"l2kd-{digest[:16]}"


# The trials


class Models:
    """The files of finished models: training curves, each read once, and final students."""

    def __init__(self, reader: StoreView) -> None:
        self._reader, self._known = reader, dict[str, _Curve]()

    def curve(self, model: Manifest) -> _Curve | None:
        """The curve of a model; None if its files are gone."""
        if model.key not in self._known:
            if not self._reader.has_files(model.key):
                return None
            with suppress(Damaged, OSError):  # the next sweep computes it again
                self._known |= self._reader.each([model], CURVE, json.loads)
        return self._known.get(model.key)

    def student(self, trial: Trial, known: Mapping[str, Manifest]) -> Path | None:
        """The folder of a trial's final student; None if its files are gone."""
        model = trial.steps[-1][0].stage.model
        if not self._reader.has_files(model.key):
            return None
        return self._reader.store.fetch(model.kind, model.key, known[model.key])


def trial_run(
    study: Study, trial: Trial, known: Mapping[str, Manifest], models: Models, result: pd.DataFrame
) -> TrialRun:
    """A trial as mirrors are told it. `result`: its row of results.parquet, if it has one yet."""
    path = [cell.stage.model.key for step in trial.steps for cell in step]
    ran = [known[key] for key in own_stages(trial) if key in known]
    done = all(cell.stage.key in known for cell in trial.cells)
    config = {
        **settings_of_trial(study, trial),
        "trial": trial.id,
        "method": trial.method,
        "order": order_id(trial.order),
        "seed": int(str(trial.seed)) if str(trial.seed).isdigit() else str(trial.seed),
        "models": [*dict.fromkeys(key for key in path if key in known)],
        "started": min((one.started for one in ran), default=""),
    }
    return TrialRun(
        id=run_id(study.config.name, trial.id),
        trial=trial.id,
        method=trial.method,
        order=order_id(trial.order),
        seed=str(trial.seed),
        setting=spelled(trial.setting),
        config=config,
        points=list(points(trial, known, models)),
        numbers={**_numbers(result, config), "seconds": sum(one.seconds for one in ran)},
        done=done,
        student=models.student(trial, known) if done and study.config.wandb.students else None,
    )


def own_stages(trial: Trial) -> list[str]:
    """The keys of a trial's own models and evaluations."""
    stages: list[Stage] = [s for cell in trial.cells for s in (cell.stage.model, cell.stage)]
    return [*dict.fromkeys(stage.key for stage in stages)]


def points(trial: Trial, known: Mapping[str, Manifest], models: Models) -> Iterator[Point]:
    """Task by task, the training curve of each model and then its test scores.

    It ends before the first model or test score that is missing, so that points only grow.
    """
    number = reached = 0
    for step in trial.steps:
        stage = float(step[0].i)
        for model in dict.fromkeys(cell.stage.model for cell in step):
            if model.key not in known:
                return
            manifest, start = known[model.key], reached
            curve = (models.curve(manifest) if CURVE in manifest.files else None) or ()
            speed = manifest.environment.get("tokens_per_second")
            whole = {"tokens_per_second": speed} if speed is not None else {}
            for k, row in enumerate(curve):
                reached = start + int(row["step"])
                shown = {**row, **whole}
                values = {f"train/{key}": value for key, value in shown.items() if key != "step"}
                yield Point(number + k, reached, {"stage": stage, **values})
            number += int(manifest.scores.get("steps", len(curve)))
            reached = start + int(manifest.scores.get("steps", reached - start))
        tests = [cell for cell in step if cell.split == "test"]
        if any(cell.stage.key not in known for cell in tests):
            return
        scores = {"stage": stage}
        for cell in tests:
            metric = cell.stage.metric_name
            scores[f"eval/{cell.task}/{metric}"] = known[cell.stage.key].scores[metric]
        yield Point(number, reached, scores)
        number += 1


def settings_of_trial(study: Study, trial: Trial) -> dict[str, ConfigValue]:
    """All settings of a trial by dotted name, defaults included, without secrets."""
    config = study.config
    arm: Mapping[str, Any] = {} if trial.is_reference else study.arm(trial.method).settings
    settings = config.settings.with_values({**trial.setting, **arm})
    frame = {name: getattr(config, name) for name in _FRAME}
    options = {name: section.model_dump(mode="json") for name, section in settings.options.items()}
    family = settings.family.model_dump(mode="json")
    return flat({**frame, "tasks": study.tasks, **family, **options})


# The aggregate


def study_state(
    snapshot: Snapshot,
    folder: Path,
    state: Literal["running", "finished", "failed", "late"],
    failures: Sequence[str] = (),
) -> StudyState:
    """The aggregate over a snapshot's trials; with the result files once it has ended."""
    from l2kd_ray.analysis import planned_looks

    config = snapshot.study.config
    tables, numbers = _aggregate(snapshot.results)
    names = _FILES if state != "running" else ()
    looks = planned_looks(len(snapshot.design.orders)) if _looks(snapshot) else ()
    return StudyState(
        id=run_id(config.name),
        state=state,
        trials=len(snapshot.trials),
        trials_done=len(snapshot.done),
        looks=sum(look <= snapshot.seen.orders for look in looks),
        numbers=numbers,
        tables=tables,
        config=flat({k: v for k, v in config.to_data().items() if k != "on_event"}),
        failures=failures,
        files=[path for name in names for path in sorted(folder.glob(name))],
    )


def _looks(snapshot: Snapshot) -> bool:
    tune = snapshot.study.config.tune
    return tune.stop.half_width is not None or tune.scheduler == "race"


def _aggregate(results: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """The tables by name, and the means of each method (and setting) as named numbers."""
    import pandas as pd

    if results.empty:
        return {}, {}
    spelt = {text: spelled(json.loads(text or "{}")) for text in set(results["setting"])}
    results = results.assign(setting=results["setting"].map(spelt))
    columns = [name for name in results.select_dtypes("number") if str(name).startswith(_HEADLINES)]

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


def _numbers(result: pd.DataFrame, config: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a trial's result row, which W&B shows as sortable columns."""
    values = result.select_dtypes("number").head(1).to_dict("records")
    return {
        str(name): float(value)
        for name, value in (values[0] if values else {}).items()
        if value == value and name not in config
    }


def spelled(setting: Mapping[str, Any]) -> str:
    """A setting as `kd.temperature=2 kd.weight=1`."""
    return " ".join(f"{key}={value}" for key, value in setting.items())


# Settings by dotted name


def flat(config: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> dict[str, ConfigValue]:
    """Nested settings by dotted name, without secrets."""
    items = config.items() if isinstance(config, Mapping) else enumerate(config)
    flattened: dict[str, ConfigValue] = {}
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
