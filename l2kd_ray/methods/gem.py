"""GEM (Lopez-Paz, Ranzato, NeurIPS 2017): no step may raise the loss on kept former samples."""

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.language import LanguageBuilder
from l2kd_ray.stages.learn import Learn


def gem(build: LanguageBuilder, order: Order, seed: Seed) -> Learn:
    """Learns the last task of `order` by the QA loss, each gradient projected."""
    *former, task = order
    previous = build.student(gem, tuple(former), seed)
    constraint = build.memory(tuple(former), seed)
    return build.learn(previous, task, seed, lm=False, constraint=constraint)
