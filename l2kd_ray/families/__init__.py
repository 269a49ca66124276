"""The families of methods: language models, classifiers, taggers and parsers."""

from collections.abc import Mapping

from l2kd_ray.families.builder import Builder, Resolved
from l2kd_ray.families.classifiers import CLASSIFIERS
from l2kd_ray.families.family import Family
from l2kd_ray.families.language import LANGUAGE
from l2kd_ray.families.method import Method, Order, method
from l2kd_ray.families.settings import Settings
from l2kd_ray.families.structures import STRUCTURES

FAMILIES: Mapping[str, Family] = {one.name: one for one in (LANGUAGE, CLASSIFIERS, STRUCTURES)}
METHODS: Mapping[str, Method] = {
    name: one for family in FAMILIES.values() for name, one in family.methods.items()
}
"""The built-in methods by name. References (`multitask`, `single`, ...) are not among them."""

__all__ = [
    "CLASSIFIERS",
    "FAMILIES",
    "LANGUAGE",
    "METHODS",
    "STRUCTURES",
    "Builder",
    "Family",
    "Method",
    "Order",
    "Resolved",
    "Settings",
    "method",
]
