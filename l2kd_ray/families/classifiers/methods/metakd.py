"""Meta-KD (Pan, Wang, Qiu, et al., ACL 2021): a teacher across domains, one student per domain."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from l2kd_ray.core.randomness import Seed
from l2kd_ray.errors import InputError
from l2kd_ray.families.classifiers.builder import ClassifierBuilder
from l2kd_ray.families.classifiers.stages.learn import Classify, Logits
from l2kd_ray.families.classifiers.stages.metakd import Losses, MetaDistil, MetaTeach, Prototypes
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section


class MetaOptions(Section):
    """Distillation across domains (Meta-KD, Pan et al. 2021): tasks are domains of one label set.

    The student's loss is w * (weighted distillation losses) + (1 - w) * label loss with w =
    `kd.weight`; 1 is the paper, 0 is training on the labels without a teacher. `kd.temperature` is
    the temperature of the prediction loss.
    """

    teacher: Literal["meta", "multitask", "all", "single"] = "meta"
    """`meta`: all domains, by prototype scores and domain corruption; `all`: all domains as one;
    `multitask`: all domains, a head each; `single`: each domain's own."""
    prototypes: bool = True
    """Weight examples by how typical they are (prototype scores)."""
    centroid: Literal["domain_class", "domain"] = "domain_class"
    others: Literal["mean_of_cosines", "cosine_of_mean"] = "mean_of_cosines"
    alpha: float = Field(0.5, ge=0, le=1)
    raw: bool = False
    """Use scores below 0 as weights (the paper); otherwise they count as 0."""
    corruption: float = Field(0.5, ge=0)
    """gamma 1: weight of the loss on corrupted (false) domains."""
    hidden: float = Field(1.0, ge=0)
    attention: float = Field(1.0, ge=0)
    transfer: float = Field(0.5, ge=0)
    """gamma 2: weight of transferable knowledge; has an effect only for a meta-teacher of at least
    two domains, trained with `corruption` above 0."""
    prediction: float = Field(1.0, ge=0)
    expertise: bool = True
    """Weight an example by the teacher's probability of its label."""
    stages: Literal["one", "two"] = "one"
    """`two`: first hidden states, attention and transferable knowledge, then the prediction and
    the label loss."""
    leave_out: bool = False
    """Train a student's teacher without the student's own domain."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of a domain's training examples that the student sees; its teacher sees all."""


def _layers(build: ClassifierBuilder) -> tuple[float, float, float]:
    """The weights of hidden states, attentions and transferable knowledge."""
    options: MetaOptions = build.options
    # Only corruption trains the teacher's transform, and its loss is 0 where there is one domain;
    # the features of an untrained one carry no information.
    trained = (
        options.teacher == "meta"
        and options.corruption
        and len(build.tasks) - options.leave_out > 1  # last: of other teachers it stays unread
    )
    return options.hidden, options.attention, options.transfer if trained else 0.0


def check(build: ClassifierBuilder) -> None:
    """Raise InputError for tasks that are no domains, or layers that cannot be compared."""
    options: MetaOptions = build.options
    kinds = sorted({build.resolved.tasks[task].kind for task in build.tasks})
    if kinds not in (["classify"], ["pair"]):
        raise InputError(
            "Meta-KD learns domains, which are tasks of one kind with the same labels",
            key="tasks",
            got=", ".join(kinds),
            expected="tasks of kind classify, or tasks of kind pair",
        )
    if build.settings.kd.weight == 0:
        return
    if options.leave_out and (options.teacher == "multitask" or len(build.tasks) == 1):
        raise InputError(
            "without the student's domain its teacher has learned nothing that the student reads",
            key="metakd.leave_out",
            got=True,
            expected="another domain, and metakd.teacher meta or all",
        )
    if not any(_layers(build)) and not options.prediction:
        raise InputError(
            "no distillation loss has a weight",
            key="metakd.prediction",
            got=0,
            expected="one of hidden, attention, transfer, prediction above 0",
            fix="for a student without a teacher set kd.weight: 0",
        )
    build.check_layers(hidden=options.hidden > 0, attention=options.attention > 0)


def teacher(build: ClassifierBuilder, task: str, seed: Seed) -> Classify:
    """The teacher of a domain."""
    options: MetaOptions = build.options
    if options.teacher == "single":
        return build.shared_teacher((task,), seed)
    domains = tuple(name for name in build.tasks if name != task or not options.leave_out)
    if options.teacher == "multitask":
        return build.joint_teacher(domains, seed, same_labels=True)
    if options.teacher == "all":
        return build.shared_teacher(domains, seed, pooled=True)
    return MetaTeach(
        start=build.untrained_teacher(seed),
        tasks=build.of_teacher(domains, seed),
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
        tasks=build.of_any(build.tasks, seed),
        centroid=options.centroid,
        others=options.others,
        alpha=options.alpha,
    )


def _distil(build: ClassifierBuilder, start: Any, task: str, seed: Seed) -> Classify | MetaDistil:
    """Distil a domain's teacher into `start`, in one stage or in two; with `kd.weight` 0, train it
    on the labels."""
    options: MetaOptions = build.options
    examples = build.part(task, options.share, seed)
    weight, rungs = build.settings.kd.weight, build.settings.train.rungs or ()
    if weight == 0:
        labels = Classify(start=start, tasks=(examples,), **build.training(seed))
        return labels.in_parts(rungs)
    domain_teacher, layers = teacher(build, task, seed), _layers(build)
    temperature = build.settings.kd.temperature if options.prediction else None
    parts = [(weight, Losses(*layers, options.prediction, temperature))]
    if any(layers) and options.prediction and options.stages == "two":
        last = Losses(0.0, 0.0, 0.0, options.prediction, temperature)
        parts = [(1.0, Losses(*layers, 0.0, None)), (weight, last)]
    weighed = options.teacher == "meta" and options.expertise
    expertise = Logits(domain_teacher, (examples,)) if weighed else None
    for own, losses in parts:
        start = MetaDistil(
            start=start,
            task=examples,
            teacher=domain_teacher,
            weight=own,
            losses=losses,
            scores=_prototypes(build, seed) if expertise and options.prototypes else None,
            expertise=expertise,
            **build.training(seed),
        )
    learnt: MetaDistil = start
    return learnt.in_parts(rungs)


@method(family="classifiers", options=MetaOptions, orderless=True, teacher=teacher, check=check)
def metakd(
    build: ClassifierBuilder, previous: Any, former: Order, task: str, seed: Seed
) -> Classify | MetaDistil:
    """The student of one domain, distilled from its teacher."""
    return _distil(build, build.domain_student(seed), task, seed)


@method(
    "metakd-stream",
    family="classifiers",
    options=MetaOptions,
    key="metakd",
    teacher=teacher,
    check=check,
)
def metakd_stream(
    build: ClassifierBuilder, previous: Any, former: Order, task: str, seed: Seed
) -> Classify | MetaDistil:
    """One student on a stream of domains: L2KD with the meta-teacher and its expertise weights in
    place of one teacher per task."""
    return _distil(build, previous if former else build.domain_student(seed), task, seed)
