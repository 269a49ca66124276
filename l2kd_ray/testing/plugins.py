"""Conformance checks of plug-ins, run by `l2kd check-plugin` and by tests of plug-ins.

Each function yields the name of each check that has passed and raises Broken at the first one that
fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from l2kd_ray import door
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.scratch import Scratch
from l2kd_ray.core.stage import Stage, TrainingStage, ancestry
from l2kd_ray.core.store import Store, stage_folder
from l2kd_ray.families import METHODS, Method
from l2kd_ray.families.examples import Examples
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.study.study import Study
from l2kd_ray.tasks import Example
from l2kd_ray.testing.studies import tiny
from l2kd_ray.testing.values import others


class Broken(AssertionError):
    """A rule that a plug-in breaks; `str()` names the rule and the fix."""


# Methods


def check_method(path: str) -> Iterator[str]:
    """Check a method by training two generated tasks with it.

    Checked: it is accepted; it reads no test data; each of its options and its source move the
    students' keys; two runs leave the same files; a run that is killed resumes to the same bits.
    """
    study = _study(path)
    arm = study.config.arms[0]
    method = study.family.methods[arm.method]
    yield f"accepted: a method of {study.family.title}, called {method.name}"
    students = _students(study)
    for stage in ancestry(students):
        if isinstance(stage, Examples) and stage.data.split == "test":
            raise Broken(
                f"{method.name} trains on the test split of {stage.task}: methods read train and, "
                "for selection, dev"
            )
    yield "reads no test data"
    yield from _keys_move(study, method, students)
    with Scratch("check") as folder:
        first = _trained(students, Store(f"{folder}/first"))
        if _trained(students, Store(f"{folder}/second")) != first:
            raise Broken(
                f"{method.name}: two runs left different files; draw random numbers from "
                "core.randomness.generator(seed, stream, task, step) and nothing else"
            )
        yield "deterministic: two runs leave the same files"
        _killed_and_resumed(students[-1], Store(f"{folder}/first"), first)
        yield "a killed run resumes to the same bits"


def _study(path: str, **sections: Any) -> Study:
    """A tiny study of the method, in the method's family."""
    found, _ = door.find("methods", path, METHODS)
    family = found.family if isinstance(found, Method) else "language"
    data = tiny(family, methods=[{"name": "checked", "method": path}], **sections)
    return resolve_study(parse_study(data, where="check-plugin"), "check-plugin")


def _students(study: Study) -> list[Stage]:
    """The method's students after each task of the first order, in that order."""
    name = study.config.arms[0].name
    trial = next(trial for trial in study.trials() if trial.method == name)
    steps = trial.steps[1:] or trial.steps
    return list(dict.fromkeys(cell.stage.model for step in steps for cell in step))


def _keys_move(study: Study, method: Method, students: list[Stage]) -> Iterator[str]:
    keys = [student.key for student in students]
    section = study.config.settings.options.get(method.section)
    options = () if section is None else [(section, name) for name in type(section).model_fields]
    for section, field in options:
        path = study.config.arms[0].method
        tried = {repr(value): value for value in others(section, field)}
        changed = (_study(path, **{method.section: {field: value}}) for value in tried.values())
        if all([student.key for student in _students(one)] == keys for one in changed):
            raise Broken(
                f"{method.section}.{field} has no effect: with {' or '.join(tried)} every student "
                "has the same key; pass the option to the stages, or remove it"
            )
        yield f"the key moves with {method.section}.{field}"
    altered = {study.config.arms[0].method: replace(method, code=f"{method.code} changed")}
    family = replace(study.family, methods={**study.family.methods, **altered})
    other = Study(study.config.model_copy(update={"family": family}), study.resolved)
    if [student.key for student in _students(other)] == keys:
        raise Broken(f"{method.name}: the key does not change with its source")
    yield "the key moves with its source"


def _trained(students: list[Stage], store: Store) -> dict[str, Any]:
    """The digests of the students' files, by key."""
    found = {}
    for student in students:
        obtain(student, store)
        manifest = store.manifest(student.kind, student.key)
        assert manifest is not None
        found[student.key] = {name: file.sha256 for name, file in manifest.files.items()}
    return found


class _Killed(BaseException):
    """Raised to end a stage in the middle of its training."""


def _killed_and_resumed(stage: Stage, store: Store, first: Mapping[str, Any]) -> None:
    """Kill the training at its second step, after a checkpoint, and run it again."""
    if not isinstance(stage, TrainingStage):
        return
    store.remove(stage_folder(stage.kind, stage.key))
    steps = iter([True])  # a preemption notice at the first step: the loop saves a checkpoint

    def leaving() -> bool:
        try:
            return next(steps)
        except StopIteration:
            raise _Killed from None

    with suppress(_Killed):
        obtain(stage, store, leaving=leaving)
    if _trained([stage], store)[stage.key] != first[stage.key]:
        raise Broken(
            f"a training of {stage.key} that was killed after its first step and resumed left "
            "other files; any state kept between steps must be a function of (seed, step)"
        )


# Functions


def check_divergence(path: str) -> Iterator[str]:
    """Check a divergence.

    Checked: a finite loss per position; 0 with zero gradient if the student equals the teacher; a
    gradient that `torch.autograd.gradcheck` confirms in float64.
    """
    import torch

    loss = _plugin("divergences", path).load()
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64)
    student.requires_grad_(True)
    values = loss(student, teacher, 2.0)
    if values.shape != (5,) or not bool(torch.isfinite(values).all()):
        raise Broken(f"it must return a finite loss for each of 5 positions, got {values}")
    yield "a finite loss for each position"
    same = teacher.clone().requires_grad_(True)
    at_teacher = loss(same, teacher, 2.0)
    (gradient,) = torch.autograd.grad(at_teacher.sum(), same)
    if float(at_teacher.abs().max()) > 1e-9 or float(gradient.abs().max()) > 1e-6:
        raise Broken(
            f"where student and teacher agree it must be 0, with no gradient: {at_teacher}"
        )
    yield "zero, without gradient, where student and teacher agree"
    torch.autograd.gradcheck(lambda logits: loss(logits, teacher, 2.0), (student,))
    yield "its gradient is right (gradcheck, float64)"


def check_metric(path: str) -> Iterator[str]:
    """Check a metric.

    Checked: a score from 0 to 100 for each example, the same in a second call, and no lower for
    right answers than for empty ones.
    """
    from l2kd_ray.tasks import judge

    metric = _plugin("metrics", path)
    examples = [Example(str(n), "a context", "a question", (f"answer {n}",)) for n in range(4)]
    right = judge(metric, [example.answers[0] for example in examples], examples)
    wrong = judge(metric, [""] * 4, examples)
    yield "a score from 0 to 100 for each example"
    if judge(metric, [""] * 4, examples).each != wrong.each:
        raise Broken(f"{metric.name}: two calls scored the same answers differently")
    yield "deterministic"
    if right.over(range(4)) < wrong.over(range(4)):
        raise Broken(
            f"{metric.name}: right answers score lower than empty ones; more must be better"
        )
    yield "right answers score no lower than empty ones"


def check_filter(path: str) -> Iterator[str]:
    """Check a replay filter: True or False for a sample of a task, the same in a second call."""
    keeps = _plugin("filters", path).load()
    sample = Example("0", "a context and a question", "", ("an answer",))
    kept = keeps("task", sample)
    if not isinstance(kept, bool) or keeps("task", sample) is not kept:
        raise Broken(f"it must return True or False for (task, example), got {kept!r}")
    yield "true or false for each sample"


def check_reader(path: str) -> Iterator[str]:
    """Check that a reader can be imported; its output on a file is checked when a study is
    planned."""
    _plugin("readers", path).load()
    yield "imported; `l2kd plan` checks what it reads"


def _plugin(kind: door.PluginKind, path: str) -> door.Plugin:
    held = door.held(kind, path, {}, {}, {})
    assert isinstance(held, door.Plugin)
    return held


CHECKS: Mapping[str, Callable[[str], Iterator[str]]] = {
    "methods": check_method,
    "divergences": check_divergence,
    "metrics": check_metric,
    "filters": check_filter,
    "readers": check_reader,
}
"""The checks of each kind of plug-in; each takes a plug-in named as in a study file."""


def run_all(path: str, kind: str = "methods", show: Callable[[str], None] = print) -> bool:
    """Run all checks of a plug-in and show each; returns True if all pass.

    Raises: InputError if the plug-in cannot be imported.
    """
    try:
        for line in CHECKS[kind](door.absolute(path, None)):
            show(f"ok      {line}")
    except Broken as broken:
        show(f"BROKEN  {broken}")
        return False
    return True
