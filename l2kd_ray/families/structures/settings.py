"""Settings of a study of taggers and parsers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from l2kd_ray.distill.structured.case_table import CASES, Objective
from l2kd_ray.errors import InputError
from l2kd_ray.families.settings import FamilySettings, TrainSettings
from l2kd_ray.section import Section, digits_as_text


class StructureDistilSettings(Section):
    """Distillation of a teacher's scores into the student (Structural KD)."""

    weight: float = Field(1.0, ge=0, le=1)
    """Weight of distillation before annealing (0: no distillation)."""
    temperature: float = Field(2.0, gt=0)
    """T: teacher and student are compared as P ** (1 / T)."""


class StructureTrainSettings(TrainSettings):
    """Training of a tagger or parser.

    `max_length` counts words: longer training sentences are left out, since a truncated tree is not
    a tree.
    """

    patience: int | None = Field(None, ge=1)
    """Stop after this many epochs without a better dev score, and keep the best weights.

    Such a training saves no checkpoints: if it is killed, it starts again.
    """


class StructuralSettings(Section):
    """Distillation of structured predictors (Structural KD, Wang et al. 2021).

    `kd.weight` is the weight of distillation before annealing (0: no distillation), and
    `kd.temperature` is T: teacher and student are compared as P ** (1 / T).
    """

    case: Annotated[
        Literal["1a", "1b", "2a", "2b", "3", "4", "tree", "projective"],
        BeforeValidator(digits_as_text),
    ] = "1a"
    """Factorisation of teacher and student: chain => chain (1a), biaffine => labelling (1b),
    chain => token (2a), second-order => labelling (2b), token => chain (3), spans => token (4),
    biaffine => trees (tree, projective)."""
    objective: Objective = "structural"
    anneal: float = Field(1.0, ge=0)
    """The weight falls to 0 within 1 / anneal of the training (0: it stays constant)."""
    k: int = Field(10, ge=1)
    """Number of best sequences for top-k and top-wk."""
    scope: Literal["global", "local"] = "global"
    """`local` tempers marginals as the released code does, for reproduction only."""
    unlabelled: int = Field(0, ge=0)
    """Number of unlabelled sentences per task, taken from those beyond its `max_train`."""

    @model_validator(mode="after")
    def _of_the_case(self) -> Self:
        known = CASES[self.case].objectives
        if self.objective not in known:
            raise InputError(
                f"case {self.case} has no such objective",
                key="objective",
                got=self.objective,
                expected=" or ".join(sorted(known)),
            )
        return self


class StructureSettings(FamilySettings):
    """The sections of a study of taggers and parsers."""

    kd: StructureDistilSettings = StructureDistilSettings()
    train: StructureTrainSettings = StructureTrainSettings()
    structkd: StructuralSettings = StructuralSettings()
