"""Which stages make a trial: one file a method, one builder a family of models."""

from collections.abc import Mapping
from dataclasses import dataclass

from l2kd_ray.methods.builder import Builder, Method, Order, Resolved
from l2kd_ray.methods.classifiers import ClassifierBuilder
from l2kd_ray.methods.ewc import ewc
from l2kd_ray.methods.finetune import finetune
from l2kd_ray.methods.gem import gem
from l2kd_ray.methods.l2kd import l2kd
from l2kd_ray.methods.lamol import lamol
from l2kd_ray.methods.lamol_real import lamol_real
from l2kd_ray.methods.language import LanguageBuilder
from l2kd_ray.methods.mas import mas
from l2kd_ray.methods.metakd import metakd, metakd_stream
from l2kd_ray.methods.mkd import mkd
from l2kd_ray.methods.structkd import structkd
from l2kd_ray.methods.structures import StructureBuilder


@dataclass(frozen=True)
class Family:
    """Methods whose students are of one kind, so that a study can compare them."""

    builder: type[Builder]
    methods: Mapping[str, Method]
    orderless: frozenset[str] = frozenset()
    """Those of the methods that learn their tasks in no order."""


LANGUAGE = Family(
    LanguageBuilder,
    {
        "finetune": finetune,
        "lamol": lamol,
        "lamol-real": lamol_real,
        "l2kd": l2kd,
        "ewc": ewc,
        "mas": mas,
        "gem": gem,
    },
)
CLASSIFIERS = Family(
    ClassifierBuilder,
    {"mkd": mkd, "metakd": metakd, "metakd-stream": metakd_stream},
    orderless=frozenset({"mkd", "metakd"}),
)
STRUCTURES = Family(StructureBuilder, {"structkd": structkd})
FAMILIES = (LANGUAGE, CLASSIFIERS, STRUCTURES)
METHODS: Mapping[str, Method] = {
    name: method for family in FAMILIES for name, method in family.methods.items()
}
"""The methods of a study by name. References (`multitask`, `single`, ...) are no methods."""

__all__ = [
    "FAMILIES",
    "LANGUAGE",
    "METHODS",
    "Builder",
    "Family",
    "Method",
    "Order",
    "Resolved",
]
