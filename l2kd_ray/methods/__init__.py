"""Which stages make a trial: one file a method.

A method is a function from (builder, order, seed) to the student that has learnt the tasks of
`order`; the path of a trial is that student for each prefix of its order.
"""

from l2kd_ray.methods.builder import Builder, Method, Order
from l2kd_ray.methods.finetune import finetune
from l2kd_ray.methods.l2kd import l2kd
from l2kd_ray.methods.lamol import lamol

METHODS: dict[str, Method] = {"finetune": finetune, "l2kd": l2kd, "lamol": lamol}
"""The methods of a study by name; `multitask` and `single` are references, always at hand."""

__all__ = ["METHODS", "Builder", "Method", "Order"]
