"""LAMOL-real (Sun, Ho, Lee, ICLR 2020): LAMOL with real former samples for pseudo-samples."""

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.language import LanguageBuilder
from l2kd_ray.stages.learn import Learn


def lamol_real(build: LanguageBuilder, order: Order, seed: Seed) -> Learn:
    """Learns the last task of `order` beside real samples of the tasks before it."""
    *former, task = order
    previous = build.student(lamol_real, tuple(former), seed)
    replay = build.real_replay(tuple(former), task, seed)
    return build.learn(previous, task, seed, replay=replay)
