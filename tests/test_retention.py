"""Retention: what is measured of what a student could do before, against its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import SequenceFormat
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
    from l2kd_ray.analysis.retention import retained

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


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="retention"):
        study(tmp_path, tasks=["gen.rest", "gen.intent", "gen.tv"])
    (tmp_path / "none.txt").write_text("\n")
    for texts, match in (("none.txt", "no examples"), ("other.txt", "cannot read")):
        data = parse_study(tiny(retention={"texts": texts}))
        with pytest.raises(InputError, match=match):
            resolve_study(data, tmp_path / "my.yaml")
    data = tiny("classifiers", methods=["mkd"], retention={"tasks": []})
    with pytest.raises(InputError, match="language models"):
        resolve_study(parse_study(data), tmp_path / "my.yaml").trials()
