"""What comes from outside: found, refused, part of the keys, checked, and sent to Ray's workers."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray import door
from l2kd_ray.api import load_study
from l2kd_ray.errors import InputError
from l2kd_ray.study.study import Study
from l2kd_ray.testing.plugins import Broken, check_divergence, check_method, check_metric

METHOD = """
    from pydantic import Field

    from l2kd_ray.families.method import method
    from l2kd_ray.section import Section


    class Options(Section):
        rehearsed: int = Field(1, ge=0)


    @method(options=Options)
    def short_memory(build, previous, former, task, seed):
        kept = former[len(former) - build.options.rehearsed :] if build.options.rehearsed else ()
        replay = build.replay(previous, kept, task, seed)
        return build.learn(previous, task, seed, replay=replay)
"""


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(textwrap.dedent(text))
    return name


def keys(study: Study, arm: str) -> list[str]:
    """The keys of an arm's students."""
    trials = [trial for trial in study.trials() if trial.method == arm]
    return [cell.stage.model.key for trial in trials for step in trial.steps[1:] for cell in step]


def test_a_method_is_found_beside_the_study_and_from_the_working_directory(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, METHOD)
    study = tiny(methods=[f"./{path}:short_memory"])
    assert [arm.name for arm in study.config.arms] == ["short_memory"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert keys(tiny(methods=[f"./{path}:short_memory"]), "short_memory") == keys(
        study, "short_memory"
    )


def test_keys_move_with_the_source_and_the_options(tiny: Any, tmp_path: Path) -> None:
    method = f"./{write(tmp_path, METHOD)}:short_memory"
    before = keys(tiny(methods=[method]), "short_memory")
    options = keys(tiny(methods=[method], short_memory={"rehearsed": 0}), "short_memory")
    assert set(before) != set(options)
    write(tmp_path, METHOD + "\n    # another line\n")
    assert not set(before) & set(keys(tiny(methods=[method]), "short_memory"))


def test_teachers_are_shared_with_the_built_in_methods(tiny: Any, tmp_path: Path) -> None:
    text = METHOD.replace("replay=replay)", "replay=replay, distil=True)")
    study = tiny(methods=["l2kd", f"./{write(tmp_path, text)}:short_memory"])

    def teachers(arm: str) -> set[str]:
        trials = (trial for trial in study.trials() if trial.method == arm)
        roles = [role for trial in trials for role in trial.stages().items()]
        return {stage.key for stage, role in roles if role == "teacher"}

    assert teachers("l2kd") == teachers("short_memory") != set()


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("./absent.py:method", "cannot be imported"),
        ("no_such_package.mine:method", "cannot be imported"),
        ("./mine.py:absent", "there is no absent"),
        ("nonsense", "no such method"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    tiny: Any, tmp_path: Path, method: str, problem: str
) -> None:
    write(tmp_path, METHOD)
    with pytest.raises(InputError, match=problem) as refused:
        tiny(methods=[method])
    assert "study.yaml" in refused.value.where
    assert refused.value.fix or refused.value.expected


@pytest.mark.parametrize("name", ["lamol", "kd", "multitask", "search"])
def test_a_built_in_name_cannot_be_taken(tiny: Any, tmp_path: Path, name: str) -> None:
    path = write(tmp_path, METHOD.replace("short_memory", name))
    with pytest.raises(InputError, match=r"built in|name of its own"):
        tiny(methods=[{"name": "mine", "method": f"./{path}:{name}"}])


@pytest.mark.parametrize("name", ["merge", "der", "kd"])
def test_a_part_of_a_method_cannot_have_another_methods_options(
    tiny: Any, tmp_path: Path, name: str
) -> None:
    """A search over `merge.tau` would be taken for one of the method `merge`."""
    source = """
        def NAME(student, teacher, temperature):
            return (student - teacher).square().mean(-1)
    """
    path = write(tmp_path, source.replace("NAME", name))
    with pytest.raises(InputError, match="built in"):
        tiny(methods=["l2kd"], kd={"divergence": f"./{path}:{name}"})


def test_a_searched_part_is_found_beside_the_study(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        def near(student, teacher, temperature):
            return (student - teacher).square().mean(-1)
    """
    path = f"./{write(tmp_path, source)}:near"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    study = tiny(methods=["l2kd"], search={"kd.divergence": {"grid": ["forward", path]}})
    assert len({*keys(study, "l2kd")}) == 2 * len({*keys(tiny(methods=["l2kd"]), "l2kd")})


def test_unknown_and_bad_options_are_refused(tiny: Any, tmp_path: Path) -> None:
    method = f"./{write(tmp_path, METHOD)}:short_memory"
    with pytest.raises(InputError, match=r"short_memory\.rehearsd"):
        tiny(methods=[method], short_memory={"rehearsd": 1})
    with pytest.raises(InputError, match=r"short_memory\.rehearsed"):
        tiny(methods=[method], short_memory={"rehearsed": -1})


METRIC = """
    from pydantic import Field

    from l2kd_ray.door import options
    from l2kd_ray.section import Section


    class Options(Section):
        order: int = Field(2, ge=1)


    @options(Options)
    def alike(predictions, references, options):
        return 100.0 / options.order
"""


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with an entry point of each kind that it may have."""
    write(tmp_path, METHOD, "brought.py")
    info = tmp_path / "brought-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.2\n")
    (info / "top_level.txt").write_text("brought\n")
    write(tmp_path, METRIC, "measure.py")
    points = "[l2kd_ray.methods]\nbrought = brought:short_memory\n"
    (info / "entry_points.txt").write_text(f"{points}[l2kd_ray.metrics]\nalike = measure:alike\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (door._entry_points, door._packages):
        cached.cache_clear()
    yield
    for cached in (door._entry_points, door._packages):
        cached.cache_clear()
    for module in ("brought", "measure"):
        sys.modules.pop(module, None)


def test_an_entry_point_has_options_too(tiny: Any, distribution: None) -> None:
    tasks = [{"name": "gen.rest", "metric": "alike"}, "gen.intent"]
    keys = {
        cell.stage.key
        for order in (2, 3)
        for trial in tiny(tasks=tasks, methods=["finetune"], alike={"order": order}).trials()
        for cell in trial.steps[-1]
        if cell.task == "gen.rest"
    }
    plain = tiny(tasks=tasks, methods=["finetune"]).trials()
    assert {c.stage.key for t in plain for c in t.steps[-1] if c.task == "gen.rest"} < keys
    with pytest.raises(InputError, match=r"alike\.order"):
        tiny(tasks=tasks, methods=["finetune"], alike={"order": 0})


def test_an_entry_point_is_named_by_its_own_name(tiny: Any, distribution: None) -> None:
    study = tiny(methods=["brought"])
    code = study.family.methods["brought"].code
    assert code is not None
    assert code.startswith("brought 1.2 ")
    own = [one for one in vars(sys.modules["brought"]).values() if isinstance(one, type)]
    assert {one.source_code for one in own if one.__module__ == "brought"} == {code}  # type: ignore[attr-defined]


UNSTEADY = """
    import random
    from dataclasses import dataclass, replace

    from l2kd_ray.families.language.stages.constraints import Constraint
    from l2kd_ray.families.method import method


    @dataclass(frozen=True)
    class Noisy(Constraint):
        size: float

        def prepare(self, model, curriculum, context):
            def change(model, step):
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.mul_(1 + self.size * random.random())

            return change


    @method()
    def unsteady(build, previous, former, task, seed):
        return build.learn(previous, task, seed, lm=False, constraint=Noisy(0.5))


    @method()
    def cheating(build, previous, former, task, seed):
        test = build.examples(build.resolved.tasks[task].splits["test"])
        tokens = build._tokens(test)
        return replace(build.learn(previous, task, seed), tasks=(tokens,))
"""


def test_the_check_finds_what_breaks_a_law(tmp_path: Path) -> None:
    path = write(tmp_path, UNSTEADY)
    with pytest.raises(Broken, match="different files"):
        list(check_method(str(tmp_path / f"{path}:unsteady")))
    with pytest.raises(Broken, match="test split"):
        list(check_method(str(tmp_path / f"{path}:cheating")))
    idle = write(tmp_path, METHOD.replace("build.options.rehearsed", "1"), "idle.py")
    with pytest.raises(InputError, match="no effect"):
        list(check_method(str(tmp_path / f"{idle}:short_memory")))


def test_the_check_accepts_a_method_that_keeps_the_laws(tmp_path: Path) -> None:
    path = write(tmp_path, METHOD)
    passed = list(check_method(str(tmp_path / f"{path}:short_memory")))
    assert any("resumes" in line for line in passed)
    assert any("rehearsed" in line for line in passed)


def test_functions_are_checked_by_kind(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        def backwards(predictions, examples):
            return [0.0 if p == e.answers[0] else 100.0 for p, e in zip(predictions, examples)]

        def lopsided(student, teacher, temperature):
            return (student - teacher).square().sum(-1) + 1.0
        """,
    )
    with pytest.raises(Broken, match="lower than empty"):
        list(check_metric(str(tmp_path / f"{path}:backwards")))
    with pytest.raises(Broken, match="must be 0"):
        list(check_divergence(str(tmp_path / f"{path}:lopsided")))


@pytest.mark.drill
def test_a_file_travels_to_workers_that_do_not_have_it(study_file: Any, tmp_path: Path) -> None:
    """Once the study is read the file may go: its source and classes are sent with the stages."""
    path = write(tmp_path, METHOD)
    write(
        tmp_path,
        """
        def right(predictions, examples):
            return [100.0 * (p == e.answers[0]) for p, e in zip(predictions, examples)]

        def worded(task, example):
            return len(example.context) > 2
        """,
        "functions.py",
    )
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for file in (train, test):
        row = '{{"context": "{0} and {0}", "question": "how many?", "answer": "two {0}"}}\n'
        file.write_text("".join(row.format(word) for word in ("apples", "pears", "plums") * 4))
    own = {"name": "own", "train": str(train), "test": str(test)}
    study = load_study(
        study_file(
            tasks=["gen.rest", {**own, "metric": "./functions.py:right"}],
            methods=[f"./{path}:short_memory"],
            replay={"filters": ["./functions.py:worded"]},
            max_train=6,
        )
    )
    for name in (path, "functions.py"):
        (tmp_path / name).unlink()
    ended = study.sweep()
    assert not ended.failures
    assert set(study.scores()["metric"]) >= {"right"}
