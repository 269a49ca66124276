"""Meta-KD (Pan, Wang, Qiu, et al., ACL 2021): a teacher across domains, a student a domain."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from l2kd_ray.core.randomness import Seed
from l2kd_ray.families.classifiers.builder import ClassifierBuilder
from l2kd_ray.families.classifiers.stages.learn import Classify
from l2kd_ray.families.classifiers.stages.metakd import Losses, MetaDistil, MetaTeach, Prototypes
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section


class MetaOptions(Section):
    """Distillation across domains (Meta-KD, Pan et al. 2021): tasks are domains of one label set.

    `kd.temperature` is that of the prediction loss.
    """

    teacher: Literal["meta", "multitask", "all", "single"] = "meta"
    """`meta`: all domains, by prototype scores and domain corruption; `all`: all domains as one;
    `multitask`: all domains, a head each; `single`: each domain's own."""
    prototypes: bool = True
    """Whether examples count by how typical they are."""
    centroid: Literal["domain_class", "domain"] = "domain_class"
    others: Literal["mean_of_cosines", "cosine_of_mean"] = "mean_of_cosines"
    alpha: float = Field(0.5, ge=0, le=1)
    raw: bool = False
    """Scores below 0 count as they are (the paper), not as 0."""
    corruption: float = Field(0.5, ge=0)
    """gamma 1: the weight of the loss against false domains."""
    hidden: float = Field(1.0, ge=0)
    attention: float = Field(1.0, ge=0)
    transfer: float = Field(0.5, ge=0)
    """gamma 2: the weight of transferable knowledge; without effect but for a meta-teacher that
    learnt against false domains."""
    prediction: float = Field(1.0, ge=0)
    expertise: bool = True
    """Whether an example counts by how well the teacher knows it."""
    stages: Literal["one", "two"] = "one"
    """`two`: first hidden states, attention and transferable knowledge, then the prediction."""
    leave_out: bool = False
    """The student's own domain is left out of its teacher."""
    share: float = Field(1.0, gt=0, le=1)
    """Of a domain's training examples, what the student sees; its teacher sees all."""


def teacher(build: ClassifierBuilder, task: str, seed: Seed) -> Classify:
    """The teacher of a domain."""
    options: MetaOptions = build.options
    if options.teacher == "single":
        return build.shared_teacher((task,), seed)
    domains = tuple(name for name in build.tasks if name != task or not options.leave_out)
    if options.teacher == "multitask":
        return build.joint_teacher(domains, seed)
    if options.teacher == "all":
        return build.shared_teacher(domains, seed, pooled=True)
    return MetaTeach(
        start=build.untrained_teacher(seed),
        tasks=build.labelled(domains),
        pooled=True,
        scores=_prototypes(build, seed) if options.prototypes else None,
        raw=options.prototypes and options.raw,
        corruption=options.corruption,
        **build.teaching(seed),
    )


def _prototypes(build: ClassifierBuilder, seed: Seed) -> Prototypes:
    """The scores of all domains' examples."""
    options: MetaOptions = build.options
    return Prototypes(
        model=build.untrained_teacher(seed),
        tasks=build.labelled(build.tasks),
        centroid=options.centroid,
        others=options.others,
        alpha=options.alpha,
    )


def _distil(build: ClassifierBuilder, start: Any, task: str, seed: Seed) -> MetaDistil:
    """`start` learns a domain from its teacher, in one stage or in two."""
    options: MetaOptions = build.options
    asked = teacher(build, task, seed)
    meta = isinstance(asked, MetaTeach)
    # Without corruption nothing trains the teacher's transform: its features say nothing.
    transfer = options.transfer if meta and options.corruption else 0.0
    layers = (options.hidden, options.attention, transfer)
    temperature = build.settings.kd.temperature if options.prediction else None
    parts = [Losses(*layers, options.prediction, temperature)]
    if any(layers) and options.prediction and options.stages == "two":
        last = Losses(0.0, 0.0, 0.0, options.prediction, temperature)
        parts = [Losses(*layers, 0.0, None), last]
    examples = build.part(task, options.share)
    expertise = build.logits(asked, examples) if meta and options.expertise else None
    for losses in parts:
        start = MetaDistil(
            start=start,
            task=examples,
            teacher=asked,
            losses=losses,
            scores=_prototypes(build, seed) if expertise and options.prototypes else None,
            expertise=expertise,
            **build.training(seed),
        )
    learnt: MetaDistil = start
    return learnt


@method(family="classifiers", options=MetaOptions, orderless=True, teacher=teacher)
def metakd(
    build: ClassifierBuilder, previous: Any, former: Order, task: str, seed: Seed
) -> MetaDistil:
    """The student of one domain."""
    return _distil(build, build.domain_student(seed), task, seed)


@method("metakd-stream", family="classifiers", options=MetaOptions, key="metakd", teacher=teacher)
def metakd_stream(
    build: ClassifierBuilder, previous: Any, former: Order, task: str, seed: Seed
) -> MetaDistil:
    """One student of all domains, which come one after another: L2KD's stream, with the
    meta-teacher in place of a teacher a task, and its expertise weights."""
    return _distil(build, previous if former else build.domain_student(seed), task, seed)
