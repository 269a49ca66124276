"""Tokens kept as arrays, teachers live or from files, batches by length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.language import (
    FORMAT,
    NEW,
    OLD,
    batches,
    context,
    curriculum,
    losses,
    no_dropout,
    trained,
)
from helpers.studies import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from l2kd_ray.analysis.findings import find
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.distill import linear_loss
from l2kd_ray.distill.linear_loss import Knowledge, OutputLayer
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.distill.sharpness import sharpness
from l2kd_ray.distill.top_k import MostLikely
from l2kd_ray.families.language.model.corpus import Corpus, Encoded
from l2kd_ray.families.language.stages import annotations
from l2kd_ray.families.language.stages.annotate import Annotate
from l2kd_ray.families.language.stages.annotations import Cached
from l2kd_ray.families.language.stages.curriculum import SampleSource
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.language.stages.teachers import Live
from l2kd_ray.study.evidence import _taught_alike
from l2kd_ray.tasks import Example

WORDS = st.lists(st.sampled_from(["thai", "food", "in", "the", "north", "?"]), max_size=12)


@settings(max_examples=30)
@given(
    texts=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=5),
    longest=st.integers(8, 40),
)
def test_a_corpus_is_its_examples_cut_as_said(texts: Any, longest: int) -> None:
    examples = [
        Example(str(n), " ".join(c), " ".join(q), (" ".join(a),))
        for n, (c, q, a) in enumerate(texts)
    ]
    corpus = Corpus.of(examples, FORMAT, "a", longest)
    assert len(corpus) == len(examples)
    for example, sample in zip(examples, corpus, strict=True):
        context, question, answer = FORMAT.encode(
            [example.context, example.question, example.answers[0]]
        )
        assert len(FORMAT.lm(sample).tokens) <= longest
        assert sample.answer == answer[: len(sample.answer)]
        if len(context) + len(question) + len(answer) <= FORMAT.room("a", longest):
            assert (sample.question, sample.answer) == ([*context, *question], answer)


def test_encoded_examples_are_mapped_back_from_disk(tmp_path: Path) -> None:
    examples = [Example(str(n), f"place {n}", "what?", (f"answer {n}" * n,)) for n in range(5)]
    encoded = Encoded.of(examples, FORMAT)
    encoded.save(tmp_path)
    again = Encoded.load(tmp_path)
    assert [again.parts(n) for n in range(5)] == [encoded.parts(n) for n in range(5)]
    assert not again.flat.flags.writeable


def test_hidden_states_from_files_teach_as_the_live_teacher_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within half precision, over several shards and both parts."""
    monkeypatch.setattr(annotations, "SHARD_POSITIONS", 7)
    teacher = no_dropout(seed=9)
    # far from its start, so that its distributions are not all flat
    torch.manual_seed(0)
    with torch.no_grad():
        teacher.head.weight.mul_(20)
    live = Live(teacher)
    rows = curriculum(replayed=[]).rows_of(range(len(NEW)))
    in_order = sorted(rows, key=lambda row: (row.index, row.part != "qa"))
    annotations.write(in_order, live, here := context(tmp_path))
    assert len(list(here.out.glob("hidden-*"))) > 3
    cached = Cached(here.out, ("qa", "lm"))

    said = cached.annotate(rows, "cpu").hidden
    torch.testing.assert_close(said, live.annotate(rows, "cpu").hidden, rtol=1e-3, atol=1e-3)
    runs = [
        trained(
            tmp_path / name,
            curriculum(replayed=OLD, new=(SampleSource(NEW, teacher=one, share=1.0),)),
            SoftTargets(2.0, 5.0),
            model=no_dropout(),
        )
        for name, one in (("live", live), ("cached", cached))
    ]
    assert losses(runs[0][0]) == pytest.approx(losses(runs[1][0]), rel=1e-3)


@pytest.mark.parametrize("column", [0, 1])
def test_a_cached_teacher_of_other_rows_is_refused(tmp_path: Path, column: int) -> None:
    """Of other positions, or of as many in a row whose context was cut elsewhere."""
    live = Live(no_dropout(seed=9))
    rows = curriculum(replayed=[]).rows_of([0])
    annotations.write(rows, live, here := context(tmp_path))
    Cached(here.out, ("qa", "lm")).annotate(rows, "cpu")
    offsets = np.load(here.out / annotations.OFFSETS)
    offsets[1:, column] -= 1
    np.save(here.out / annotations.OFFSETS, offsets)
    with pytest.raises(ValueError, match="contexts differ"):
        Cached(here.out, ("qa", "lm")).annotate(rows, "cpu")


def teachers_of(study: Any) -> set[Any]:
    return {
        stage.teacher
        for trial in study.trials()
        for stage in trial.stages()
        if isinstance(stage, Learn) and stage.teacher is not None
    }


def test_what_a_teacher_says_is_computed_once_for_all_temperatures_and_orders(tiny: Any) -> None:
    study = tiny(
        methods=["l2kd"],
        search={"kd.temperature": {"grid": [1, 2, 4]}, "kd.weight": {"grid": [0.5, 1]}},
    )
    teachers = teachers_of(study)
    assert len(teachers) == 2  # one a task
    assert all(isinstance(teacher, Annotate) for teacher in teachers)


def own_teachers(study: Any, arm: str) -> dict[str, Learn]:
    """The teachers of an arm's first trial, by task."""
    trial = next(trial for trial in study.trials() if trial.method == arm)
    return {cell.task: cell.stage.model for cell in trial.teachers}


def test_an_arm_or_a_search_trains_students_and_not_their_teachers(tiny: Any) -> None:
    """Teachers are trained by the study's `train`, and `teaching` overrides it."""
    settings = {"fast": {"train.lr": 0.5, "train.epochs": 3}, "own": {"teaching.lr": 0.5}}
    arms = [{"name": name, "method": "l2kd", "settings": own} for name, own in settings.items()]
    study = tiny(methods=["l2kd", *arms], search={"train.clip": {"grid": [1, 2]}})
    usual, fast, own = (own_teachers(study, name) for name in ("l2kd", "fast", "own"))
    assert fast == usual
    assert {teacher.optimisation.clip for teacher in usual.values()} == {1.0}
    for task, teacher in own.items():
        changed = replace(teacher.optimisation, lr=usual[task].optimisation.lr)
        assert replace(teacher, optimisation=changed) == usual[task]
        assert teacher.optimisation.lr == 0.5
    single = next(trial for trial in study.trials() if trial.method == "single")
    assert {cell.task: cell.stage.model for cell in single.cells} == usual


@pytest.mark.parametrize(
    "kd", [{"weight": 0.0}, {"teachers": "previous"}, {"weight": 0.0, "objective": "seq"}]
)
def test_a_student_without_a_teacher_of_the_new_task_is_measured_against_none(
    tiny: Any, kd: Any
) -> None:
    assert not own_teachers(tiny(methods=["l2kd"], kd=kd), "l2kd")


def test_a_teacher_may_see_more_than_its_student(tiny: Any, store: Store) -> None:
    study = tiny(methods=["l2kd"], max_train=6, teaching={"max_train": 9})
    usual = tiny(methods=["l2kd"], max_train=6)
    for task, teacher in own_teachers(study, "l2kd").items():
        (seen,) = teacher.tasks
        (learnt,) = own_teachers(usual, "l2kd")[task].tasks
        ids = [
            {example.id for example in tokens.source.data.examples()} for tokens in (learnt, seen)
        ]
        assert [len(one) for one in ids] == [6, 9]
        assert ids[0] < ids[1]
    whole = tiny(methods=["l2kd"], max_train=6, teaching={"max_train": 10**6})
    for teacher in own_teachers(whole, "l2kd").values():
        assert teacher.tasks[0].source.data.cap is None


def test_the_score_of_a_teacher_stands_beside_its_students(tiny: Any, store: Store) -> None:
    """Each arm beside the teachers that taught it, which are no other arm's."""
    other = {"name": "slow", "method": "l2kd", "settings": {"teaching.lr": 1e-6}}
    study = tiny(methods=["l2kd", other, "lamol"])
    for trial in study.trials():
        for cell in trial.cells:
            obtain(cell.stage, store)
    scores = study.scores(store, study.trials())
    for trial in study.trials():
        rows = scores[scores["trial"] == trial.id]
        known = {cell.task: cell.stage for cell in trial.teachers}
        for task, key, score in zip(
            rows["task"], rows["teacher"], rows["teacher_score"], strict=True
        ):
            own = known.get(task)
            assert key == ("" if own is None else own.model.key)
            assert np.isnan(score) if own is None else score == obtain(own, store)[own.metric_name]
    found = find(scores).teachers.set_index("method")
    assert set(found.index) == {"l2kd", "slow"}
    assert set(found["group"]) == {1, 2}


@pytest.mark.parametrize(
    ("kd", "kind"),
    [({"teacher": "online"}, Learn), ({"teacher": "cached"}, Annotate), ({}, Annotate)],
)
def test_how_the_teacher_speaks_is_a_setting(tiny: Any, kd: Any, kind: type) -> None:
    assert all(type(teacher) is kind for teacher in teachers_of(tiny(methods=["l2kd"], kd=kd)))


WIDER = {**TINY["student"], "n_embd": 32}
SHORT = {**TINY["train"], "max_length": 32}


@pytest.mark.parametrize(
    ("changes", "most", "kind"),
    [
        ({}, 0, Learn),  # they would fill the disk
        ({"kd": {"top_k": 8}}, 0, Annotate),  # these are few, and live teachers have none
        ({"teacher": WIDER}, None, Learn),  # it may see more of a sample than the student does
        ({"teacher": WIDER, "train": SHORT}, None, Annotate),
        ({"teacher": WIDER, "train": SHORT}, 0, Learn),
    ],
)
def test_outputs_are_kept_of_a_teacher_of_few_and_of_the_same_positions(
    tiny: Any, changes: Any, most: int | None, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if most is not None:
        monkeypatch.setattr("l2kd_ray.families.language.builder._CACHED_POSITIONS", most)
    teachers = teachers_of(tiny(methods=["l2kd"], **changes))
    assert {type(teacher) for teacher in teachers} == {kind}
    kept = {teacher.top_k for teacher in teachers if isinstance(teacher, Annotate)}
    assert kept <= {changes.get("kd", {}).get("top_k")}


def test_one_teacher_may_serve_every_seed(tiny: Any) -> None:
    shared = tiny(methods=["l2kd"], seeds=[1, 2, 3], kd={"teacher_seed": 7})
    own = tiny(methods=["l2kd"], seeds=[1, 2, 3])
    assert len({outputs.teacher for outputs in teachers_of(shared)}) == 2
    assert len({outputs.teacher for outputs in teachers_of(own)}) == 6
    assert len(teachers_of(shared)) == 6  # its outputs on each seed's own sample
    assert _taught_alike(shared.trials()) == ["l2kd"]  # which a report says
    assert _taught_alike(own.trials()) == []


@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_cached_and_live_teachers_make_like_students(
    tiny: Any, tmp_path: Path, precision: str, near: float
) -> None:
    """End to end, through the stages."""
    losses = []
    for how in ("online", "cached"):
        train = {**TINY["train"], "precision": precision}
        study = tiny(methods=["l2kd"], kd={"teacher": how}, train=train)
        store = Store(str(tmp_path / how))
        trial = study.trials()[-1]
        last = trial.steps[-1][0].stage.model
        losses.append(obtain(last, store)["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=near)


def test_buckets_keep_every_sample_once_and_lessen_padding() -> None:
    plain = curriculum(replayed=OLD)
    bucketed = replace(plain, bucket_batches=3)
    steps = plain.steps_per_epoch
    for epoch in range(2):
        own = batches(bucketed)[epoch * steps : (epoch + 1) * steps]
        assert sorted(index for batch in own for index in batch) == list(range(len(plain)))
    assert padding(bucketed) < padding(plain)
    rest = islice(bucketed.batches(3), 2 * steps - 3)
    assert [batch.indices for batch in rest] == batches(bucketed)[3:]


def padding(chosen: Any) -> int:
    total = 0
    for batch in batches(chosen):
        lengths = [len(row.sequence.tokens) for row in chosen.rows_of(batch) if row.part == "qa"]
        total += max(lengths) * len(lengths) - sum(lengths)
    return total


def test_a_teacher_that_was_annotated_may_be_dropped(tiny: Any, tmp_path: Path) -> None:
    """`keep: leaves` removes models that nothing reads: a student reads what was annotated."""
    study, store = tiny(methods=["l2kd"]), Store(str(tmp_path / "store"))
    last = study.trials()[-1].steps[-1][0].stage.model
    obtain(last.teacher, store)
    store.drop_files(last.teacher.teacher.kind, last.teacher.teacher.key)
    teacher = store.manifest("learn", last.teacher.teacher.key)
    obtain(last, store)
    assert store.manifest("learn", last.teacher.teacher.key) == teacher  # not trained again


@pytest.mark.parametrize("chunk", [4, 2**24])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_a_teachers_sharpness_by_hand(
    temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A uniform teacher adds no entropy; one that is sure of 3 of 4 adds what the softmax does."""
    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", chunk)
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(27.0), 0.0, 0.0, 0.0]])
    found = sharpness(Knowledge(torch.eye(2), OutputLayer(logits.T)), temperature)
    p = np.array([27 ** (1 / temperature), 1, 1, 1])
    p /= p.sum()
    entropy = -(p * np.log(p)).sum()
    sure = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1 / 3))
    assert found["best"] == pytest.approx((0.25 + p[0]) / 2)
    assert found["added"] == pytest.approx((entropy - sure) / 2, abs=1e-6)
    kept = sharpness(MostLikely.of(logits, 2), temperature)
    assert kept["best"] == pytest.approx(found["best"])


def test_the_bias_of_top_k_is_the_same_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, here = curriculum(parts=("qa",)).rows_of(range(len(NEW))), context(tmp_path)
    annotations.write(rows, Live(no_dropout(seed=9)), here, keep=5)
    teacher = Cached(here.out, ("qa",))

    def said() -> Mapping[str, float]:
        return teacher.bias(no_dropout(), rows, SoftTargets(2.0), "cpu")

    whole = said()
    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", 3 * teacher.vocabulary)
    assert said() == pytest.approx(whole, rel=1e-5)


def test_a_student_says_how_sharp_its_teacher_was(tiny: Any, store: Store) -> None:
    """Softer at a higher temperature; nothing where there is no distribution to learn from."""
    kd = {"cold": {"kd.temperature": 1.0}, "hot": {"kd.temperature": 4.0}}
    kd |= {"hard": {"kd.objective": "seq"}, "none": {"kd.weight": 0.0}}
    arms = [{"name": name, "method": "l2kd", "settings": own} for name, own in kd.items()]
    study = tiny(methods=arms)
    first = {}
    for trial in study.trials():
        if trial.method in kd and trial.method not in first:
            first[trial.method] = obtain(trial.steps[1][0].stage.model, store)
    assert first["cold"]["teacher/added"] == 0
    assert first["hot"]["teacher/best"] < first["cold"]["teacher/best"]
    assert first["hot"]["teacher/added"] > 0
    assert not any(name.startswith("teacher/") for name in {**first["hard"], **first["none"]})
