"""MAS (Aljundi et al., ECCV 2018): parameters that the output is sensitive to are held."""

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Builder, Order
from l2kd_ray.stages.constraints import Penalty
from l2kd_ray.stages.learn import Learn


def mas(build: Builder, order: Order, seed: Seed) -> Learn:
    """Learns the last task of `order` by the QA loss and a penalty weighed by sensitivity."""
    *former, task = order
    previous = build.student(mas, tuple(former), seed)
    settings = build.config.mas
    importance = build.importance(mas, tuple(former), seed, "sensitivity", settings.samples)
    if importance is None or settings.strength == 0:
        return build.learn(previous, task, seed, lm=False)
    constraint = Penalty(importance, 2 * settings.strength)  # MAS's penalty has no 1/2
    return build.learn(previous, task, seed, lm=False, constraint=constraint)
