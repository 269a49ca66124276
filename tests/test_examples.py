"""Plug-ins of one's own: the files of `examples/` run in a study as they are."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

import l2kd_ray
from l2kd_ray.errors import InputError
from l2kd_ray.tasks import Example, score
from l2kd_ray.testing.plugins import run_all

EXAMPLES = Path(__file__).parents[1] / "examples"
LATE = f"{EXAMPLES}/late_distillation.py:late_l2kd"
CHRF = f"{EXAMPLES}/chrf.py:chrf"


def test_a_method_of_ones_own_runs_beside_the_built_in_ones(study_file: Any) -> None:
    study = l2kd_ray.load_study(
        study_file(methods=["lamol", LATE], orders=["gen.rest>gen.intent"], kd={"weight": 0.5})
    )
    assert study.sweep("inline").failures == []
    late = study.results().query("method == 'late_l2kd'")
    assert late["complete"].all()
    assert late["gap/abs"].notna().all()


def test_late_distillation_is_lamol_first_and_l2kd_afterwards(study_file: Any) -> None:
    study = l2kd_ray.load_study(
        study_file(methods=["lamol", "l2kd", LATE], orders=["gen.rest>gen.intent"])
    ).study
    paths = {t.method: [step[0].stage.model for step in t.steps] for t in study.trials() if t.order}
    assert paths["late_l2kd"][1].teacher is None
    assert paths["late_l2kd"][2].teacher == paths["l2kd"][2].teacher
    assert paths["late_l2kd"][2].start == paths["late_l2kd"][1]  # its own student, not LAMOL's


def test_the_options_of_a_method_are_a_section_of_the_study(study_file: Any) -> None:
    def last(**changes: Any) -> str:
        experiment = l2kd_ray.load_study(study_file(methods=[LATE], **changes))
        return next(t for t in experiment.trials() if t.order).steps[-1][0].stage.model.key

    assert last() == last(late_l2kd={"after": 1})
    assert last() != last(late_l2kd={"after": 0})
    with pytest.raises(InputError, match=r"late_l2kd\.after"):
        last(late_l2kd={"after": -1})
    with pytest.raises(InputError, match=r"late_l2kd\.before"):
        last(late_l2kd={"before": 1})
    found = l2kd_ray.load_study(
        study_file(methods=[LATE], search={"late_l2kd.after": {"grid": [0, 1]}})
    )
    assert len({t.id for t in found.trials() if t.order}) == 4


def test_a_metric_of_ones_own_scores_a_task(study_file: Any) -> None:
    tasks = [{"name": "gen.rest", "metric": CHRF}, "gen.intent"]
    study = l2kd_ray.load_study(
        study_file(tasks=tasks, methods=["finetune"], replay=None, chrf={"word_order": 2})
    )
    assert study.sweep("inline").failures == []
    scores = study.scores().query("task == 'gen.rest'")
    assert set(scores["metric"]) == {"chrf"}
    assert scores["score"].between(0, 100).all()
    assert "score/gen.rest/chrf" in study.results()


def test_scores_of_a_metric_of_ones_own_are_those_of_its_definition(study_file: Any) -> None:
    """The best of the references; 100 for an equal text, 0 for one that shares no character."""
    file = study_file(
        tasks=[{"name": "gen.rest", "metric": CHRF}], methods=["finetune"], replay=None
    )
    task = l2kd_ray.load_study(file).study.resolved.tasks["gen.rest"]
    examples = [Example("1", "", "", ("a wide house", "a house")), Example("2", "", "", ("xyz",))]
    assert score(task.metric, ["a house", "abc"], examples)[1] == [100.0, 0.0]


@pytest.mark.parametrize(("plugin", "kind"), [(LATE, "methods"), (CHRF, "metrics")])
def test_an_example_keeps_the_rules(plugin: str, kind: str) -> None:
    assert run_all(plugin, kind)


def test_the_view_for_wandb_shows_what_its_runs_hold() -> None:
    pytest.importorskip("wandb_workspaces")
    view = run_path(str(EXAMPLES / "wandb_workspace.py"))["workspace"]("me", "l2kd", "mine")
    gaps, _, training = (section.panels for section in view.sections)
    shown = {name for panel in training for name in panel.y}
    assert {"train/loss", "train/kd", "train/grad_norm", "train/tokens_per_second"} <= shown
    assert gaps[0].metrics[0].name == "gap/abs"
