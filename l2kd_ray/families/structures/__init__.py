"""Taggers and parsers: distilled over their substructures (Structural KD)."""

from l2kd_ray.families.family import Family
from l2kd_ray.families.structures.builder import StructureBuilder
from l2kd_ray.families.structures.methods import STRUCTURE_METHODS
from l2kd_ray.families.structures.settings import StructureSettings

STRUCTURES = Family(
    "structures", "taggers and parsers", StructureSettings, StructureBuilder, STRUCTURE_METHODS
)
