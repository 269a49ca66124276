"""The gain of distillation: against the control, at the selected and at the published setting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.pages import SEEDS
from helpers.synthetic_study import study

from l2kd_ray.analysis import compare_methods
from l2kd_ray.analysis.findings import Findings, find
from l2kd_ray.report.blocks import Picture, Prose
from l2kd_ray.report.distillation_section import distillation_section, gain_sentences
from l2kd_ray.report.gap_section import gap_section
from l2kd_ray.report.labels import distilled_by
from l2kd_ray.report.style import looks
from l2kd_ray.study.evidence import _divergences, _in_words

GRID = [{"kd.temperature": t, "kd.weight": w} for t in (1.0, 2.0) for w in (0.5, 1.0)]
PAPER = {"l2kd": {"kd.temperature": 2.0, "kd.weight": 1.0}}


def scores(methods: tuple[str, ...] = ("finetune", "lamol", "l2kd"), **more: Any) -> pd.DataFrame:
    """A made-up study in which only l2kd has teachers."""
    made = study(methods=methods, seeds=SEEDS, **more)
    taught = made["method"] == "l2kd"
    made.loc[taught, "teacher"] = "of " + made["task"]
    made.loc[taught, "teacher_score"] = 70.0
    return made


def found(made: pd.DataFrame) -> Findings:
    return find(made, published=PAPER)


def test_gains_are_paired_differences_to_the_student_without_a_teacher() -> None:
    paper = {"l2kd": {"kd.temperature": 1.0, "kd.weight": 0.5}}
    seen = find(scores(settings={"l2kd": GRID}), published=paper)
    chosen = dict(zip(seen.arms["method"], seen.arms["setting"], strict=True))
    assert list(seen.gains["against"]) == ["lamol", "lamol"]
    assert list(seen.gains["selected"]) == [True, False]
    assert list(seen.gains["published"]) == [False, True]
    for _, row in seen.gains.iterrows():
        arms = [(row["method"], row["setting"]), ("lamol", chosen["lamol"])]
        one = compare_methods(seen.results, arms, seen.scope.design).iloc[0]
        assert row["difference"] == pytest.approx(one["difference"])
        # Two rows are shown, so that their intervals hold together.
        assert row["p_adjusted"] == pytest.approx(min(2 * one["p"], 1))
        assert row["high"] - row["low"] > one["high"] - one["low"]


def test_a_search_beyond_the_papers_settings_has_no_setting_of_the_paper() -> None:
    """Which of those with its temperature would it be?"""
    grid = [{**one, "teaching.epochs": n} for one in GRID for n in (5, 15)]
    seen = found(scores(settings={"l2kd": grid}))
    assert list(seen.gains["published"]) == [False]


def test_a_setting_that_is_both_the_best_and_the_papers_is_said_once() -> None:
    seen = found(scores(settings={"l2kd": GRID[-1:]}))
    assert seen.gains[["selected", "published"]].to_numpy().tolist() == [[True, True]]
    (sentence,) = gain_sentences(seen.gains)
    assert "at the paper's kd.temperature 2, kd.weight 1, which is also its best on dev" in sentence


@pytest.mark.parametrize(
    ("methods", "control"),
    [(("l2kd", "ewc"), "ewc"), (("l2kd", "ewc", "finetune"), None), (("l2kd",), None)],
)
def test_the_control_is_lamol_or_the_only_one_without_a_teacher(
    methods: tuple[str, ...], control: str | None
) -> None:
    seen = found(scores(methods)).gains
    assert list(seen.get("against", [])) == ([] if control is None else [control])


def test_without_teachers_there_is_nothing_to_say() -> None:
    seen = find(study(methods=("lamol", "finetune"), settings={"lamol": GRID}))
    assert seen.gains.empty
    assert not distillation_section(seen, looks(["lamol", "finetune"]))


@pytest.mark.parametrize("worse", [-30.0, 30.0])
def test_the_words_say_which_way_it_goes(worse: float) -> None:
    made = scores()
    own = (made["method"] == "l2kd") & (made["i"] > 0)
    made.loc[own, "score"] = np.clip(made.loc[own, "score"] - worse, 0, 100)
    (sentence,) = gain_sentences(found(made).gains)
    assert ("**costs" in sentence) == (worse > 0)
    assert ("**gains" in sentence) == (worse < 0)


def test_one_seed_is_said_to_have_no_interval() -> None:
    made = scores()
    (sentence,) = gain_sentences(found(made[made["seed"] == SEEDS[0]]).gains)
    assert "one seed" in sentence
    assert "interval 0" not in sentence


def test_each_direction_is_a_formula_wherever_a_study_distils() -> None:
    """In the words on distillation and in the captions of figures, searched or not."""
    by_method = {"l2kd": ("forward", "reverse"), "l2kd-jsd": ("jsd",), "sdft": ("forward",)}
    legend = distilled_by(by_method)
    assert "forward (l2kd, sdft): KL(p || q); reverse (l2kd): KL(q || p); jsd (l2kd-jsd)" in legend
    assert distilled_by({}) == ""
    seen = found(scores())
    look = looks(["finetune", "lamol", "l2kd"])
    (section,) = distillation_section(seen, look, legend)
    assert legend.strip() in [block.words for block in section.blocks if isinstance(block, Prose)]
    gap = gap_section(seen, look, distilled=legend)
    assert [b.caption.endswith(legend) for b in gap.blocks if isinstance(b, Picture)] == [True]


def test_the_divergences_of_a_study_are_those_of_its_students(tiny: Any) -> None:
    arms = [
        "lamol",
        {"name": "seq", "method": "l2kd", "settings": {"kd.objective": "seq"}},
        {"name": "limit", "method": "l2kd", "settings": {"kd.divergence": "jsd", "kd.beta": 1}},
        {"name": "sdft", "settings": {"kd.divergence": "tvd"}},
    ]
    assert _divergences(tiny(methods=arms).trials()) == {"limit": ("reverse",), "sdft": ("tvd",)}


def test_what_the_methods_are_tells_arms_of_one_method_apart(tiny: Any) -> None:
    arms = ["l2kd", {"name": "none", "method": "l2kd", "settings": {"kd.weight": 0}}]
    said = _in_words(tiny(methods=arms))
    assert said["none"] == f"{said['l2kd']} With kd.weight: 0."
