"""Commits of hub models and datasets, resolved once and written into the resolved study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from l2kd_ray.section import Section
from l2kd_ray.study.schema import StudyConfig
from l2kd_ray.tasks.spec import TaskSpec

S = TypeVar("S", bound=Section)
Dataset = tuple[str, str]
"""A task read from the hub: its name, and the hub id that its study gives ("": the registry's)."""


@dataclass(frozen=True)
class Revisions:
    """The commits of a study's hub models (by id) and of its tasks' hub datasets."""

    models: Mapping[str, str]
    tasks: Mapping[Dataset, str]

    @classmethod
    def of(cls, study: StudyConfig) -> Revisions:
        specs = study.settings.family.model_specs
        models = {spec.model: spec.revision for spec in specs if spec.model and spec.revision}
        tasks = {known: spec.revision for known, spec in datasets(study).items() if spec.revision}
        return cls(models, tasks)

    def pin(self, study: StudyConfig) -> StudyConfig:
        """The study with these commits where it names none, so that the hub is queried only
        once."""
        commits = {spec.name: self.tasks.get(known) for known, spec in datasets(study).items()}

        def pinned(tasks: tuple[TaskSpec, ...]) -> tuple[TaskSpec, ...]:
            return tuple(_pinned(task, commits.get(task.name)) for task in tasks)

        update: dict[str, Any] = {"tasks": pinned(study.tasks)}
        if (kept := study.retention) is not None and kept.tasks:
            update["retention"] = kept.model_copy(update={"tasks": pinned(kept.tasks)})
        sections = study.settings.family
        changed = {}
        for name in ("student", "teacher", "tokenizer"):
            spec = getattr(sections, name, None)
            if spec is not None and spec.model is not None:
                changed[name] = _pinned(spec, self.models.get(spec.model))
        settings = replace(study.settings, family=sections.model_copy(update=changed))
        return study.model_copy(update={**update, "settings": settings})


def datasets(study: StudyConfig) -> dict[Dataset, TaskSpec]:
    """The study's tasks, learned or held out, whose data are on the hub and not in files."""
    return {
        (task.name, task.hub or ""): task
        for task in (*study.tasks, *(study.retention.tasks if study.retention else ()))
        if not (task.train or task.dev or task.test or (study.data_dir and not task.hub))
    }


def _pinned(spec: S, commit: str | None) -> S:
    if commit is None or getattr(spec, "revision", None):
        return spec
    return spec.model_copy(update={"revision": commit})
