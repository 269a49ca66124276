"""L2KD (Chuang, Su, Chen, EMNLP 2020): LAMOL, each new task distilled from a teacher of its own."""

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.language import LanguageBuilder
from l2kd_ray.stages.learn import Learn


def l2kd(build: LanguageBuilder, order: Order, seed: Seed) -> Learn:
    """Learns the last task of `order` beside replay, from the teachers that `kd` names."""
    *former, task = order
    previous = build.student(l2kd, tuple(former), seed)
    replay = build.replay(previous, tuple(former), task, seed)
    return build.learn(previous, task, seed, replay=replay, distil=True)
