"""Fine-tuning with the gradient changed before each step, to retain former tasks."""

from pydantic import Field

from l2kd_ray.core.randomness import Seed
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.builder import LanguageBuilder, Student
from l2kd_ray.families.language.stages.constraints import Projection
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section


class ImportanceOptions(Section):
    """A quadratic penalty on the distance from the former student, by importance (EWC)."""

    strength: float = Field(100.0, ge=0)
    """Strength of the penalty."""
    samples: int = Field(128, ge=1)
    """Number of training examples on which a task's importance is measured."""


class SensitivityOptions(ImportanceOptions):
    """The penalty of EWC by the importance of MAS, whose values are some hundred times larger."""

    strength: float = Field(1.0, ge=0)
    """Strength of the penalty."""


class MemoryOptions(Section):
    """A memory of real samples of former tasks, whose loss may not increase (GEM)."""

    ratio: float = Field(0.05, gt=0, le=1)
    """Share of a task's training examples kept in the memory."""
    margin: float = Field(0.5, ge=0)
    """Least factor of each former task's gradient where one is violated."""


def _whole_weights(build: LanguageBuilder) -> None:
    """Raise InputError with LoRA, which does not train the weights that the penalty holds."""
    if build.settings.train.lora is not None:
        raise InputError(
            "a penalty by parameter importance acts on the model's weights, and with LoRA none of "
            "them is trained",
            key="train.lora",
            fix="set train.lora in the other methods' own settings, or leave this method out",
        )


@method(options=ImportanceOptions, check=_whole_weights)
def ewc(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """EWC (Kirkpatrick et al., PNAS 2017): a penalty weighed by the Fisher information of the
    former tasks; the anchor is renewed after each task (Huszar 2018)."""
    options = build.options
    constraint = build.penalty(former, seed, "fisher", options.samples, options.strength)
    return build.learn(previous, task, seed, lm=False, constraint=constraint)


@method(options=SensitivityOptions, check=_whole_weights)
def mas(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """MAS (Aljundi et al., ECCV 2018): the penalty of EWC, weighed by the output's sensitivity."""
    options = build.options
    constraint = build.penalty(former, seed, "sensitivity", options.samples, options.strength)
    return build.learn(previous, task, seed, lm=False, constraint=constraint)


@method(options=MemoryOptions)
def gem(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """GEM (Lopez-Paz, Ranzato, NeurIPS 2017): no step may raise the loss on kept former samples."""
    kept = build.kept(former, seed, build.options.ratio)
    constraint = None if kept is None else Projection(kept, build.options.margin)
    return build.learn(previous, task, seed, lm=False, constraint=constraint)
