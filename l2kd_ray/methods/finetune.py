"""Sequential fine-tuning: the tasks one after another, and nothing against forgetting."""

from l2kd_ray.config import Seed
from l2kd_ray.methods.builder import Order
from l2kd_ray.methods.language import LanguageBuilder
from l2kd_ray.stages.learn import Learn


def finetune(build: LanguageBuilder, order: Order, seed: Seed) -> Learn:
    """Learns the last task of `order` by the QA loss alone, as LAMOL's baselines do."""
    *former, task = order
    previous = build.student(finetune, tuple(former), seed)
    return build.learn(previous, task, seed, lm=False)
