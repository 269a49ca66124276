"""MAS (Aljundi et al., ECCV 2018): parameters that the output is sensitive to are held."""

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.language import LanguageBuilder
from l2kd_ray.stages.learn import Learn


def mas(build: LanguageBuilder, order: Order, seed: Seed) -> Learn:
    """Learns the last task of `order` by the QA loss and a penalty weighed by sensitivity."""
    *former, task = order
    previous = build.student(mas, tuple(former), seed)
    constraint = build.penalty(mas, tuple(former), seed, "sensitivity", build.config.mas)
    return build.learn(previous, task, seed, lm=False, constraint=constraint)
