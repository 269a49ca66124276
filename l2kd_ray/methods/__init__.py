"""Which stages make a trial: one file a method.

A method is a function from (builder, order, seed) to the student that has learnt the tasks of
`order`; the path of a trial is that student for each prefix of its order.
"""

from l2kd_ray.methods.builder import Builder, Method, Order
from l2kd_ray.methods.ewc import ewc
from l2kd_ray.methods.finetune import finetune
from l2kd_ray.methods.gem import gem
from l2kd_ray.methods.l2kd import l2kd
from l2kd_ray.methods.lamol import lamol
from l2kd_ray.methods.lamol_real import lamol_real
from l2kd_ray.methods.mas import mas

METHODS: dict[str, Method] = {
    "finetune": finetune,
    "lamol": lamol,
    "lamol-real": lamol_real,
    "l2kd": l2kd,
    "ewc": ewc,
    "mas": mas,
    "gem": gem,
}
"""The methods of a study by name. Those without an order are no methods but references:
`multitask` and `single` are always at hand, `multilm` where a study names it."""

__all__ = ["METHODS", "Builder", "Method", "Order"]
