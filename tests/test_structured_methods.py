"""Structural KD through stages and studies: every case runs, and identities between settings."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from helpers.weights import weights
from torch import Tensor

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import CURVE, Context, Stage
from l2kd_ray.core.store import Store
from l2kd_ray.distill.structured.case_table import CASES, Objective
from l2kd_ray.errors import InputError
from l2kd_ray.experiment import Experiment
from l2kd_ray.families.structures.model.features import WordFeatures
from l2kd_ray.families.structures.model.structured import StructuredModel
from l2kd_ray.families.structures.stages.learn import tag
from l2kd_ray.families.structures.stages.lessons import Best, StructuredLessons
from l2kd_ray.study import Study
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study

TAGS = {
    "name": "tags",
    "tasks": ["made.tags.a"],
    "methods": ["structkd"],
    "student": {"arch": "bilstm", "hidden": 8, "word_size": 8, "character_size": 6},
    "kd": {"weight": 1.0, "temperature": 1.0},
    "train": {"epochs": 2, "batch_size": 8, "lr": 5e-3},
    "max_train": 16,
    "max_dev": 8,
    "max_test": 8,
    "wandb": {"mode": "disabled"},
}
SIZES = {"arc_size": 8, "relation_size": 6, "rank": 4}
TREES = {"tasks": ["made.trees.a"], "student": {**TAGS["student"], **SIZES}}  # type: ignore[dict-item]

TAGGED = {"structural", "token", "posterior", "top-k", "top-wk"}
OBJECTIVES = {
    "1a": TAGGED,
    "1b": TAGGED - {"token"},
    "2a": TAGGED,
    "2b": TAGGED - {"token"},
    "3": TAGGED,
    "4": {"structural", "posterior"},
    "tree": {"structural"},
    "projective": {"structural"},
}
"""What a student can learn: token KD where each word's label has a score, the k best where
sequences of labels are searched."""


def study(**changes: Any) -> Study:
    return resolve_study(parse_study({**TAGS, **changes}), Path("study.yaml"))


def experiment_of(data: dict[str, Any]) -> Experiment:
    found = resolve_study(parse_study(data), Path("study.yaml"))
    return Experiment(found, Store(data["storage"]), "l2kd sweep study.yaml")


def student(found: Study, arm: str = "structkd") -> Any:
    trial = next(t for t in found.trials() if t.method == arm)
    return trial.steps[-1][-1].stage.model


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", ["1a", "2a", "3", "4", "1b", "2b", "tree", "projective"])
def test_every_case_runs_from_teacher_to_score(case: str, store: Store) -> None:
    own = TREES if case in ("1b", "2b", "tree", "projective") else {}
    found = study(structkd={"case": int(case) if case.isdigit() else case}, **own)  # as YAML has it
    for trial in found.trials():
        for cell in trial.cells:
            assert 0 <= obtain(cell.stage, store)[cell.stage.metric] <= 100


@pytest.mark.parametrize("case", ["1a", "2a", "3", "4", "1b", "2b", "tree", "projective"])
def test_workers_exchange_the_gradients_of_every_head(
    case: str, store: Store, tmp_path: Path, as_a_worker: Any
) -> None:
    own = TREES if case in ("1b", "2b", "tree", "projective") else {}
    found = study(structkd={"case": case}, **own)
    stages = [student(found, arm) for arm in ("structkd", "multitask")]
    stages += {cell.stage.model for trial in found.trials() for cell in trial.teachers}
    alone = [weights(stage, store) for stage in stages]
    with as_a_worker():
        other = Store(str(tmp_path / "wrapped"))
        for stage, wanted in zip(stages, alone, strict=True):
            torch.testing.assert_close(weights(stage, other), wanted)


def test_without_a_weight_it_is_training_on_gold(store: Store) -> None:
    arms = [
        {"name": "none", "method": "structkd", "settings": {"kd.weight": 0.0}},
        {"name": "annealed-at-once", "method": "structkd", "settings": {"structkd.anneal": 1e9}},
        "structkd",
    ]
    found = study(methods=arms, train={**TAGS["train"], "epochs": 1})  # type: ignore[dict-item]
    assert student(found, "none") == student(found, "single")
    assert not same(weights(student(found), store), weights(student(found, "none"), store))
    later = study(methods=arms)
    assert not same(
        weights(student(later, "annealed-at-once"), store), weights(student(later), store)
    )


def test_labels_of_unlabelled_sentences_are_not_read(store: Store, tmp_path: Path) -> None:
    arm = {"name": "more", "method": "structkd", "settings": {"structkd.unlabelled": 12}}
    found = study(methods=[arm])
    stage = student(found, "more")
    (more,) = stage.unlabelled
    labelled = {example.context for example in stage.tasks[0].source.data.examples()}
    extra = {example.context for example in more.data.examples()}
    assert len(extra) == 12
    assert not labelled & extra
    assert len(weights(stage, store)) > 0
    pool = stage._pools(Context(store, tmp_path))["made.tags.a"]
    assert all(sentence.labels for sentence in pool[:16])
    assert not any(sentence.labels for sentence in pool[16:])


@pytest.mark.parametrize(("changes", "left"), [({}, 1984), ({"max_train": None}, 0)])
def test_more_unlabelled_sentences_than_there_are_is_refused(
    changes: dict[str, Any], left: int
) -> None:
    arm = {"name": "more", "method": "structkd", "settings": {"structkd.unlabelled": left + 1}}
    with pytest.raises(InputError, match="fewer training sentences") as refused:
        study(methods=[arm], **changes)
    assert refused.value.where == "study.yaml"
    assert refused.value.key == "methods: more: structkd.unlabelled"
    assert refused.value.expected == f"at most {left}"
    with pytest.raises(InputError, match="fewer training sentences"):
        study(search={"structkd.unlabelled": {"grid": [1, left + 1]}}, **changes)


def curve(stage: Stage, store: Store) -> list[dict[str, float]]:
    obtain(stage, store)
    rows: list[dict[str, float]] = json.loads(
        (store.fetch(stage.kind, stage.key) / CURVE).read_text()
    )
    return rows


def test_arms_with_and_without_text_take_equal_steps(store: Store) -> None:
    """`train.steps` is one budget: of the control, with a teacher, with text without labels."""
    arms = [
        {"name": "none", "method": "structkd", "settings": {"kd.weight": 0.0}},
        "structkd",
        {"name": "text", "method": "structkd", "settings": {"structkd.unlabelled": 32}},
    ]
    found = study(methods=arms, train={"steps": 5, "batch_size": 8}, teaching={"epochs": 2})
    curves = [
        curve(student(found, arm), store) for arm in ("none", "structkd", "text", "multitask")
    ]
    assert [len(rows) for rows in curves] == [5, 5, 5, 5]
    assert len({tuple(row["lr"] for row in rows) for rows in curves}) == 1
    teacher = student(found).scores[0].teacher
    assert len(curve(teacher, store)) == 4


def test_as_many_steps_as_the_epochs_have_give_the_same_bits(store: Store) -> None:
    """The weight of distillation follows the steps, too."""
    train = {"batch_size": 8, "lr": 5e-3, "warmup": 0.5}
    epochs, steps, longer = (
        student(study(train={**train, **length}))
        for length in ({"epochs": 3}, {"steps": 6}, {"steps": 7})
    )
    assert epochs.key != steps.key
    # The teachers are other stages with equal weights.
    assert same(weights(epochs, store), weights(steps, store))
    assert curve(epochs, store) == curve(steps, store)
    assert curve(epochs, store)[:6] != curve(longer, store)[:6]


def test_the_weight_of_distillation_falls_from_step_to_step(store: Store, tmp_path: Path) -> None:
    """As in the released code: within one epoch, too."""
    stage = student(study(train={"epochs": 1, "batch_size": 4}, kd={"weight": 0.8}))
    obtain(stage, store)
    seen: list[float] = []
    rows = StructuredLessons.rows

    def watched(self: StructuredLessons, batch: Any) -> Any:
        found = rows(self, batch)
        seen.append(found[0].weight)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StructuredLessons, "rows", watched)
        stage.run(Context(store, tmp_path))
    assert seen == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_one_teachers_scores_serve_every_temperature_and_weight() -> None:
    grid = {"kd.temperature": {"grid": [1.0, 2.0]}, "kd.weight": {"grid": [0.5, 1.0]}}
    stages = {s for t in study(search=grid).trials() for s in t.stages()}
    assert sum(stage.kind == "annotate" for stage in stages) == 1


def test_early_stopping_keeps_the_best(tmp_path: Path, store: Store) -> None:
    found = study(train={**TAGS["train"], "epochs": 6, "patience": 1, "lr": 0.05})  # type: ignore[dict-item]
    stage = student(found)
    obtain(stage, store)
    model = StructuredModel.load(store.fetch(stage.kind, stage.key))
    fewer = student(study(train={"steps": 1, "batch_size": 8, "patience": 2}))
    assert len(curve(fewer, store)) == 1  # less than an epoch: looked at once, at its end
    looks = iter([10.0, 30.0, 20.0])
    first = {name: one.clone() for name, one in model.state_dict().items()}
    best = Best(1, lambda _: next(looks))
    assert [best.ends(model), best.ends(model)] == [False, False]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert best.ends(model)
    best.restore(model)
    assert same(dict(model.state_dict()), first)


def test_the_best_sequences_are_not_tempered() -> None:
    """Top-k and top-wk weigh sequences by the teacher's own probabilities."""
    for objective in ("top-k", "top-wk"):
        options = {"structkd": {"objective": objective}}
        assert student(study(**options, kd={"weight": 1.0})).distilling.temperature == 1.0
        with pytest.raises(InputError, match="no effect") as refused:
            study(**options, kd={"temperature": 2.0})
        assert refused.value.key == "kd.temperature"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"arch": "bilstn"}, "bilstn"),
        ({"arch": "bilstm", "head": "chain"}, "head"),
        ({"arch": "transformer", "hidden": 9}, "9"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_before_anything_runs(
    changes: dict[str, Any], named: str, store: Store
) -> None:
    with pytest.raises(InputError, match=named) as refused:
        Experiment(study(student=changes), store, "l2kd sweep").plan()
    assert refused.value.key == "student"


def test_an_arms_early_stopping_is_not_its_teachers() -> None:
    found = study(search={"train.patience": {"grid": [1, 2]}})
    trials = [trial for trial in found.trials() if trial.teachers]
    teachers = {cell.stage.model for trial in trials for cell in trial.teachers}
    assert {trial.steps[-1][-1].stage.model.patience for trial in trials} == {1, 2}  # type: ignore[attr-defined]
    assert [(teacher.patience, teacher.dev) for teacher in teachers] == [(None, ())]  # type: ignore[attr-defined]


def test_a_look_is_at_dev_and_at_all_tasks_that_are_learnt() -> None:
    found = study(tasks=["made.tags.a", "made.tags.b"], train={**TAGS["train"], "patience": 3})  # type: ignore[dict-item]
    stages = [student(found), found.builder.reference("multitask", "", found.config.replicates[0])]
    last = found.orders[0][-1]
    for stage, tasks in zip(stages, ([last], ["made.tags.a", "made.tags.b"]), strict=True):
        assert stage.patience == 3  # type: ignore[attr-defined]
        assert [dev.task.task for dev in stage.dev] == tasks  # type: ignore[attr-defined]
        for dev in stage.dev:  # type: ignore[attr-defined]
            splits = found.resolved.tasks[dev.task.task].splits
            assert dev.task.source.data == splits["dev"] != splits["train"]


@pytest.mark.parametrize("training", [True, False])
def test_a_look_at_dev_leaves_a_model_as_it_was(training: bool, store: Store) -> None:
    """A training goes on with dropout, and a model that is asked has none."""
    stage = student(study()).start
    obtain(stage, store)
    model = StructuredModel.load(store.fetch(stage.kind, stage.key)).train(training)
    assert len(tag(model, [["a", "b"], ["c"]], "made.tags.a", "cpu")) == 2
    assert all(part.training is training for part in model.modules())


def test_a_stream_of_tagging_tasks_has_orders_and_a_report(tmp_path: Path) -> None:
    arms = [{"name": "finetune", "method": "structkd", "settings": {"kd.weight": 0.0}}, "structkd"]
    data = {
        **TAGS,
        "tasks": ["made.tags.a", "made.tags.b"],
        "methods": arms,
        "seeds": [1, 2],
        "storage": str(tmp_path / "results"),
    }
    experiment = experiment_of(data)
    experiment.sweep(executor="inline")
    report = Path(experiment.folder, "report.md").read_text()
    assert "Robustness to task order" in report
    assert "span_f1" in report


def test_a_study_takes_the_objectives_of_its_case_and_no_other() -> None:
    assert {name: set(case.objectives) for name, case in CASES.items()} == OBJECTIVES
    for case, objective in product(CASES, get_args(Objective)):
        own = TREES if case in ("1b", "2b", "tree", "projective") else {}
        chosen = {"case": case, "objective": objective}
        own = {**own, "kd": {"weight": 1.0}, "structkd": chosen}
        if objective in OBJECTIVES[case]:
            assert student(study(**own)).distilling.objective == objective
        else:
            with pytest.raises(
                InputError, match=f"case {case} has no such objective(?s:.*){objective}"
            ):
                study(**own)
    arm = {"name": "token", "method": "structkd", "settings": {"structkd.objective": "token"}}
    with pytest.raises(InputError, match=r"methods: token.*(\n.*)*case 4 has no such objective"):
        study(methods=[arm], structkd={"case": "4"})


def test_tasks_that_no_case_can_learn_are_refused() -> None:
    with pytest.raises(InputError, match="of this kind"):
        study(tasks=["made.trees.a"])
    with pytest.raises(InputError, match="of this kind"):
        study(tasks=["made.tags.a"], structkd={"case": "1b"})
    with pytest.raises(InputError, match="of this kind"):
        study(tasks=["gen.rest"])


@pytest.mark.parametrize("case", ["2a", "1a", "1b", "tree"])
def test_bfloat16_is_of_features_and_the_structure_stays_exact(case: str, store: Store) -> None:
    """Half precision moves the first loss by its rounding, and nothing is computed in it after the
    heads' inputs: recursions over many words would not bear it."""
    more = {**(TREES if case in ("1b", "tree") else {}), "structkd": {"case": case}}
    losses = []
    for precision in ("float32", "bfloat16"):
        model = student(study(train={**TAGS["train"], "precision": precision}, **more))  # type: ignore[dict-item]
        obtain(model, store)
        curve = json.loads((store.fetch(model.kind, model.key) / CURVE).read_text())
        losses.append(curve[0]["loss"])
        kept = weights(model, store)
        assert all(tensor.dtype == torch.float32 for tensor in kept.values())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_training_sentences_beyond_max_length_are_left_out_and_counted(store: Store) -> None:
    plain = student(study())
    examples = [e for task in plain.tasks for e in task.source.data.examples()]
    lengths = sorted(len(example.context.split(" ")) for example in examples)
    longest = max(8, lengths[len(lengths) // 2])
    kept = sum(length <= longest for length in lengths)
    assert 0 < kept < len(lengths)
    model = student(study(train={**TAGS["train"], "max_length": longest}))  # type: ignore[dict-item]
    scores = obtain(model, store)
    assert scores["cut/left_out"] == len(lengths) - kept
    assert scores["steps"] == 2 * -(-kept // 8)
    assert obtain(plain, store)["cut/left_out"] == 0
    everything = student(study(train={**TAGS["train"], "max_length": lengths[-1]}))  # type: ignore[dict-item]
    assert same(weights(everything, store), weights(plain, store))


def test_what_an_encoder_cuts_is_counted_in_training_and_in_evaluation(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def excess(self: WordFeatures, sentences: list[list[str]]) -> list[int]:
        return [len(sentence) - 8 for sentence in sentences]

    monkeypatch.setattr(WordFeatures, "excess", excess)
    trial = next(t for t in study().trials() if t.method == "structkd")
    evaluation = trial.steps[-1][-1].stage
    (trained,) = evaluation.model.tasks
    for stage, examples in ((evaluation.model, trained.source), (evaluation, evaluation.examples)):
        lost = [len(one.context.split(" ")) - 8 for one in examples.data.examples()]
        scores = obtain(stage, store)
        assert scores["cut/contexts"] == sum(n > 0 for n in lost) > 0
        assert scores["cut/context_tokens"] == sum(n for n in lost if n > 0)
