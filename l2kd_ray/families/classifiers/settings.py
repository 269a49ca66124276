"""Settings of a study of text and pair classifiers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from l2kd_ray.errors import InputError
from l2kd_ray.families.settings import FamilySettings, TrainSettings
from l2kd_ray.section import Section


class LogitDistilSettings(Section):
    """Distillation of a teacher into the student (MKD, Meta-KD)."""

    weight: float = Field(1.0, ge=0, le=1)
    """w in `w * distillation + (1 - w) * label loss`: 1 is the papers' value, 0 has no teacher."""
    temperature: float = Field(2.0, gt=0)
    """Temperature of Meta-KD's prediction loss."""


class ClassifierTrainSettings(TrainSettings):
    """Training of a classifier."""

    rungs: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Epochs (or steps, with `steps`) at which a student's training is split into stages.

    The last one is the length of the training. `tune.scheduler: asha` may stop a training between
    two stages (MKD, Meta-KD)."""

    regression_unit: Literal["label", "std", "range"] = "label"
    """Unit of regressions' squared errors: as the labels are written, or their standard deviation
    or range in training, so that a task's part in a joint loss does not depend on its scale."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.rungs is None:
            return self
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[-1:] != (self.length,):
            unit = "epochs" if self.steps is None else "steps"
            raise InputError(
                f"they must rise and end with the number of {unit}, {self.length}",
                key="rungs",
                got=list(self.rungs),
            )
        return self


class ClassifierSettings(FamilySettings):
    """The sections of a study of classifiers."""

    kd: LogitDistilSettings = LogitDistilSettings()
    train: ClassifierTrainSettings = ClassifierTrainSettings()
