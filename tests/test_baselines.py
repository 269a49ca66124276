"""The field's baselines: what each is where its own weight is 0, and its formula in float64."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.language import FORMAT, NEW, context, curriculum, make_model
from helpers.studies import TINY, planned
from helpers.weights import weights
from torch import Tensor, nn

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import Context, Stage
from l2kd_ray.core.store import Store
from l2kd_ray.distill.linear_loss import Knowledge, OutputLayer
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.methods import LANGUAGE_METHODS
from l2kd_ray.families.language.methods.adapters import Orthogonality, overlap_gradient
from l2kd_ray.families.language.methods.merge import merged, smallest_kept
from l2kd_ray.families.language.methods.osf import OrthogonalSubspace
from l2kd_ray.families.language.methods.rehearsal import (
    LogitsBesideLabels,
    Students,
    projected,
    squared_error,
)
from l2kd_ray.families.language.methods.retention import BesideLabels
from l2kd_ray.families.language.methods.ssr import k_means, near_centres
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.stages.adapters import ADAPTER
from l2kd_ray.families.language.stages.curriculum import SequenceRow, positions
from l2kd_ray.study import load

ROOT = Path(__file__).parents[1]
THREE = {"tasks": ["gen.intent", "gen.rest", "gen.tv"], "orders": ["gen.tv>gen.intent>gen.rest"]}
LORA = {**TINY["train"], "lora": {"r": 3, "lora_alpha": 12}, "lr": 2e-2}


def path(method: str | dict[str, Any], **changes: Any) -> list[Any]:
    """What a method evaluates after each task of one order, the untrained model first."""
    study = planned(methods=[method], **{**THREE, **changes})
    name = method if isinstance(method, str) else method["name"]
    trial = study.trial(name, {}, study.orders[0], str(study.config.replicates[0]))
    return [step[0].stage.model for step in trial.steps]


def keys(stages: list[Any]) -> list[str]:
    return [stage.key for stage in stages]


DRAWN = {"batch_size": TINY["train"]["batch_size"]}


# Identities, by key ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "off", "other", "same"),
    [
        ("replay", {"real_replay": {"ratio": 0}}, "finetune", {}),
        ("lwf", {"lwf": {"weight": 0}}, "finetune", {}),
        ("der++", {"der": {"ratio": 0}}, "finetune", {}),
        ("der++", {"der": {"alpha": 0, "beta": 1}}, "replay", {"real_replay": DRAWN}),
        (
            *("replay", {"real_replay": DRAWN, "replay": {"weight": "separate"}}),
            *("replay", {"real_replay": DRAWN}),
        ),
        (
            *("der++", {"der": {"alpha": 0, "beta": 0.5}}),
            *("replay", {"real_replay": DRAWN, "replay": {"weight": 0.5}}),
        ),
        ("seq-lora", {"seq_lora": {"merge": True}, "train": LORA}, "finetune", {"train": LORA}),
        ("o-lora", {"o_lora": {"orthogonal": 0}}, "seq-lora", {"seq_lora": {"merge": True}}),
    ],
)
def test_where_its_weight_is_0_a_method_is_another(
    method: str, off: dict[str, Any], other: str, same: dict[str, Any]
) -> None:
    without = keys(path(method, **off))
    assert without == keys(path(other, **same))
    assert keys(path(method, **{**off, **ON.get(method, {})}))[2:] != without[2:]


ON: Mapping[str, dict[str, Any]] = {
    "replay": {"real_replay": {"ratio": 0.5}},
    "lwf": {"lwf": {"weight": 0.5}},
    "der++": {"der": {"ratio": 0.5}},
    "seq-lora": {"seq_lora": {"merge": False}},
    "o-lora": {"o_lora": {"orthogonal": 0.1}},
}


def test_the_published_settings_are_a_shipped_study() -> None:
    shipped = yaml.safe_load((ROOT / "tune_configs/baselines_published.yaml").read_text())
    arms = {arm["method"]: arm for arm in shipped["methods"] if isinstance(arm, dict)}
    published = {name: one.published for name, one in LANGUAGE_METHODS.items() if one.published}
    assert published.keys() <= arms.keys()
    for name, settings in published.items():
        own = arms[name]["settings"]
        assert settings == {key: own[key] for key in settings}
    for name, arm in arms.items():
        assert len(path({**arm, "name": name})) == 4


@pytest.mark.parametrize("name", LANGUAGE_METHODS)
def test_a_methods_file_is_all_that_it_needs(name: str, tmp_path: Path) -> None:
    """By the door for plug-ins, from another folder, it makes the same stages."""
    method = LANGUAGE_METHODS[name]
    text = Path(inspect.getfile(method.step)).read_text("utf-8")
    # The names of built-ins are taken.
    text = text.replace(f"def {method.step.__name__}(", "def copied(")
    text = re.sub(rf'(@method\(\s*)"{re.escape(name)}"', r'\1"copied"', text)
    file = tmp_path / f"{name}.py"
    file.write_text(text, "utf-8")
    outside = path({"name": "own", "method": f"{file}:copied"})
    for one, other in zip(path(name), outside, strict=True):
        assert without_source(one) == without_source(other)


def without_source(stage: Stage) -> str:
    """A stage and all that it reads, but for the digest of a plug-in's source."""
    return re.sub(r"code=(None|'\w+')", "", repr(stage))


@pytest.mark.parametrize("method", ["lwf", "der++", "agem", "osf", "sdft", "o-lora"])
def test_workers_exchange_the_gradients_of_a_method(
    method: str, store: Store, tmp_path: Path, as_a_worker: Any
) -> None:
    """The same weights through torch's DDP; `test_methods.py` has those of L2KD, EWC and MAS."""
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    stage = path(method, student={**TINY["student"], **off}, **ON.get(method, {}))[2]
    wanted = weights(stage, store)
    with as_a_worker():
        found = weights(stage, Store(str(tmp_path / "wrapped")))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("method", ["lwf", "der++", "agem", "merge", "osf", "ssr", "replay"])
def test_a_first_task_is_plain_finetuning(method: str) -> None:
    """No former task is there to be kept."""
    plain, own = keys(path("finetune")), keys(path(method))
    assert own[:2] == plain[:2]
    assert not {*own[2:]} & {*plain[2:]}


def test_merging_goes_on_from_the_unmerged_student() -> None:
    plain, own = path("finetune"), path("merge")
    assert [keys(list(one.students)) for one in own[2:]] == [keys(plain[1:3]), keys(plain[1:4])]


def test_one_adapter_is_trained_on_and_o_loras_are_new() -> None:
    first, second, third = path("seq-lora")[1:]
    assert first.adapter.base is None
    assert second.adapter.base == third.adapter.base == first.start
    first, second, third = path("o-lora")[1:]
    assert [one.adapter.base for one in (first, second, third)] == [None] * 3
    assert third.constraint.former == (first, second)
    assert third.start == second


def test_an_adapter_that_goes_on_is_refused_beside_an_average_of_weights(study_file: Any) -> None:
    average = {"train.average": 0.5}
    arm = {"name": "one", "method": "seq-lora", "settings": average}
    with pytest.raises(InputError, match=r"train\.average"):
        load(study_file(methods=[arm]))
    load(study_file(methods=[{**arm, "settings": {**average, "seq_lora.merge": True}}]))


# Adapters ----------------------------------------------------------------------------------------


def test_a_second_task_trains_the_first_ones_factors_on_the_same_weights(store: Store) -> None:
    initial, first, second = path("seq-lora", train=LORA)[:3]
    start = weights(initial, store)
    for stage in (first, second):
        found, factors = weights(stage, store), weights(stage, store, ADAPTER)
        for name in (name.removesuffix(".A") for name in factors if name.endswith(".A")):
            update = 12 / 3 * factors[f"{name}.B"] @ factors[f"{name}.A"]
            own = f"{name.removeprefix('lm.')}.weight"
            torch.testing.assert_close(found[own], start[own] + update.T, atol=1e-6, rtol=1e-5)
    # One update of rank 3 for both tasks, where new ones would add up to rank 6.
    own = "transformer.h.0.attn.c_attn.weight"
    singular = torch.linalg.svdvals((weights(second, store)[own] - start[own]).double())
    assert singular[3] < 1e-5 * singular[0]


def test_o_loras_penalty_has_the_gradient_of_its_definition() -> None:
    torch.manual_seed(0)
    former, new = torch.randn(5, 7).double(), torch.randn(3, 7).double().requires_grad_(True)
    penalty = torch.stack([(a @ b).abs() for a in former for b in new]).sum()
    (wanted,) = torch.autograd.grad(penalty, new)
    torch.testing.assert_close(overlap_gradient(former, new.detach()), wanted)


def test_o_lora_says_how_large_penalty_and_update_are(store: Store) -> None:
    strong, weak = (
        path("o-lora", train=LORA, o_lora={"orthogonal": weight})[3] for weight in (5.0, 1e-6)
    )
    scores = [obtain(one, store) for one in (strong, weak)]
    held = torch.cat([weights(one, store, ADAPTER)[NAME] for one in strong.constraint.former])
    own = weights(strong, store, ADAPTER)
    assert scores[0]["penalty/overlap"] == pytest.approx(float((held @ own[NAME].T).abs().sum()))
    update = 12 / 3 * own[NAME.replace(".A", ".B")] @ own[NAME]
    assert scores[0]["adapter/norm"] == pytest.approx(float(update.norm()))
    assert scores[0]["penalty/overlap"] < 0.8 * scores[1]["penalty/overlap"]


NAME = "lm.transformer.h.0.attn.c_attn.A"


def test_o_loras_norms_are_added_to_the_gradient(tmp_path: Path) -> None:
    from l2kd_ray.families.language.model.lora import attach, factors
    from l2kd_ray.families.language.stages.adapters import LoraUpdate

    model = make_model("gpt2")
    attach(model, LoraUpdate(3, 12, 0.0, None), FORMAT.added, seed=1)
    for value in factors(model).values():
        value.grad = torch.zeros_like(value)
    here = context(tmp_path)
    hook = Orthogonality((), 0.0, 0.25).prepare(model, curriculum(), here)
    hook(model, 0)
    for name, value in factors(model).items():
        wanted = 0.25 if name.endswith(".A") else 0.0  # B begins at 0, where a norm has none
        assert float(value.grad.norm()) == pytest.approx(wanted)


# OSF ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_osf_freezes_the_largest_directions(arch: str, tmp_path: Path) -> None:
    """Gradients of U and V are orthogonal to the frozen directions (peft has these in float32), no
    step changes the frozen part, and the model is the same before the first step and when it is
    merged."""
    model = make_model(arch).double()
    plain = deepcopy(model)
    finish = OrthogonalSubspace(0.5).attach(model, FORMAT, 1, tmp_path, context(tmp_path))
    ids, every = torch.arange(5, 17).view(2, 6), torch.arange(12)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids, every), plain.eval()(ids, every))
    adapted = [one for one in model.modules() if hasattr(one, "osf_svd_params")]
    frozen = [_directions(one.base_layer.weight) for one in adapted]
    model(ids, every).square().sum().backward()
    for layer, (u, v) in zip(adapted, frozen, strict=True):
        own = layer.osf_svd_params["default"]
        for held, gradient in ((u, own["U_low"].grad), (v.T, own["V_low"].grad.T)):
            assert float(gradient.abs().max()) > 0
            assert float((held.T @ gradient).abs().max()) < 1e-5 * float(gradient.norm())
    with torch.no_grad():
        for value in model.parameters():
            if value.grad is not None:
                value -= 1e-3 * value.grad
        wanted = model.eval()(ids, every)
    scores = finish()
    assert scores["osf/overlap"] < 1e-4  # after plain descent
    with torch.no_grad():
        torch.testing.assert_close(model(ids, every), wanted)
    before = dict(plain.named_parameters())
    assert [name for name, _ in model.named_parameters()] == list(before)
    for name, value in model.named_parameters():
        if any(name.endswith(f"{part}.weight") for part in ("c_attn", "q_proj")):
            transposed = value.T if arch == "gpt2" else value
            old = before[name].T if arch == "gpt2" else before[name]
            assert not torch.equal(transposed, old)
            u, v = _directions(old)
            kept = u.T @ transposed @ v.T  # the frozen directions' own part of the matrix
            torch.testing.assert_close(kept, u.T @ old @ v.T, atol=1e-5, rtol=1e-4)


def _directions(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The left [m, k] and right [k, n] directions of the larger half of the singular values."""
    u, _, v = torch.linalg.svd(weight.detach(), full_matrices=False)
    k = min(weight.shape) // 2
    return u[:, :k], v[:k]


def test_osf_freezes_more_the_more_is_learned() -> None:
    shares = [one.adapter.frozen for one in path("osf")[2:]]
    assert shares == [1 / 3, 2 / 3]
    assert [one.adapter.frozen for one in path("osf", osf={"share": 0.5})[2:]] == [0.5, 0.5]


@pytest.mark.parametrize(("share", "ranks"), [(0.01, {1}), (1 / 3, {5}), (0.999, {15})])
def test_osf_freezes_at_least_one_direction_and_not_all(
    share: float, ranks: set[int], tmp_path: Path
) -> None:
    model = make_model("gpt2")
    OrthogonalSubspace(share).attach(model, FORMAT, 1, tmp_path, context(tmp_path))
    layers = [one for one in model.modules() if hasattr(one, "osf_svd_params")]
    assert {one.effective_rank["default"] for one in layers} == ranks


# Merging -----------------------------------------------------------------------------------------


def test_merged_weights_are_those_of_the_definition(store: Store) -> None:
    initial, *_, last = path("merge", merge={"how": "average"})
    start, found = weights(initial, store), weights(last, store)
    students = [weights(one, store) for one in last.students]
    for name, value in start.items():
        mean = torch.stack([one[name] for one in students]).double().mean(0)
        torch.testing.assert_close(found[name].double(), mean, atol=1e-6, rtol=1e-5)
        assert not torch.equal(value, found[name]) or "ln" in name


def test_magmax_takes_the_largest_change() -> None:
    vectors = torch.tensor([[1.0, -3.0, 0.0], [-2.0, 2.0, 0.0]])
    assert merged(vectors, "magmax").tolist() == [-2.0, -3.0, 0.0]


def test_ties_is_trim_elect_and_mean() -> None:
    """Against the steps of the paper, written element by element."""
    draws = np.random.default_rng(0)
    vectors = draws.normal(size=(3, 50))
    trimmed = vectors.copy()
    for row in trimmed:
        row[np.argsort(-abs(row))[10:]] = 0  # the largest 20 %
    wanted = []
    for column in trimmed.T:
        sign = np.sign(column[column > 0].sum() + column[column < 0].sum())
        agreeing = [value for value in column if value != 0 and np.sign(value) == sign]
        wanted.append(np.mean(agreeing) if agreeing else 0.0)
    tensors = torch.tensor(vectors)
    least = [smallest_kept([row[:20], row[20:]], 0.2) for row in tensors]
    assert merged(tensors, "ties", least).tolist() == pytest.approx(wanted)


# Kept samples and former students ----------------------------------------------------------------


def test_lwfs_loss_adds_the_teacher_to_the_labels() -> None:
    torch.manual_seed(0)
    rows = [SequenceRow(FORMAT.qa(sample), "qa", teacher=0, share=0.7) for sample in NEW]
    where = positions(rows, FORMAT.answer)
    count, size = len(where.target), FORMAT.tokenizer.vocab_size + 8
    hidden, head = torch.randn(count, 5).double(), torch.randn(size, 5).double()
    old = torch.randn(count, 5).double()
    for objective, term in (
        (BesideLabels(temperature=2.0, unscaled=True), lambda s, t: _kl(t / 2, s / 2)),
        (LogitsBesideLabels(), lambda s, t: (s - t).square().mean(-1)),
    ):
        counts = objective.count(where, len(rows))
        assert counts.tolist() == [len(s.answer) + 1 for s in NEW]
        scale = torch.ones(len(rows)).double()
        found = objective.loss(
            hidden.clone(), OutputLayer(head), [Knowledge(old, OutputLayer(head))], where, scale
        )
        s, t = hidden @ head.T, old @ head.T
        labels = nn.functional.cross_entropy(s, where.target, reduction="sum")
        torch.testing.assert_close(found.total, labels + 0.7 * term(s, t).sum())


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    log_t, log_s = teacher.log_softmax(-1), student.log_softmax(-1)
    return (log_t.exp() * (log_t - log_s)).sum(-1)


def test_each_former_task_has_its_own_students_logits(store: Store) -> None:
    """What the composite teacher says of a sample is what that task's student says."""
    _, first, second, third = path("der++", der={"ratio": 0.5})
    assert [one.student for one in third.remembered] == [first, second]
    assert [one.task for one in third.remembered] == ["gen.tv", "gen.intent"]
    obtain(third, store)
    here = Context(store, Path(store.fetch(third.kind, third.key)))
    source = third._replayed(here, 1.0)
    assert isinstance(source.teacher, Students)
    text = FORMAT.load(store.fetch(first.kind, first.key))
    rows = [SequenceRow(text.qa(s), "qa", n) for n, s in enumerate(source.samples)][::-1]
    found = source.teacher.annotate(rows, "cpu")
    logits = found.hidden @ found.head.weight.T
    place = 0
    for row in rows:
        task = source.samples[row.index].task
        student = {one.task: one.student for one in third.remembered}[task]
        model = CausalLM.load(store.fetch(student.kind, student.key)).eval()
        ids, own = torch.tensor([row.sequence.tokens]), row.sequence.supervised - 1
        with torch.no_grad():
            wanted = model.head(model(ids, torch.arange(own, ids.shape[1] - 1)))
        given = logits[place : place + len(wanted)]
        torch.testing.assert_close(given, wanted, atol=2e-2, rtol=1e-2)  # half precision
        place += len(wanted)
    assert place == len(logits)


def test_squared_error_is_the_mean_over_the_vocabulary() -> None:
    one, other = torch.randn(2, 4, 9).double()
    torch.testing.assert_close(squared_error(one, other, 1.0), ((one - other) ** 2).sum(-1) / 9)


def test_a_gems_projection() -> None:
    torch.manual_seed(0)
    new, former = torch.randn(2, 40).double()
    former = former if new @ former < 0 else -former
    found = projected(new, former)
    assert abs(float(found @ former)) < 1e-12
    # The nearest such gradient: what was taken away is a multiple of `former`.
    away = new - found
    torch.testing.assert_close(away, (away @ former) / (former @ former) * former)
    assert torch.equal(projected(new, -former), new)


def test_a_gem_draws_by_the_step(store: Store) -> None:
    """A training that was resumed sees the batches of one that was not."""
    third = path("agem", agem={"ratio": 1.0, "batch_size": 3})[3]
    obtain(third, store)
    here = Context(store, Path(store.fetch(third.kind, third.key)))
    folder = store.fetch(third.start.kind, third.start.key)
    model, text = CausalLM.load(folder), FORMAT.load(folder)
    hook = third.constraint.prepare(model, third._curriculum(text, model, here), here)
    seen = []
    for step in (0, 1, 0):
        for value in model.parameters():
            value.grad = -torch.ones_like(value)
        hook(model, step)
        seen.append([value.grad.clone() for value in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))


# SSR ---------------------------------------------------------------------------------------------


def test_clusters_are_found_and_their_centres_kept() -> None:
    draws = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = np.concatenate([c + draws.normal(size=(20, 2)) for c in centres])
    labels, distances = k_means(points, 3, draws)
    assert [len({*labels[n : n + 20]}) for n in (0, 20, 40)] == [1, 1, 1]
    assert len({*labels}) == 3
    chosen = near_centres(points, 3, 6, np.random.default_rng(0))
    assert sorted(index // 20 for index in chosen) == [0, 0, 1, 1, 2, 2]
    for n in range(3):
        own = [index for index in chosen if index // 20 == n]
        assert (
            sorted(own, key=lambda i: distances[i])
            == sorted(range(20 * n, 20 * n + 20), key=lambda i: distances[i])[:2]
        )
    # Of a larger cluster more, in proportion.
    unequal = np.concatenate([points[:20], points[20:30], points[40:50]])
    chosen = near_centres(unequal, 3, 8, np.random.default_rng(0))
    assert [sum(a <= one < b for one in chosen) for a, b in ((0, 20), (20, 30), (30, 40))] == [
        4,
        2,
        2,
    ]
    # Small clusters keep their share, to within one point.
    far = 100 * np.stack([np.cos(np.arange(19)), np.sin(np.arange(19))], axis=1)
    lonely = np.concatenate([draws.normal(size=(81, 2)), far])
    chosen = near_centres(lonely, 20, 20, np.random.default_rng(0))
    assert len(chosen) == 20
    assert sum(one < 81 for one in chosen) in (16, 17)
    assert near_centres(points[:4], 3, 9, draws) == [0, 1, 2, 3]
    same = np.zeros((5, 2))
    assert len(near_centres(same, 3, 2, draws)) == 2


def test_ssr_keeps_a_number_of_the_samples_it_wrote(store: Store) -> None:
    third = path("ssr", ssr={"ratio": 0.18, "candidates": 4, "clusters": 2})[3]
    scores = obtain(third.replay, store)
    assert scores["written"] == 2 * 3 * 4
    assert 0 < scores["kept"] <= scores["wanted"] == 6
    from l2kd_ray.families.language.stages.replay import read_samples

    kept = read_samples(store.fetch("replay", third.replay.key))
    assert len(kept) == scores["kept"]
    assert all(one.question for one in kept)
    assert {one.task for one in kept} <= {"gen.tv", "gen.intent"}


# The page ----------------------------------------------------------------------------------------


def test_the_page_of_baselines_is_made_from_the_code() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks/baselines.py"))
    assert made["page"]() == made["PAGE"].read_text("utf-8"), "python benchmarks/baselines.py"
    for name, (_, _, test) in made["FACTS"].items():
        file, _, function = test.partition("::")
        assert not test or f"def {function}(" in (ROOT / "tests" / file).read_text("utf-8"), name
