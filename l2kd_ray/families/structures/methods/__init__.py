"""The methods of taggers and parsers; a new one in a file of its own."""

from l2kd_ray.families.method import by_name
from l2kd_ray.families.structures.methods.structkd import structkd

STRUCTURE_METHODS = by_name(structkd)
