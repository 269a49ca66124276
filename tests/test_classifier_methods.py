"""MKD and Meta-KD through stages and studies: identities between their settings, and whole runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.weights import same_bits
from safetensors.torch import load_file
from torch import Tensor

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.loop import accumulate
from l2kd_ray.core.stage import Context, Stage
from l2kd_ray.core.store import Store
from l2kd_ray.distill.intermediate import MetaDistillation
from l2kd_ray.errors import InputError
from l2kd_ray.experiment import Experiment
from l2kd_ray.families.classifiers.model.classifier import Classifier
from l2kd_ray.families.classifiers.model.encoders import build_encoder
from l2kd_ray.families.classifiers.model.wordpiece import train_wordpiece
from l2kd_ray.families.classifiers.stages.learn import SHARED, Classify
from l2kd_ray.families.classifiers.stages.lessons import (
    ClassifierLessons,
    Item,
    ItemRow,
    LabelLoss,
)
from l2kd_ray.families.classifiers.stages.meta_objectives import DistilLoss, MetaStudent
from l2kd_ray.families.classifiers.stages.metakd import MetaDistil, MetaTeach, Prototypes
from l2kd_ray.families.classifiers.stages.start import load_classifier
from l2kd_ray.families.settings import TrainSettings
from l2kd_ray.study import Study
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study

BERT = {"arch": "bert", "num_attention_heads": 2, "vocab_size": 300}
SMALL = {**BERT, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
LARGE = {**BERT, "hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 24}
TOPICS = {
    "name": "topics",
    "tasks": ["made.topics.a", "made.topics.b"],
    "student": SMALL,
    "teacher": LARGE,
    "train": {"epochs": 1, "batch_size": 8, "lr": 1e-3, "max_length": 16},
    "teaching": {"epochs": 2},
    "max_train": 24,
    "max_dev": 8,
    "max_test": 8,
    "wandb": {"mode": "disabled"},
}


def study(**changes: Any) -> Study:
    return resolve_study(parse_study({**TOPICS, **changes}), Path("study.yaml"))


def experiment_of(data: dict[str, Any]) -> Experiment:
    found = resolve_study(parse_study(data), Path("study.yaml"))
    return Experiment(found, Store(data["storage"]), "l2kd sweep study.yaml")


def student(found: Study, arm: str, task: str = "made.topics.a") -> Any:
    (trial,) = [t for t in found.trials() if t.method == arm]
    (cell,) = [c for c in trial.steps[-1] if c.task == task]
    return cell.stage.model


def weights(stage: Stage, store: Store) -> dict[str, Tensor]:
    obtain(stage, store)
    folder = store.fetch(stage.kind, stage.key)
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "heads.safetensors")}


def lessons_of(items: list[Item], *, by_weight: bool = True) -> ClassifierLessons:
    return ClassifierLessons(
        pools={"made.topics.a": items},
        optimisation=TrainSettings().optimisation(),
        seed=0,
        stream="x",
        objective=LabelLoss(),
        by_weight=by_weight,
    )


def mkd(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "method": "mkd", "settings": settings}


def meta(name: str, **settings: Any) -> dict[str, Any]:
    changed = {f"metakd.{key}": value for key, value in settings.items()}
    return {"name": name, "method": "metakd", "settings": changed}


def test_without_distillation_mkd_is_training_on_labels(store: Store) -> None:
    none = {"kd.weight": 0.0}
    found = study(
        methods=[mkd("joint", **none), mkd("alone", **none, **{"mkd.student": "single"}), "mkd"]
    )
    assert same_bits(
        weights(student(found, "joint"), store), weights(student(found, "multitask"), store)
    )
    assert student(found, "alone") == student(found, "single")
    assert not same_bits(
        weights(student(found, "mkd"), store), weights(student(found, "joint"), store)
    )


def test_workers_exchange_the_gradients_of_every_part(
    store: Store, tmp_path: Path, as_a_worker: Any
) -> None:
    found = study(methods=["mkd"])
    domains = study(methods=[meta("metakd")])
    last = student(domains, "metakd")
    stages = [student(found, "mkd"), student(found, "multitask"), last]
    alone = [weights(stage, store) for stage in stages]
    with as_a_worker():
        other = Store(str(tmp_path / "wrapped"))
        for stage, wanted in zip(stages, alone, strict=True):
            torch.testing.assert_close(weights(stage, other), wanted)


def test_one_teacher_and_its_logits_serve_every_student(store: Store) -> None:
    found = study(
        methods=[
            "mkd",
            mkd("tuned", **{"mkd.finetune_epochs": 1}),
            mkd("sum", **{"mkd.over": "sum"}),
        ]
    )
    stages = {stage for trial in found.trials() for stage in trial.stages()}
    teachers = {stage.start.key: stage for stage in stages if isinstance(stage, Classify)}
    assert sum(stage.kind == "annotate" for stage in stages) == 2  # one a task
    assert len(teachers) <= 4


@pytest.mark.parametrize("method", ["mkd", "metakd", "metakd-stream"])
def test_a_teacher_of_more_data_has_the_labels_that_its_student_has(
    method: str, store: Store
) -> None:
    """Both have those of the larger sample, also where the student's lacks some."""
    found = study(methods=[method], max_train=1, teaching={"epochs": 1, "max_train": 24})
    trial = next(trial for trial in found.trials() if trial.method == method)
    models = [cells[-1].stage.model for cells in (trial.steps[-1], trial.teachers)]
    assert models[0].task.source.rows == 1 if method != "mkd" else models[0].tasks[0].source.rows
    known = []
    for model in models:
        obtain(model, store)
        of_head = json.loads((store.fetch(model.kind, model.key) / "labels.json").read_text())
        known.append(set(map(tuple, of_head.values())))
    assert known[0] == known[1]
    assert all(len(labels) > 1 for labels in known[0])


def test_a_teacher_may_see_less_than_its_student(store: Store) -> None:
    """Prototype scores are of the larger sample, and each reads those of its own examples."""
    model = student(study(methods=["metakd"], teaching={"epochs": 1, "max_train": 8}), "metakd")
    obtain(model, store)
    assert model.teacher.tasks[0].source.rows == 8 < model.task.source.rows
    context = Context(store, Path())
    every, (task, _) = model.scores.of(model.task, context), model.teacher.tasks
    ids = [example.id for example in model.task.load(context)]
    chosen = [ids.index(example.id) for example in task.load(context)]
    assert torch.equal(model.scores.of(task, context), every[torch.tensor(chosen)])


def test_a_batch_trains_the_body_and_its_own_head_alone(tmp_path: Path) -> None:
    found = study(methods=["mkd"])
    start = student(found, "mkd").start
    store = Store(str(tmp_path / "store"))
    obtain(start, store)
    model = Classifier.load(store.fetch(start.kind, start.key))
    items = [Item(("bada dodo",), "made.topics.a", 1.0), Item(("kiki",), "made.topics.a", 0.0)]
    lessons = lessons_of(items)
    (batch,) = list(lessons.mixture.epoch(0))
    accumulate(model, lessons.rows(batch), lessons, Context(store, tmp_path))
    own, other = model.layers
    assert own.weight.grad is not None
    assert other.weight.grad is None
    trained = [p.grad is not None for p in model.body.parameters() if p.requires_grad]
    assert all(trained)


def test_an_examples_weight_scales_its_own_gradient(tmp_path: Path) -> None:
    """The gradient of the mean of weighted losses is linear in each weight."""
    found = study(methods=["mkd"])
    start = student(found, "mkd").start
    store = Store(str(tmp_path / "store"))
    obtain(start, store)

    def gradient(*weighed: float) -> Tensor:
        model = Classifier.load(store.fetch(start.kind, start.key)).eval()
        texts = [("bada dodo",), ("kiki",)]
        items = [
            Item(text, "made.topics.a", 1.0, weight=w)
            for text, w in zip(texts, weighed, strict=True)
        ]
        lessons = lessons_of(items, by_weight=False)
        (batch,) = list(lessons.mixture.epoch(0))
        accumulate(model, lessons.rows(batch), lessons, Context(store, tmp_path))
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    torch.testing.assert_close(
        gradient(3.0, 1.0), 3 * gradient(1.0, 0.0) + gradient(0.0, 1.0), rtol=1e-4, atol=1e-6
    )


def test_a_meta_teacher_without_its_parts_is_a_teacher_of_all_domains(store: Store) -> None:
    found = study(
        methods=[meta("plain", prototypes=False, corruption=0.0), meta("all", teacher="all")]
    )
    plain, every = student(found, "plain").teacher, student(found, "all").teacher
    assert isinstance(plain, MetaTeach)
    assert not isinstance(every, MetaTeach)
    assert same_bits(weights(plain, store), weights(every, store))


def test_every_training_counts_the_texts_that_it_cuts(store: Store) -> None:
    found = study(methods=["metakd", "mkd"], train={**TOPICS["train"], "max_length": 8})
    last = student(found, "metakd")
    for stage in (last, last.teacher, student(found, "mkd"), student(found, "single")):
        scores = obtain(stage, store)
        model, _ = load_classifier(store.fetch(stage.kind, stage.key))
        examples = [one for task in stage.tasks for one in task.source.data.examples()]
        lost = [n for n in model.body.excess([(one.context,) for one in examples]) if n > 0]
        assert lost
        assert scores["cut/contexts"] == len(lost)
        assert scores["cut/context_tokens"] == sum(lost)


def test_what_an_ablation_leaves_out_is_no_part_of_its_path() -> None:
    arms = [
        meta("whole"),
        meta("no-prototypes", prototypes=False),
        meta("no-transfer", transfer=0.0),
        meta("no-corruption", corruption=0.0),
        meta("no-expertise", expertise=False),
        meta("two", stages="two"),
        meta("out", leave_out=True),
        meta("few", share=0.25),
    ]
    found = study(methods=arms)
    made = {arm["name"]: student(found, arm["name"]) for arm in arms}
    assert all(isinstance(stage, MetaDistil) for stage in made.values())
    assert isinstance(made["whole"].scores, Prototypes)
    assert made["no-prototypes"].scores is None
    assert made["no-prototypes"].teacher.scores is None
    assert made["no-transfer"].losses.transfer == 0
    assert made["no-transfer"].teacher == made["whole"].teacher
    assert made["no-corruption"].losses.transfer == 0  # of an untrained transform
    assert made["no-expertise"].expertise is None
    first = made["two"].start
    assert first.losses.prediction == 0
    assert made["two"].losses.hidden == 0
    assert [task.task for task in made["out"].teacher.tasks] == ["made.topics.b"]
    assert made["out"].losses.transfer == 0  # one domain has no false ones
    assert made["few"].task.source.rows == 6
    assert made["few"].task.source.data.cap_seed == found.config.replicates[0].data
    assert made["few"].teacher == made["whole"].teacher
    assert made["few"].expertise.tasks == (made["few"].task,)


def test_every_arm_runs_and_is_reported(tmp_path: Path) -> None:
    arms = [
        "mkd",
        mkd("tuned", **{"mkd.finetune_epochs": 1}),
        meta("whole"),
        meta("by-single", teacher="single"),
    ]
    arms += [meta("two", stages="two"), meta("few", share=0.25, leave_out=True)]
    data = {**TOPICS, "methods": arms, "seeds": [1, 2], "storage": str(tmp_path / "results")}
    experiment = experiment_of(data)
    experiment.sweep(executor="inline")
    report = Path(experiment.folder, "report.md").read_text()
    assert "Their score" in report
    assert "Below teacher" in report
    assert "Robustness to task order" not in report
    assert experiment.plan().missing == frozenset()
    trial = next(one for one in experiment.trials() if one.method == "whole")
    with pytest.raises(InputError, match="a student of its own"):
        experiment.export(trial.id, tmp_path / "model")
    with pytest.raises(InputError, match="no such task"):
        experiment.export(trial.id, tmp_path / "model", "made.topics.z")
    for cell in trial.steps[-1]:
        folder = experiment.export(trial.id, tmp_path / "model", cell.task)
        own = experiment.store.fetch(cell.stage.model.kind, cell.stage.model.key)
        assert all((folder / f.name).read_bytes() == f.read_bytes() for f in own.iterdir())


def test_domains_as_a_stream_have_orders(store: Store) -> None:
    found = study(methods=["metakd-stream"])
    trials = [trial for trial in found.trials() if trial.method == "metakd-stream"]
    assert {trial.order for trial in trials} == {
        ("made.topics.a", "made.topics.b"),
        ("made.topics.b", "made.topics.a"),
    }
    last = trials[0].steps[-1][0].stage.model
    assert last.start.stream == trials[0].order[0]
    assert last.expertise is not None
    obtain(trials[0].steps[-1][0].stage, store)


def test_a_stream_reads_the_options_of_meta_kd() -> None:
    few = study(methods=["metakd-stream"], metakd={"share": 0.25})
    trial = next(trial for trial in few.trials() if trial.method == "metakd-stream")
    assert trial.steps[-1][0].stage.model.task.source.rows == 6


LSTM = {"arch": "bilstm", "embedding": 8, "hidden": 6}
MODELS = {
    "pretrained": {"model": "encoder"},
    "first layers": {"model": "encoder", "layers": 1},
    "scratch": LARGE,
    "bilstm": LSTM,
}
PAIRS = [(teacher, student) for teacher in MODELS for student in MODELS]


@pytest.fixture(scope="module")
def every_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pretrained encoder; the stages of all pairs share their store."""
    folder = tmp_path_factory.mktemp("pairs")
    texts = [f"bada dodo kiki {n}" for n in range(9)]
    tokenizer = train_wordpiece(texts, 200)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    build_encoder("bert", sizes, tokenizer, 0).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    return folder


def missing_layers(teacher: str, student: str) -> dict[str, float]:
    """What has no sense for a pair: the layers of models that split texts differently."""
    folder = {"pretrained", "first layers"}
    if teacher == student == "bilstm":
        return {"metakd.attention": 0.0}
    alike = teacher == student or {teacher, student} <= folder
    return {} if alike and (teacher, student) != ("first layers", "pretrained") else NO_LAYERS


NO_LAYERS = {"metakd.hidden": 0.0, "metakd.attention": 0.0}


@pytest.mark.parametrize("method", ["mkd", "metakd"])
@pytest.mark.parametrize(("teacher", "student_model"), PAIRS)
def test_every_pair_of_teacher_and_student_trains(
    teacher: str, student_model: str, method: str, every_pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(every_pair)
    models = {"teacher": MODELS[teacher], "student": MODELS[student_model], "max_train": 8}
    off = missing_layers(teacher, student_model) if method == "metakd" else {}
    if off:  # refused at the door, with the keys to set
        with pytest.raises(InputError, match=r"metakd\.attention: 0"):
            study(methods=[method], **models)
    found = study(methods=[{"name": "it", "method": method, "settings": off}], **models)
    experiment = Experiment(found, Store(str(every_pair / "store")), "l2kd sweep")
    experiment.plan()
    assert weights(student(found, "it"), experiment.store)


@pytest.mark.parametrize(
    ("teacher", "own", "problem"),
    [
        ({"num_hidden_layers": 3}, {"num_hidden_layers": 2}, "do not divide"),
        ({"num_attention_heads": 4}, {}, "other attention heads"),
        ({"vocab_size": 200}, {}, "split a text differently"),
        ({"max_position_embeddings": 12}, {}, "split a text differently"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused(
    teacher: dict[str, int], own: dict[str, int], problem: str
) -> None:
    models = {"teacher": {**LARGE, **teacher}, "student": {**LARGE, **own}}
    with pytest.raises(InputError, match=problem):
        study(methods=["metakd"], **models)
    study(methods=[{"name": "m", "method": "metakd", "settings": NO_LAYERS}], **models)
    study(methods=[{"name": "m", "method": "metakd", "settings": {"kd.weight": 0.0}}], **models)
    study(methods=["mkd"], **models)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tasks": ["made.pairs.a", "made.topics.a"]}, "domains"),
        ({"metakd": {"leave_out": True, "teacher": "multitask"}}, "has learned nothing"),
        ({"metakd": {"leave_out": True}, "tasks": ["made.topics.a"]}, "has learned nothing"),
        ({"metakd": {**{k.split(".")[1]: v for k, v in NO_LAYERS.items()}, "transfer": 0.0,
                     "prediction": 0.0}}, "no distillation loss"),
    ],
)  # fmt: skip
def test_what_meta_kd_cannot_learn_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        study(methods=["metakd"], **changes)


def test_without_distillation_meta_kd_trains_the_same_student_on_labels() -> None:
    arms = [meta("few", share=0.5), meta("none", share=0.5)]
    arms[1]["settings"]["kd.weight"] = 0.0
    found = study(methods=arms)
    few, none = student(found, "few"), student(found, "none")
    assert type(none) is Classify
    assert (none.start, none.tasks, none.taught) == (few.start, few.tasks, ())


def test_a_weight_between_adds_the_loss_of_labels(store: Store) -> None:
    arms = [meta("whole"), meta("two", stages="two")]
    for arm in arms:
        arm["settings"]["kd.weight"] = 0.25
    found = study(methods=arms)
    assert student(found, "whole").weight == 0.25
    assert [student(found, "two").start.weight, student(found, "two").weight] == [1.0, 0.25]
    model = student(found, "whole")
    obtain(model, store)
    classifier, _ = load_classifier(store.fetch("initial", model.start.key))
    objective = MetaDistillation(attention=0.0, transfer=0.0)
    losses = []
    for weight in (0.0, 0.25, 1.0):
        loss = DistilLoss(weight, objective, classifier, SHARED, None)
        rows = [ItemRow(Item(("bada dodo",), SHARED, 1.0, expertise=e), 0) for e in (1.0, 3.0)]
        wrapped = MetaStudent(classifier.eval(), classifier, None, objective.wanted, 0)
        losses.append(loss.losses(wrapped, wrapped, rows, "cpu"))
    assert losses[0][0] == losses[0][1]  # a label is not weighed by the teacher's expertise
    torch.testing.assert_close(losses[2][1], 3 * losses[2][0])
    torch.testing.assert_close(losses[1], 0.25 * losses[2] + 0.75 * losses[0])


def test_raw_scores_are_factors_of_the_mean_loss(tmp_path: Path) -> None:
    """mean(t * loss), as released: a sum of scores at or below 0 drops no batch."""
    for scores in ([-0.2, -0.3], [0.5, -0.49]):
        items = [Item(("kiki",), "made.topics.a", 0.0, weight=t) for t in scores]
        lessons = lessons_of(items, by_weight=False)
        (batch,) = list(lessons.mixture.epoch(0))
        rows = lessons.rows(batch)
        torch.testing.assert_close(
            lessons.scale(rows), torch.tensor([row.item.weight / 2 for row in rows])
        )


def test_the_models_of_every_arm_and_searched_value_are_checked(store: Store) -> None:
    odd = {"student.hidden_size": 15}  # two attention heads do not divide it
    arm = {"name": "odd", "method": "mkd", "settings": odd}
    for changes in (
        {"methods": ["mkd", arm]},
        {"search": {"student.hidden_size": {"grid": [16, 15]}}},
    ):
        found = study(**{"methods": ["mkd"], **changes})
        with pytest.raises(InputError, match="15") as refused:
            Experiment(found, store, "l2kd sweep").plan()
        assert refused.value.key.startswith("methods: ")
        assert refused.value.key.endswith("student")


def test_an_arms_value_is_checked_beside_every_searched_one() -> None:
    arm = {"name": "long", "method": "mkd", "settings": {"train.epochs": 4}}
    search = {"train.rungs": {"grid": [[1, 4], [1, 2]]}}
    with pytest.raises(InputError, match=r"methods: long: train\.rungs.*must rise"):
        study(methods=[arm], search=search)
    both = {"train.epochs": {"choice": [2, 4]}, "train.rungs": {"choice": [[1, 2], [2, 4]]}}
    with pytest.raises(InputError, match="must rise and end"):
        study(methods=["mkd"], search=both)
    layers = {"metakd.attention": {"grid": [0.0, 1.0]}, "metakd.hidden": {"grid": [0.0, 1.0]}}
    with pytest.raises(InputError, match=r"metakd: metakd\.hidden: the hidden states"):
        study(methods=["metakd"], student=LSTM, search=layers)


def test_methods_of_two_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="two kinds"):
        study(methods=["mkd", "l2kd"])
    with pytest.raises(InputError, match="some learn in an order"):
        study(methods=["metakd", "metakd-stream"])


def test_a_training_in_parts_ends_with_the_same_bits(store: Store) -> None:
    whole = {**TOPICS["train"], "epochs": 4}  # type: ignore[dict-item]
    at_once = student(study(methods=["mkd"], train=whole), "mkd")
    parts = student(study(methods=["mkd"], train={**whole, "rungs": [1, 2, 4]}), "mkd")
    assert [parts.before.before.until, parts.before.until, parts.until] == [1, 2, None]
    assert parts.at(2) == parts.before
    assert parts.at(4) == parts
    assert same_bits(weights(parts, store), weights(at_once, store))
    at_once = student(study(methods=["metakd"], train=whole, max_train=8), "metakd")
    parts = {**whole, "rungs": [1, 2, 4]}
    in_parts = student(study(methods=["metakd"], train=parts, max_train=8), "metakd")
    assert same_bits(weights(in_parts, store), weights(at_once, store))


def stars(folder: Path, top: int) -> list[Any]:
    """Topics, and a regression whose labels are 0, top / 2 and top."""
    file = folder / f"stars{top}.jsonl"
    rows = [{"text": f"text {n} of {n % 3}", "label": top * (n % 3) / 2} for n in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "stars", "kind": "regress", "metric": "pearson"}
    files = dict.fromkeys(("train", "dev", "test"), str(file))
    return ["made.topics.a", {**task, **files, "max_dev": 9}]


@pytest.mark.parametrize(("unit", "squared"), [("std", 50 / 3), ("range", 100.0)])
def test_a_regressions_loss_is_in_a_unit_of_its_labels(
    unit: str, squared: float, store: Store, tmp_path: Path
) -> None:
    """Labels 0, 5, 10: their variance is 50 / 3, and the square of their range is 100."""
    train = {**TOPICS["train"], "regression_unit": unit}  # type: ignore[dict-item]
    given, scaled = (
        study(tasks=stars(tmp_path, 10), methods=["mkd"], train=one)
        for one in (TOPICS["train"], train)
    )
    for arm in ("mkd", "multitask"):
        plain, other = student(given, arm), student(scaled, arm)
        assert (plain.unit, other.unit) == (None, unit)
        for source in other.inputs():
            obtain(source[1], store)
        model, labels = load_classifier(store.fetch(other.start.kind, other.start.key))
        items = other.items(labels, model, {}, Context(store, tmp_path))
        assert other._scales(labels, items) == pytest.approx({"stars": 1 / squared})
        assert plain._scales(labels, items) == {}
    losses = [obtain(student(one, "multitask"), store)["loss"] for one in (given, scaled)]
    assert losses[1] < losses[0] / 2
    assert student(scaled, "mkd").taught[0].teacher.unit == unit
    loss, factors = LabelLoss(), LabelLoss(scales={"stars": 1 / squared})
    for task, factor in (("stars", 1 / squared), ("made.topics.a", 1.0)):
        rows = [ItemRow(item, 0) for item in items[task]]
        one, other = (each.losses(model.eval(), model, rows, "cpu") for each in (loss, factors))
        torch.testing.assert_close(other, factor * one)


def test_the_unit_of_a_regression_is_of_a_regression() -> None:
    with pytest.raises(InputError, match="no effect") as refused:
        study(methods=["mkd"], train={**TOPICS["train"], "regression_unit": "std"})  # type: ignore[dict-item]
    assert refused.value.key == "train.regression_unit"


def test_rungs_are_steps_where_the_training_is_in_steps(store: Store) -> None:
    whole = {"steps": 9, "batch_size": 8, "lr": 1e-3}
    at_once = student(study(methods=["mkd"], train=whole), "mkd")
    parts = student(study(methods=["mkd"], train={**whole, "rungs": [2, 9]}), "mkd")
    assert same_bits(weights(parts, store), weights(at_once, store))
    assert obtain(parts.at(2), store)["steps"] == 2
    assert obtain(parts, store)["steps"] == 9
    with pytest.raises(InputError, match="end with the number of steps, 9"):
        study(methods=["mkd"], train={**whole, "rungs": [2, 8]})


def test_every_training_of_a_study_has_its_steps(store: Store) -> None:
    """Teachers, the multi-task bound and the fine-tuning after the joint training may have
    others."""
    found = study(
        methods=[mkd("mkd", **{"mkd.finetune_epochs": 2})],
        train={"steps": 4, "batch_size": 8},
        teaching={"steps": 5},
        multitask={"epochs": 2},
    )
    last = student(found, "mkd")
    stages = (last, last.start, last.start.taught[0].teacher)
    bound = student(found, "multitask")
    assert [obtain(stage, store)["steps"] for stage in (*stages, bound)] == [6, 4, 5, 12]


@pytest.mark.parametrize("rungs", [[], [1], [1, 3], [2, 1], [1, 1, 2], [2, 2]])
def test_rungs_that_do_not_rise_to_the_epochs_are_refused(rungs: list[int]) -> None:
    with pytest.raises(InputError, match="must rise and end with the number of epochs"):
        study(methods=["mkd"], train={**TOPICS["train"], "epochs": 2, "rungs": rungs})  # type: ignore[dict-item]


def test_asha_cuts_trainings_and_never_orders() -> None:
    search = {"search": {"train.lr": {"loguniform": [1e-4, 1e-2]}}, "tune": {"scheduler": "asha"}}
    with pytest.raises(InputError, match="rungs"):
        study(methods=["mkd"], **search)
    rungs = {**TOPICS["train"], "epochs": 2, "rungs": [1, 2]}  # type: ignore[dict-item]
    study(methods=["mkd"], train=rungs, **search)
    with pytest.raises(InputError, match="easy ones"):
        study(methods=["metakd-stream"], train=rungs, **search)
    with pytest.raises(InputError, match="easy ones") as refused:
        study(methods=["metakd-stream"], **search)
    assert "rungs" not in refused.value.fix  # they would be refused as well


@pytest.mark.drill
@pytest.mark.timeout(900)  # two sweeps whose trainings each start two workers: 4 minutes alone
def test_asha_on_rungs_with_two_workers_a_stage(tmp_path: Path) -> None:
    """Settings are cut after a rung on dev; what is left has final scores, on test, too."""
    data = {
        **TOPICS,
        "methods": ["mkd"],
        "train": {**TOPICS["train"], "epochs": 2, "rungs": [1, 2]},  # type: ignore[dict-item]
        "search": {"train.lr": {"loguniform": [1e-6, 1e-2]}, "kd.weight": {"uniform": [0.2, 1.0]}},
        "tune": {"scheduler": "asha", "num_samples": 4, "reduction": 2, "max_concurrent": 1},
        "scale": {"learn": {"workers": 2}},
        "storage": str(tmp_path / "results"),
    }
    file = tmp_path / "asha.yaml"
    file.write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "l2kd_ray.cli", "sweep", str(file)]
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert first.returncode == 0, first.stderr[-2000:]
    experiment = experiment_of(data)
    finished, cut = experiment._folder.tried()["mkd"], experiment._folder.cut()["mkd"]
    assert len(finished) + len(cut) == 4
    assert finished
    scores = experiment.scores()
    done = set(scores[(scores["method"] == "mkd") & (scores["split"] == "test")]["setting"])
    assert len(done) == len(finished)
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 0
    assert experiment_of(data)._folder.tried()["mkd"] == finished
