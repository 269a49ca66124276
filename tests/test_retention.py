"""Retention: what is measured of what a student could do before, against its definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from l2kd_ray.analysis.findings import find
from l2kd_ray.analysis.retention import retained
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import SequenceFormat
from l2kd_ray.report.blocks import SETTING, Table, text
from l2kd_ray.report.tradeoff_section import tradeoff_section
from l2kd_ray.study.loading import resolve_study, to_yaml
from l2kd_ray.study.reading import parse_study
from l2kd_ray.testing.studies import tiny

LINES = ["the moon serves thai food", "", "it is a cheap place near the river . " * 30]


def study(folder: Path, **changes: Any) -> Any:
    (folder / "texts.txt").write_text("\n".join(LINES), "utf-8")
    kept = {"texts": "texts.txt", "tasks": ["gen.tv"]}
    data = tiny(methods=["finetune"], orders=["gen.rest>gen.intent"], retention=kept, **changes)
    return resolve_study(parse_study(data), folder / "my.yaml")


def test_it_is_measured_before_and_after_each_task(tmp_path: Path, store: Store) -> None:
    made = study(tmp_path)
    trial = next(one for one in made.trials() if one.method == "finetune")
    names = [(cell.i, cell.task) for cell in trial.retention]
    assert names == [
        (i, f"retention/{name}")
        for i in range(3)
        for name in ("gen.tv", "texts", *(["kl"] if i else []))
    ]
    for cell in trial.cells:
        obtain(cell.stage, store)
    frame = made.retention(store, [trial])
    assert not frame["value"].isna().any()
    assert "gen.tv" not in set(made.scores(store, [trial])["task"])
    row = retained(frame).loc[trial.id]
    assert sorted(row.index) == [
        "retention/gen.tv/after", "retention/gen.tv/before", "retention/kl",
        "retention/texts/after", "retention/texts/before",
    ]  # fmt: skip
    value = {(i, name): v for i, name, v in frame[["i", "name", "value"]].itertuples(index=False)}
    assert row["retention/texts/after"] == value[2, "texts"]
    assert row["retention/kl"] == pytest.approx((value[1, "kl"] + value[2, "kl"]) / 2)
    assert row["retention/kl"] > 0
    text_loss(trial, store, value[2, "texts"])
    (section,) = tradeoff_section(find(made.scores(store, [trial])), {}, frame)
    (table,) = section.blocks
    assert isinstance(table, Table)
    assert text(table.frame["texts after"][0], table.digits_of("texts after")) == text(
        float(row["retention/texts/after"]), SETTING
    )


def text_loss(trial: Any, store: Store, found: float) -> None:
    """Against full logits, a text at a time."""
    student = trial.steps[-1][0].stage.model
    folder = store.fetch(student.kind, student.key)
    model, text = CausalLM.load(folder).eval(), SequenceFormat.load(folder)
    total, count = 0.0, 0
    model.freeze()
    for tokens in text.encode([line for line in LINES if line]):
        for start in range(0, len(tokens), model.context):
            ids = torch.tensor([tokens[start : start + model.context]])
            logits = model.lm(input_ids=ids).logits[0, :-1]
            total += float(cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    assert found == pytest.approx(total / count, rel=1e-5)


def test_retention_moves_no_students_key(tmp_path: Path) -> None:
    plain = resolve_study(
        parse_study(tiny(methods=["finetune"], orders=["gen.rest>gen.intent"])), "my.yaml"
    )
    one, other = ({cell.stage.key for t in s.trials() for step in t.steps for cell in step}
                  for s in (plain, study(tmp_path)))  # fmt: skip
    assert one == other


def test_a_resolved_study_has_absolute_paths(tmp_path: Path) -> None:
    made = study(tmp_path)
    assert f"texts: {tmp_path}/texts.txt" in to_yaml(made)


HARNESS = """
def simple_evaluate(model, model_args, tasks, **how):
    assert model == "hf" and how["limit"] == 3 and how["num_fewshot"] is None
    from transformers import AutoModelForCausalLM, AutoTokenizer
    lm = AutoModelForCausalLM.from_pretrained(model_args["pretrained"])
    AutoTokenizer.from_pretrained(model_args["pretrained"])
    size = float(sum(weight.abs().sum() for weight in lm.parameters()))
    (task,) = tasks
    return {
        "results": {task: {"alias": task, "acc,none": size, "acc_err,none": "N/A", "loss,none": 1}},
        "higher_is_better": {task: {"acc": True, "loss": False}},
    }
"""
"""A stand-in of lm-eval: its interface, and a score that depends on the model."""


def test_tasks_of_lm_eval_are_stages_of_their_own(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"lm_eval": {"tasks": {"piqa": "acc"}, "limit": 3}}
    data = tiny(methods=["finetune"], orders=["gen.rest>gen.intent"], retention=kept)
    data["scale"] = {"lm_eval": {"cpus_per_worker": 2}}
    with pytest.raises(InputError, match="lm-eval") as refused:
        resolve_study(parse_study(data), "my.yaml").trials()
    assert "pip install" in refused.value.fix
    (tmp_path / "lm_eval.py").write_text(HARNESS)
    (tmp_path / "lm_eval-1.0.dist-info").mkdir()
    (tmp_path / "lm_eval-1.0.dist-info/METADATA").write_text("Name: lm_eval\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    made = resolve_study(parse_study(data), "my.yaml")
    trial = next(one for one in made.trials() if one.method == "finetune")
    cells = [cell for cell in trial.retention if "lm_eval" in cell.task]
    assert [(cell.i, cell.task) for cell in cells] == [
        (i, "retention/lm_eval.piqa") for i in range(3)
    ]
    stage: Any = cells[0].stage
    assert made.config.scale.of(stage).cpus_per_worker == 2
    assert stage.release == "1.0"
    scores = [obtain(cell.stage, store)["acc"] for cell in cells]
    assert len({*scores}) == 3
    for metric, match in (("f1", "has no metric f1, but acc, loss"), ("loss", "less is better")):
        with pytest.raises(ValueError, match=match):
            obtain(replace(stage, metric=metric), store)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="retention"):
        study(tmp_path, tasks=["gen.rest", "gen.intent", "gen.tv"])
    for name in ("texts", "kl", "lm_eval.piqa"):  # a measure of that name would take its place
        with pytest.raises(InputError, match="another measure of retention"):
            parse_study(tiny(retention={"tasks": [{"name": name, "hub": "a/b"}]}))
    (tmp_path / "none.txt").write_text("\n")
    for texts, match in (("none.txt", "no examples"), ("other.txt", "cannot read")):
        data = parse_study(tiny(retention={"texts": texts}))
        with pytest.raises(InputError, match=match):
            resolve_study(data, tmp_path / "my.yaml")
    data = tiny("classifiers", methods=["mkd"], retention={"tasks": []})
    with pytest.raises(InputError, match="language models"):
        resolve_study(parse_study(data), tmp_path / "my.yaml").trials()
