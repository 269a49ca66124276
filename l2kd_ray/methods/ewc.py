"""EWC (Kirkpatrick et al., PNAS 2017): parameters that matter to former tasks are held."""

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.language import LanguageBuilder
from l2kd_ray.stages.learn import Learn


def ewc(build: LanguageBuilder, order: Order, seed: Seed) -> Learn:
    """Learns the last task of `order` by the QA loss and a penalty weighed by the Fisher
    information of the tasks before; the anchor is renewed after each task."""
    *former, task = order
    previous = build.student(ewc, tuple(former), seed)
    constraint = build.penalty(ewc, tuple(former), seed, "fisher", build.config.ewc)
    return build.learn(previous, task, seed, lm=False, constraint=constraint)
