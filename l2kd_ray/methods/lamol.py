"""LAMOL (Sun, Ho, Lee, ICLR 2020): the student rehearses samples that it wrote itself."""

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.language import LanguageBuilder
from l2kd_ray.stages.learn import Learn


def lamol(build: LanguageBuilder, order: Order, seed: Seed) -> Learn:
    """Learns the last task of `order` beside pseudo-samples of the tasks before it."""
    *former, task = order
    previous = build.student(lamol, tuple(former), seed)
    replay = build.replay(previous, tuple(former), task, seed)
    return build.learn(previous, task, seed, replay=replay)
