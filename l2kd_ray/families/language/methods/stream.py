"""A stream of tasks: fine-tuning, rehearsal of former tasks, and a teacher for each new one."""

from l2kd_ray.core.randomness import Seed
from l2kd_ray.families.language.builder import LanguageBuilder, Student
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.method import Order, method


@method()
def finetune(
    build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed
) -> Learn:
    """One task after another by the QA loss alone, with nothing against forgetting."""
    return build.learn(previous, task, seed, lm=False)


@method()
def lamol(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """LAMOL (Sun, Ho, Lee, ICLR 2020): beside pseudo-samples that the student wrote itself."""
    replay = build.replay(previous, former, task, seed)
    return build.learn(previous, task, seed, replay=replay)


@method("lamol-real")
def lamol_real(
    build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed
) -> Learn:
    """LAMOL with real samples of former tasks in place of pseudo-samples (same paper)."""
    replay = build.real_replay(former, task, seed)
    return build.learn(previous, task, seed, replay=replay)


@method()
def l2kd(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """L2KD (Chuang, Su, Chen, EMNLP 2020): LAMOL, and each new task is distilled from the teachers
    that `kd` names."""
    replay = build.replay(previous, former, task, seed)
    return build.learn(previous, task, seed, replay=replay, distil=True)
