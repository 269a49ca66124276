"""A family: methods whose students are models of one kind, so that a study can compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from l2kd_ray.families.builder import Builder
from l2kd_ray.families.method import Method
from l2kd_ray.families.settings import FamilySettings


@dataclass(frozen=True)
class Family:
    """The parts of a family; messages call its models by `title`."""

    name: str
    title: str
    settings: type[FamilySettings]
    builder: type[Builder]
    methods: Mapping[str, Method]

    @property
    def options(self) -> Mapping[str, Method]:
        """For each section of method options in the study file, by its key, one method that reads
        it."""
        return {m.section: m for m in self.methods.values() if m.options is not None}
