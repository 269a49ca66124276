"""Commits of hub models and datasets, resolved once and written into the resolved study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from l2kd_ray.section import Section
from l2kd_ray.study.schema import StudyConfig

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Revisions:
    """The commits of a study's hub models (by id) and of its tasks' hub datasets (by task)."""

    models: Mapping[str, str]
    tasks: Mapping[str, str]

    @classmethod
    def of(cls, study: StudyConfig) -> Revisions:
        specs = study.settings.family.model_specs
        models = {spec.model: spec.revision for spec in specs if spec.model and spec.revision}
        tasks = {task.name: task.revision for task in study.tasks if task.revision}
        return cls(models, tasks)

    def pin(self, study: StudyConfig) -> StudyConfig:
        """The study with these commits where it names none, so that the hub is queried only
        once."""
        tasks = tuple(_pinned(task, self.tasks.get(task.name)) for task in study.tasks)
        sections = study.settings.family
        changed = {}
        for name in ("student", "teacher", "tokenizer"):
            spec = getattr(sections, name, None)
            if spec is not None and spec.model is not None:
                changed[name] = _pinned(spec, self.models.get(spec.model))
        settings = replace(study.settings, family=sections.model_copy(update=changed))
        return study.model_copy(update={"tasks": tasks, "settings": settings})


def _pinned(spec: S, commit: str | None) -> S:
    if commit is None or getattr(spec, "revision", None):
        return spec
    return spec.model_copy(update={"revision": commit})
