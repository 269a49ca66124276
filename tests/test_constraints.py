"""What holds a student to its former tasks: parameter importance, its penalty, GEM's projection."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers.language import (
    FORMAT,
    NEW,
    Dummy,
    context,
    curriculum,
    make_model,
    naive_mean,
    no_dropout,
    stopped,
)
from helpers.studies import planned
from helpers.weights import weights
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from l2kd_ray.core import loop
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.loop import GradientHook, fit
from l2kd_ray.core.stage import Context, Optimisation, Scores, Stage
from l2kd_ray.core.store import Store
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import Sample, SequenceFormat
from l2kd_ray.families.language.stages.constraints import Penalty, Projection, dual_solution
from l2kd_ray.families.language.stages.curriculum import Curriculum, SampleSource
from l2kd_ray.families.language.stages.importance import IMPORTANCE_FILE, Importance
from l2kd_ray.families.language.stages.replay import SAMPLES
from l2kd_ray.families.language.stages.start import Initial, Tokenizer
from l2kd_ray.tasks import resolve
from l2kd_ray.tasks.spec import TaskSpec

PLAIN = Optimisation(epochs=1, batch_size=8, lr=1e-2, adam_eps=1e-4, warmup=0.005)
Tensors = dict[str, Tensor]


# Importance --------------------------------------------------------------------------------------

# Answers of unlike lengths, so that an example is told by the number of its draws.
ROWS = [("a b c", "x"), ("b c", "xy"), ("c", "yxx"), ("d e f g", "yyxy")]


def data_of(folder: Path, rows: Sequence[tuple[str, str]]) -> Examples:
    """A task's training split: (context, answer) each."""
    path = folder / f"{len(list(folder.iterdir()))}.jsonl"
    items = [{"context": c, "question": "?", "answer": a} for c, a in rows]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    spec = TaskSpec(name="own", train=path, dev=path, test=path, max_test=5)
    task = resolve(spec, data_dir=None, data_seed=0, caps={}, where="test")
    return Examples(task.splits["train"])


def measured(
    folder: Path, measure: Any, rows: Sequence[tuple[str, str]] = ROWS, model_seed: int = 1
) -> Importance:
    """The importance for all of some examples to a model that has learnt nothing yet."""
    tokenizer = Tokenizer(None, (data_of(folder, ROWS),), 257, ("own",))  # bytes alone
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 24}
    model = Initial(None, "gpt2", sizes, tokenizer, seed=model_seed)
    return Importance(model, data_of(folder, rows), measure, len(rows), None, 5, None)


def importance(stage: Importance, store: Store) -> Tensors:
    obtain(stage, store)
    return load_file(store.fetch(stage.kind, stage.key) / IMPORTANCE_FILE)


class Naive:
    """The model in double precision, whole, one example at a time."""

    def __init__(self, stage: Importance, store: Store) -> None:
        folder = store.fetch("initial", stage.model.key)
        self.text, self.model = SequenceFormat.load(folder), CausalLM.load(folder).double().eval()
        self.samples = []
        for example in stage.examples.data.examples():
            c, q, a = map(self.encode, (example.context, example.question, example.answers[0]))
            self.samples.append(Sample("own", c + q, a))

    def encode(self, text: str) -> list[int]:
        return list(self.text.tokenizer(text, add_special_tokens=False)["input_ids"])

    def logits(self, sample: Sample) -> Tensor:
        """[P, V]: what predicts the answer and eos."""
        tokens = self.text.qa(sample).tokens
        count = len(sample.answer) + 1
        logits: Tensor = self.model.lm(input_ids=torch.tensor([tokens])).logits[0]
        return logits[-count - 1 : -1]

    def gradient(self, of: Tensor) -> Tensors:
        names, values = zip(*self.model.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(of, values, retain_graph=True), strict=True))


def mean(of: Sequence[Tensors]) -> Tensors:
    return {name: torch.stack([one[name] for one in of]).mean(0) for name in of[0]}


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        atol = 1e-5 * float(value.abs().max())
        torch.testing.assert_close(found[name].double(), value, rtol=1e-3, atol=atol)


def test_fisher_is_the_mean_squared_gradient_for_drawn_answers(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[int, Tensor] = {}
    sample = torch.distributions.Categorical.sample

    def note(self: Any) -> Tensor:
        labels = cast(Tensor, sample(self))
        drawn[len(labels)] = labels
        return labels

    monkeypatch.setattr(torch.distributions.Categorical, "sample", note)
    stage = measured(tmp_path, "fisher")
    found = importance(stage, store)
    naive = Naive(stage, store)
    squares = []
    for one in naive.samples:
        labels = drawn[len(one.answer) + 1].unsqueeze(-1)
        log_p = naive.logits(one).log_softmax(-1).gather(-1, labels).sum()
        squares.append({name: g**2 for name, g in naive.gradient(log_p).items()})
    assert len(drawn) == len(squares) == 4
    assert_same(found, mean(squares))


def test_fisher_is_in_the_mean_the_fisher_information(tmp_path: Path, store: Store) -> None:
    """sum_y p(y) (d log p(y) / d theta)^2 over the whole vocabulary, position by position."""
    draws = 400
    stage = measured(tmp_path, "fisher", [ROWS[1]] * draws)
    found = importance(stage, store)
    naive = Naive(stage, store)
    log_p = naive.logits(naive.samples[0]).log_softmax(-1)
    exact = {name: torch.zeros_like(value) for name, value in naive.model.named_parameters()}
    for each in log_p.flatten():
        for name, gradient in naive.gradient(each).items():
            exact[name] += each.detach().exp() * gradient**2
    for name in ("transformer.h.0.mlp.c_fc.weight", "transformer.ln_f.weight"):
        one, other = found[f"lm.{name}"].double(), exact[f"lm.{name}"]
        assert float(one.sum()) == pytest.approx(float(other.sum()), rel=0.05)
        assert float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) > 0.95


def test_sensitivity_is_that_of_mas(tmp_path: Path, store: Store) -> None:
    """The mean over examples of |d mean_positions ||z||^2 / d theta|."""
    stage = measured(tmp_path, "sensitivity")
    found = importance(stage, store)
    naive = Naive(stage, store)
    each = [naive.gradient((naive.logits(one) ** 2).sum(-1).mean()) for one in naive.samples]
    assert_same(found, mean([{name: g.abs() for name, g in one.items()} for one in each]))


def test_importance_looks_at_no_more_examples_than_it_may(tmp_path: Path, store: Store) -> None:
    stage = measured(tmp_path, "sensitivity")
    one = importance(replace(stage, samples=1), store)
    alone = []
    for row in ROWS:
        naive = Naive(replace(stage, examples=data_of(tmp_path, [row])), store)
        squared = (naive.logits(naive.samples[0]) ** 2).sum(-1).mean()
        alone.append({name: g.abs() for name, g in naive.gradient(squared).items()})
    name = "lm.transformer.h.0.mlp.c_fc.weight"
    near = [torch.allclose(one[name].double(), each[name], rtol=1e-3) for each in alone]
    assert near.count(True) == 1  # of one example, drawn by the seed
    assert importance(replace(stage, samples=99), store).keys() == one.keys()  # there are but four


@pytest.mark.parametrize("measure", ["fisher", "sensitivity"])
def test_importance_is_summed_over_tasks(tmp_path: Path, store: Store, measure: Any) -> None:
    first, second = (
        measured(tmp_path, measure, rows, seed) for rows, seed in ((ROWS[:2], 1), (ROWS[2:], 2))
    )
    both = importance(replace(second, former=first), store)
    alone = [importance(stage, store) for stage in (first, second)]
    for name, value in both.items():
        assert torch.equal(value, alone[0][name] + alone[1][name])
        assert float(value.min()) >= 0


def test_the_importance_of_a_path() -> None:
    """Each task is measured on the student that has just learnt it, and the anchor is renewed."""
    for method, measure, factor in (("ewc", "fisher", 1), ("mas", "sensitivity", 2)):
        study = planned(
            tasks=["gen.intent", "gen.rest", "gen.tv"],
            methods=[method],
            **{method: {"strength": 7, "samples": 5}},
        )
        trial = next(t for t in study.trials() if t.method == method)
        students: list[Any] = [step[0].stage.model for step in trial.steps]
        assert students[1].constraint is None
        former = None
        for place in (1, 2):
            penalty = students[place + 1].constraint
            assert students[place + 1].start == students[place]  # the anchor
            assert penalty.strength == 7 * factor  # the loss has strength / 2, MAS's has no 1/2
            assert penalty.importance.model == students[place]
            assert penalty.importance.examples == students[place].tasks[0].source
            assert (penalty.importance.measure, penalty.importance.samples) == (measure, 5)
            assert penalty.importance.former == former
            former = penalty.importance


def test_a_small_task_shrinks_no_other_tasks_sample(tiny: Any) -> None:
    """In every order a task's importance is measured on as many of its own examples."""
    small = {"name": "gen.rest", "max_train": 3}
    study = tiny(tasks=["gen.intent", small, "gen.tv"], methods=["ewc"])
    found = {
        (stage.examples.task, stage.samples)
        for trial in study.trials()
        for stage in trial.stages()
        if isinstance(stage, Importance)
    }
    assert len(found) == 3
    assert ("gen.rest", 3) in found


# The penalty -------------------------------------------------------------------------------------


def prepared(penalty: Penalty, model: CausalLM, store: Store, folder: Path) -> GradientHook:
    obtain(penalty.importance, store)
    return penalty.prepare(model, curriculum(), Context(store, folder))


def test_the_penaltys_gradient_is_its_definitions(tmp_path: Path, store: Store) -> None:
    penalty = Penalty(measured(tmp_path, "fisher"), strength=3.0)
    weights = importance(penalty.importance, store)
    folder = store.fetch("initial", penalty.importance.model.key)
    model, start = CausalLM.load(folder), CausalLM.load(folder)
    constrain = prepared(penalty, model, store, tmp_path)
    stream = torch.Generator().manual_seed(0)
    before = {}
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.grad = before[name] = torch.randn(value.shape, generator=stream)
            value.grad = value.grad.clone()
    constrain(model, 0)
    for name, value in model.named_parameters():
        assert value.grad is not None
        assert torch.equal(value.grad, before[name])  # at the anchor it asks for nothing
        with torch.no_grad():
            value.add_(torch.randn(value.shape, generator=stream))
    constrain(model, 0)
    anchor = dict(start.named_parameters())
    loss = sum(
        (weights[name] * (value - anchor[name].detach()) ** 2).sum()
        for name, value in model.named_parameters()
    )
    names, values = zip(*model.named_parameters(), strict=True)
    wanted = torch.autograd.grad(3.0 / 2 * loss, values)  # type: ignore[arg-type]
    for name, value, gradient in zip(names, values, wanted, strict=True):
        torch.testing.assert_close(value.grad - before[name], gradient, rtol=1e-4, atol=1e-5)


def students(method: str, **changes: Any) -> list[Any]:
    study = planned(methods=[method], orders=["gen.rest>gen.intent"], **changes)
    trial = next(t for t in study.trials() if t.method == method)
    return [step[0].stage.model for step in trial.steps]


def distance(one: Tensors, other: Tensors) -> float:
    return float(sum((value - other[name]).square().sum() for name, value in one.items())) ** 0.5


@pytest.mark.parametrize("method", ["ewc", "mas"])
def test_a_stronger_penalty_leaves_a_student_nearer_to_where_it_was(
    store: Store, method: str
) -> None:
    moved = []
    for strength in (0, 1e4, 1e8):
        path = students(method, **{method: {"strength": strength, "samples": 8}})
        moved.append(distance(weights(path[2], store), weights(path[1], store)))
    assert moved[0] > moved[1] > moved[2] > 0


@pytest.mark.parametrize("method", ["ewc", "gem"])
def test_a_constrained_training_that_was_killed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The anchor of a resumed training is the start of the task, not of its resumption."""
    last = students(method, ewc={"strength": 1e4}, gem={"ratio": 1})[2]
    one, other = Store(str(tmp_path / "one")), Store(str(tmp_path / "other"))
    whole = weights(last, one)
    for _, source in last.inputs():
        obtain(source, other)
    obtain(last.start, other)
    with stopped(monkeypatch, after=2):
        obtain(last, other, checkpoint_seconds=0.0)
    resumed = weights(last, other)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name])


# GEM's dual --------------------------------------------------------------------------------------


def brute_force(gram: Any, products: Any, margin: float) -> tuple[float, Any]:
    """The least v' Q v / 2 + c' v with v >= margin: each choice of those that stand at it."""
    best: tuple[float, Any] = (np.inf, None)
    k = len(products)
    for held in itertools.product([True, False], repeat=k):
        free = [place for place in range(k) if not held[place]]
        v = np.full(k, margin)
        if free:
            right = -(products + gram @ (v * np.array(held)))[free]
            v[free] = np.linalg.lstsq(gram[np.ix_(free, free)], right, rcond=None)[0]
        value = float(v @ gram @ v / 2 + products @ v)
        if (v >= margin - 1e-9).all() and value < best[0]:
            best = value, v
    return best


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.0, 0.5, 2.0]), st.booleans())
@settings(max_examples=60)
def test_the_dual_is_solved(seed: int, k: int, margin: float, repeated: bool) -> None:
    stream = np.random.default_rng(seed)
    former, step = stream.normal(size=(k, 6)), stream.normal(size=6)
    if repeated:  # two former tasks that ask for the same
        former[-1] = former[0]
    gram, products = former @ former.T, former @ step
    found = dual_solution(gram, products, margin)
    value, wanted = brute_force(gram, products, margin)
    assert (found >= margin - 1e-9).all()
    assert found @ gram @ found / 2 + products @ found == pytest.approx(value, abs=1e-5)
    if not repeated:
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    projected = step + found @ former
    scale = np.linalg.norm(former, axis=1).max() * np.linalg.norm(step)
    assert (former @ projected >= -1e-5 * max(scale, 1)).all()


def test_the_dual_agrees_with_a_general_solver() -> None:
    from scipy.optimize import minimize

    for seed in range(10):
        stream = np.random.default_rng(seed)
        former, step = stream.normal(size=(3, 8)), stream.normal(size=8)
        gram, products = former @ former.T, former @ step
        solved = minimize(
            lambda v, gram=gram, products=products: v @ gram @ v / 2 + products @ v,
            np.ones(3), jac=lambda v, gram=gram, products=products: gram @ v + products,
            bounds=[(0.5, None)] * 3, method="SLSQP", options={"ftol": 1e-12, "maxiter": 500},
        )  # fmt: skip
        np.testing.assert_allclose(dual_solution(gram, products, 0.5), solved.x, atol=1e-4)


# GEM's projection --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Kept(Stage):
    """Some samples as a replay stage leaves them: (task, question, answer) in tokens."""

    kind = "replay"
    samples: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def run(self, context: Context) -> Scores:
        lines = [
            {"task": task, "faults": [], "question_tokens": question, "answer_tokens": answer}
            for task, question, answer in self.samples
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (context.out / SAMPLES).write_text(text)
        return {}


# Two former tasks: one that wanted other answers to the new task's questions, and one of its own.
MEMORY = [
    *(Sample("b", NEW[k].question, [60, 61 + k]) for k in range(5)),
    *(Sample("c", [80 + k, 6], [70, 71]) for k in range(3)),
]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    """A student that knows the former tasks; without dropout."""
    model = no_dropout()
    training = replace(PLAIN, epochs=60, lr=3e-2)
    chosen = lesson(training, new=(SampleSource(MEMORY),), stream="b")
    fit(Dummy(), model, chosen, context(tmp_path_factory.mktemp("learnt")))
    return model


def projection(
    tmp_path: Path, samples: Sequence[Sample] = MEMORY, margin: float = 0.0
) -> tuple[Projection, Context]:
    rows = tuple((s.task, tuple(s.question), tuple(s.answer)) for s in samples)
    kept, here = Kept(rows), context(tmp_path)
    obtain(kept, here.store)
    return Projection(kept, margin), here  # type: ignore[arg-type]


def lesson(optimisation: Optimisation = PLAIN, **changes: Any) -> Curriculum:
    """Question answering alone."""
    return curriculum(optimisation, replayed=[], parts=("qa",), lm_weight=0.0, **changes)


def flat(model: CausalLM) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def gradient(model: CausalLM, samples: Sequence[Sample]) -> Tensor:
    """Of the mean loss of some samples, without dropout."""
    model.eval().zero_grad()
    naive_mean(model, [FORMAT.qa(sample) for sample in samples]).backward()  # type: ignore[no-untyped-call]
    found = flat(model).clone()
    model.train().zero_grad()
    return found


def constrained(
    model: CausalLM, made: tuple[Projection, Context], step: Tensor, **training: Any
) -> Tensor:
    """What `step` becomes."""
    chosen = lesson(replace(PLAIN, **training))
    constrain = made[0].prepare(model, chosen, made[1])
    start = 0
    for parameter in model.parameters():
        part = step[start : start + parameter.numel()]
        parameter.grad = part.view_as(parameter).clone()
        start += parameter.numel()
    constrain(model, 0)
    return flat(model)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("micro", [None, 1, 2])
def test_a_step_is_projected_to_the_nearest_that_hurts_no_former_task(
    learnt: CausalLM, tmp_path: Path, margin: float, micro: int | None
) -> None:
    model = deepcopy(learnt)
    step = gradient(model, NEW)
    former = torch.stack(
        [gradient(model, [s for s in MEMORY if s.task == task]) for task in ("b", "c")]
    )
    assert (former @ step < 0).any()
    found = constrained(model, projection(tmp_path, margin=margin), step, micro_batch=micro)
    products = (former @ found) / (former.norm(dim=1) * found.norm())
    assert (products > -1e-4).all()
    gram, c = (former @ former.T).double().numpy(), (former @ step).double().numpy()
    wanted = step + torch.from_numpy(brute_force(gram, c, margin)[1]).float() @ former
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_a_memory_that_does_not_fit_is_read_in_halves(
    learnt: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins with what fitted the training, and remembers what fitted itself."""
    step, (made, here) = gradient(learnt, NEW), projection(tmp_path)
    wanted = constrained(deepcopy(learnt), (made, here), step)
    sizes, inner = list[int](), Curriculum.loss

    def narrow(self: Any, model: Any, network: Any, rows: Any, *rest: Any) -> Any:
        sizes.append(len(rows))
        found = inner(self, model, network, rows, *rest)
        if len(rows) > 2:
            found[0].backward()
            raise torch.OutOfMemoryError
        return found

    monkeypatch.setattr(Curriculum, "loss", narrow)
    here.notes["micro_batch"] = 4
    for first in (4, 2):
        sizes.clear()
        found = constrained(deepcopy(learnt), (made, here), step)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
        assert sizes[0] == max(sizes) == first
    assert here.notes["micro_batch"] == 2


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_a_step_that_hurts_nobody_is_left_as_it_is(
    learnt: CausalLM, tmp_path: Path, margin: float
) -> None:
    model = deepcopy(learnt)
    step = gradient(model, NEW)
    same = [replace(sample, task="b") for sample in NEW]
    made = projection(tmp_path, same, margin)
    assert torch.equal(constrained(model, made, step), step)


def test_what_a_step_becomes_is_not_a_matter_of_the_workers_dropout(
    learnt: CausalLM, tmp_path: Path
) -> None:
    model = make_model().train()  # with dropout
    model.load_state_dict(learnt.state_dict())
    step, made = gradient(model, NEW), projection(tmp_path)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(constrained(model, made, step))
    assert torch.equal(*results)
    assert not torch.equal(results[0], step)
    assert model.training
    assert model.lm.transformer.drop.training


@pytest.mark.parametrize("micro", [None, 1, 3])
def test_what_is_stepped_is_the_projected_gradient(
    learnt: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro: int | None
) -> None:
    """One step of plain descent: the weights move by the projected gradient, clipped to 0.1."""
    model, reference = deepcopy(learnt), deepcopy(learnt)
    before = torch.cat([p.detach().flatten() for p in reference.parameters()])
    wanted = constrained(reference, projection(tmp_path), gradient(reference, NEW))
    assert not torch.equal(wanted, gradient(reference, NEW))
    wanted = wanted * 0.1 / wanted.norm()

    def descent(model: nn.Module, how: Optimisation) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=how.lr)

    monkeypatch.setattr(loop, "_optimizer", descent)
    made, here = projection(tmp_path)
    chosen = lesson(replace(PLAIN, micro_batch=micro, clip=0.1))
    constrain = made.prepare(model, chosen, here)
    (row,) = fit(Dummy(), model, chosen, here, constrain)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close((before - after) / row["lr"], wanted, rtol=1e-2, atol=1e-5)


def test_gem_keeps_former_losses_lower_than_finetuning(learnt: CausalLM, tmp_path: Path) -> None:
    losses: dict[str, float] = {}
    chosen = lesson(replace(PLAIN, epochs=20))
    for name in ("finetune", "gem"):
        model = deepcopy(learnt)
        made, here = projection(tmp_path / name)
        constrain = made.prepare(model, chosen, here) if name == "gem" else None
        fit(Dummy(), model, chosen, here, constrain)
        with torch.no_grad():
            losses[name] = float(naive_mean(model.eval(), [FORMAT.qa(s) for s in MEMORY]))
    assert losses["gem"] < losses["finetune"] - 0.5


@pytest.fixture
def a_group(tmp_path: Path) -> Iterator[None]:
    """A torch.distributed group of this process alone."""
    meet = f"file://{tmp_path}/meet"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("a_group")
def test_gem_goes_with_the_exchange_of_gradients(
    learnt: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory's gradients pass the hooks of torch's DDP, and are not exchanged."""
    found = []
    chosen = lesson(replace(PLAIN, epochs=3, batch_size=4, micro_batch=2))
    for name in ("alone", "wrapped"):
        model = deepcopy(learnt)
        made, here = projection(tmp_path / name)
        fit(Dummy(), model, chosen, here, made.prepare(model, chosen, here))
        found.append(model.state_dict())
        monkeypatch.setattr(loop, "_wrap", lambda model, *_: DistributedDataParallel(model))
    before = learnt.state_dict()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)
        assert not torch.equal(value, before[name])
