"""What a study may say to classifiers of texts and pairs."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from l2kd_ray.families.settings import FamilySettings, TrainOverrides, TrainSettings
from l2kd_ray.section import Section


class LogitDistilSettings(Section):
    """Distillation of a teacher into the student (MKD, Meta-KD)."""

    weight: float = Field(1.0, ge=0, le=1)
    """MKD: `w * logit regression + (1 - w) * label loss`; 1 is the paper."""
    temperature: float = Field(2.0, gt=0)
    """Meta-KD: of the prediction loss."""


class ClassifierTrainSettings(TrainSettings):
    """Training of a classifier."""

    rungs: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """A student's training is a chain of stages that end after so many epochs, the last one after
    all: what `tune.scheduler: asha` may cut (MKD)."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        rungs = self.rungs or (self.epochs,)
        if list(rungs) != sorted(set(rungs)) or rungs[-1] != self.epochs:
            raise ValueError(
                f"rungs rise, and end with the epochs: {list(rungs)} for {self.epochs} epochs"
            )
        return self


class ClassifierSettings(FamilySettings):
    """The sections of a study of classifiers."""

    kd: LogitDistilSettings = LogitDistilSettings()
    train: ClassifierTrainSettings = ClassifierTrainSettings()
    teaching: TrainOverrides = TrainOverrides()
    """What differs from `train` for teachers."""
