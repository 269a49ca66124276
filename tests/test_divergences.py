"""Divergences: autograd against the closed form, against definitions, and one from outside."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l2kd_ray import door
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import CURVE
from l2kd_ray.core.store import Store
from l2kd_ray.distill import linear_loss
from l2kd_ray.distill.cross_entropy import inner, interpolate, structural_cross_entropy
from l2kd_ray.distill.divergences import DIVERGENCES, FORMULAS, Divergence, forward, reverse
from l2kd_ray.distill.gradients import bias, gradient
from l2kd_ray.distill.linear_loss import Knowledge, OutputLayer
from l2kd_ray.distill.logits import soft_cross_entropy
from l2kd_ray.distill.objectives import NO_TEACHER, Positions, SoftTargets
from l2kd_ray.distill.top_k import MostLikely
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.stages.annotate import Annotate
from l2kd_ray.families.language.stages.learn import Learn

C, V, WIDTH = 6, 9, 5
EXAMPLE = f"{Path(__file__).parents[1]}/examples/skew_kl.py:skew_kl"
temperatures = st.sampled_from([0.5, 1.0, 2.0, 5.0])


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain_forward(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    """T^2 KL(teacher || student) from the definition, unknown to the closed form."""
    p, q = (teacher / T).softmax(-1), (student / T).softmax(-1)
    return T**2 * (p * (p.log() - q.log())).sum(-1)


def plain_reverse(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    """T^2 KL(student || teacher)."""
    return plain_forward(teacher, student, T)


def skew_kl(alpha: float = 0.1) -> Divergence:
    _, plugin = door.find("divergences", EXAMPLE, DIVERGENCES)
    return replace(plugin, options=(("alpha", alpha),)).load()


# One slot, two ways to a gradient


@settings(max_examples=30)
@given(
    T=temperatures,
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    k=st.sampled_from([None, 1, 4, V - 1]),
)
def test_the_closed_form_of_forward_kl_is_autograds(
    T: float, seed: int, dtype: torch.dtype, k: int | None
) -> None:
    student, logits = (2 * draw(C, V, seed=s, dtype=dtype) for s in (seed, seed + 100))
    teacher = logits if k is None else MostLikely.of(logits, k)
    weight = draw(C, seed=3, dtype=dtype).abs()

    def ways(divergence: Divergence) -> tuple[Tensor, Tensor]:
        given = teacher.clone() if isinstance(teacher, Tensor) else teacher
        return gradient(student.clone(), given, weight, T, divergence)

    found = ways(forward)
    for other in (plain_forward, lambda *given: forward(*given)):
        torch.testing.assert_close(ways(other), found, rtol=1e-4, atol=1e-5)


def test_forward_kl_is_the_cross_entropy_less_the_teachers_entropy() -> None:
    student, teacher, T = draw(C, V, seed=1), draw(C, V, seed=2), 2.0
    p, log_q = (teacher / T).softmax(-1), (student / T).log_softmax(-1)
    entropy = structural_cross_entropy((p,), (p.log(),))
    wanted = T**2 * (structural_cross_entropy((p,), (log_q,)) - entropy)
    torch.testing.assert_close(forward(student, teacher, T), wanted)


def test_soft_targets_of_a_classifier_have_the_gradient_of_forward_kl() -> None:
    student, teacher, weight, T = draw(C, V, seed=1), draw(C, V, seed=2), draw(C, seed=3).abs(), 2.0
    own, _ = gradient(student.clone(), teacher.clone(), T**2 * weight, T, soft_cross_entropy)
    wanted, _ = gradient(student.clone(), teacher.clone(), weight, T)
    torch.testing.assert_close(own, wanted)


def test_a_teacher_may_forbid_tokens() -> None:
    student, teacher = draw(C, V, seed=1).requires_grad_(), draw(C, V, seed=2)
    teacher[:, 0] = -torch.inf
    loss = forward(student, teacher, 2.0)
    (found,) = torch.autograd.grad(loss.sum(), student)
    wanted = 2.0 * ((student / 2).softmax(-1) - (teacher / 2).softmax(-1))
    torch.testing.assert_close(found, wanted.detach())


def batch() -> tuple[Positions, list[Any]]:
    """Three rows of four positions: two teachers and none."""
    row = torch.arange(3).repeat_interleave(4)
    teacher = torch.tensor([0, NO_TEACHER, 1])[row]
    target = torch.randint(V, (12,), generator=torch.Generator().manual_seed(0))
    positions = Positions(target, row, target == 3, teacher, (teacher != NO_TEACHER) * 0.7)
    hidden, head = draw(4, WIDTH, seed=4), OutputLayer(draw(V, WIDTH, seed=5), draw(V, seed=6))
    kept = MostLikely.of(3 * draw(4, V, seed=7), 3)
    return positions, [Knowledge(hidden, head), kept]


@pytest.mark.parametrize("divergence", [plain_forward, plain_reverse, skew_kl(0.3)])
@pytest.mark.parametrize("chunk", [V, 3 * V, 2**24])
def test_the_fused_loss_of_any_divergence_passes_gradcheck(
    divergence: Divergence, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", chunk)
    monkeypatch.setitem(DIVERGENCES, "other", divergence)  # type: ignore[arg-type]
    positions, knowledge = batch()
    objective, scale = SoftTargets(2.0, 5.0, divergence="other"), draw(3, seed=3).abs()

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        head = OutputLayer(weight, bias)
        return objective.loss(hidden, head, knowledge, positions, scale).total

    shapes = [(12, WIDTH), (V, WIDTH), (V,)]
    inputs = [draw(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(loss, inputs)
    if divergence is plain_forward:
        usual = SoftTargets(2.0, 5.0)
        head = OutputLayer(*inputs[1:])
        wanted = usual.loss(inputs[0], head, knowledge, positions, scale).total
        torch.testing.assert_close(loss(*inputs), wanted)


def test_a_divergence_sees_one_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(student: Tensor, teacher: Tensor, T: float) -> Tensor:
        sizes.append(len(student))
        assert student.requires_grad
        assert not teacher.requires_grad
        return plain_reverse(student, teacher, T)

    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", 3 * V)
    hidden, weight = draw(10, WIDTH, seed=1).requires_grad_(), draw(V, WIDTH, seed=2)
    said = Knowledge(draw(10, WIDTH, seed=3), OutputLayer(draw(V, WIDTH, seed=4).requires_grad_()))
    ones, where = torch.ones(10).double(), torch.arange(10)
    term = linear_loss.Term(where, said)
    linear_loss.linear_loss(
        hidden, OutputLayer(weight), where % V, 0 * ones, ones, [term], 2.0, watched
    ).total.backward()  # type: ignore[no-untyped-call]
    assert sizes == [3, 3, 3, 1]
    assert said.head.weight.grad is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda student, teacher, T: plain_forward(student, teacher, T).mean(),
        lambda student, teacher, T: student - teacher,
        lambda student, teacher, T: plain_forward(student.detach(), teacher, T),
    ],
)
def test_what_is_no_loss_a_position_is_refused(wrong: Divergence) -> None:
    with pytest.raises(InputError, match="one loss a position") as caught:
        gradient(draw(C, V, seed=1), draw(C, V, seed=2), torch.ones(C).double(), 1.0, wrong)
    assert f"shape [{C}]" in caught.value.expected


def test_the_most_likely_tokens_tell_any_divergence_of_k_and_one_classes() -> None:
    student, teacher, weight = draw(C, V, seed=1), draw(C, V, seed=2), torch.ones(C).double()
    skew = skew_kl(0.3)
    whole = gradient(student.clone(), teacher.clone(), weight, 2.0, skew)
    torch.testing.assert_close(
        gradient(student.clone(), MostLikely.of(teacher, V - 1), weight, 2.0, skew), whole
    )
    kept = [MostLikely.of(teacher, k) for k in (1, 4, V - 1)]
    off = [bias([(student, teacher, one)], 2.0, skew) for one in kept]
    assert off[0]["error"] > off[1]["error"] > off[2]["error"]
    assert off[2]["error"] == pytest.approx(0, abs=1e-9)


def test_what_the_marginals_exclude_is_not_read() -> None:
    marginals = torch.tensor([[0.0, 1.0], [0.25, 0.75]])
    scores = torch.tensor([[-torch.inf, -2.0], [4.0, 8.0]])
    assert inner((marginals,), (scores,)).tolist() == [-2.0, 7.0]


def test_an_interpolation_reads_no_label_where_there_is_none() -> None:
    kd, target = torch.tensor([2.0, 3.0]), torch.tensor([10.0, torch.inf])
    assert interpolate(kd, target, 0.25, torch.tensor([True, False])).tolist() == [8.0, 3.0]
    assert interpolate(kd, kd + 1, 0.5).tolist() == [2.5, 3.5]


# The built-ins


Named = tuple[str, tuple[tuple[str, float | bool], ...]]
BUILT_IN: list[Named] = [
    ("forward", ()),
    ("reverse", ()),
    ("jsd", (("beta", 0.2), ("unit", True))),
    ("jsd", (("beta", 0.2), ("unit", False))),
    ("skew_forward", (("skew", 0.3),)),
    ("skew_reverse", (("skew", 0.3),)),
    ("tvd", ()),
    ("uld", ()),
]


def named(name: str, **parameters: float | bool) -> Divergence:
    return SoftTargets(divergence=name, parameters=tuple(parameters.items())).loaded_divergence


def plain(name: str, p: list[float], q: list[float], **given: float) -> float:
    """A divergence of the teacher's p and the student's q, number by number, from its formula."""

    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))

    def mix(share: float, a: list[float], b: list[float]) -> list[float]:
        return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]

    beta, skew = given.get("beta", 0.5), given.get("skew", 0.5)
    m = mix(beta, p, q)
    value = {
        "forward": kl(p, q),
        "reverse": kl(q, p),
        "jsd": beta * kl(p, m) + (1 - beta) * kl(q, m),
        "skew_forward": kl(p, mix(skew, p, q)),
        "skew_reverse": kl(q, mix(skew, q, p)),
        "tvd": sum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2,
        "uld": sum(abs(x - y) for x, y in zip(sorted(p), sorted(q), strict=True)),
    }[name]
    return value / (beta * (1 - beta)) if given.get("unit") else value


@pytest.mark.parametrize(("name", "given"), BUILT_IN)
@pytest.mark.parametrize("T", [0.5, 1.0, 3.0])
def test_a_built_in_is_t_squared_times_its_formula(
    name: str, given: tuple[tuple[str, float | bool], ...], T: float
) -> None:
    student, teacher = 2 * draw(C, V, seed=1), 2 * draw(C, V, seed=2)
    p, q = (teacher / T).softmax(-1).tolist(), (student / T).softmax(-1).tolist()
    wanted = [T**2 * plain(name, *pair, **dict(given)) for pair in zip(p, q, strict=True)]
    found = named(name, **dict(given))
    torch.testing.assert_close(found(student, teacher, T), torch.tensor(wanted).double())
    assert min(found(student, teacher, T)) > 0
    single = found(student.float(), teacher.float(), T)
    torch.testing.assert_close(single, torch.tensor(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "given"), BUILT_IN)
def test_a_built_in_passes_gradcheck_and_is_0_without_gradient_at_the_teacher(
    name: str, given: tuple[tuple[str, float | bool], ...]
) -> None:
    student, teacher = draw(C, V, seed=1).requires_grad_(), draw(C, V, seed=2)
    found = named(name, **dict(given))
    assert torch.autograd.gradcheck(lambda z: found(z, teacher, 2.0), (student,))
    same = teacher.clone().requires_grad_()
    at = found(same, teacher, 2.0)
    (slope,) = torch.autograd.grad(at.sum(), same)
    torch.testing.assert_close(at, torch.zeros(C).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(slope, torch.zeros(C, V).double(), atol=1e-7, rtol=0)


@settings(max_examples=20)
@given(T=temperatures, seed=st.integers(0, 99), k=st.sampled_from([None, 2, V - 1]))
def test_the_closed_form_of_reverse_kl_is_autograds(T: float, seed: int, k: int | None) -> None:
    student, logits = (2 * draw(C, V, seed=s) for s in (seed, seed + 100))
    teacher = logits if k is None else MostLikely.of(logits, k)
    weight = draw(C, seed=3).abs()

    def way(divergence: Divergence) -> tuple[Tensor, Tensor]:
        given = teacher.clone() if isinstance(teacher, Tensor) else teacher
        return gradient(student.clone(), given, weight, T, divergence)

    torch.testing.assert_close(way(reverse), way(plain_reverse))


def test_limits_of_the_families_are_forward_and_reverse_kl() -> None:
    student, teacher, T, near = draw(C, V, seed=1), draw(C, V, seed=2), 2.0, 1e-6
    limits = [
        (named("jsd", beta=near, unit=True), forward),
        (named("jsd", beta=1 - near, unit=True), reverse),
        (named("skew_forward", skew=near), forward),
        (named("skew_reverse", skew=near), reverse),
    ]
    for found, limit in limits:
        torch.testing.assert_close(
            found(student, teacher, T), limit(student, teacher, T), rtol=1e-4, atol=1e-5
        )
    raw = named("jsd", beta=near, unit=False)(student, teacher, T)
    assert float(raw.max()) < 1e-5  # GKD's code vanishes towards its ends, and jumps at them


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("T", [1.0, 2.0])
def test_the_raw_divergence_without_t_squared_is_the_loss_of_trl(beta: float, T: float) -> None:
    """`generalized_jsd_loss` of TRL's GKDTrainer, written out."""
    student, teacher = draw(C, V, seed=1), draw(C, V, seed=2)
    log_q, log_p = (student / T).log_softmax(-1), (teacher / T).log_softmax(-1)

    def kl_div(of: Tensor, against: Tensor) -> Tensor:
        return torch.nn.functional.kl_div(of, against, reduction="none", log_target=True)

    if beta == 0:
        wanted = kl_div(log_q, log_p)
    elif beta == 1:
        wanted = kl_div(log_p, log_q)
    else:
        mixture = torch.stack([log_q + math.log1p(-beta), log_p + math.log(beta)]).logsumexp(0)
        wanted = beta * kl_div(mixture, log_p) + (1 - beta) * kl_div(mixture, log_q)
    ends = {0.0: forward, 1.0: reverse}
    found = ends.get(beta) or named("jsd", beta=beta, unit=False)
    torch.testing.assert_close(found(student, teacher, T) / T**2, wanted.sum(-1))


def test_an_unscaled_loss_has_no_squared_temperature() -> None:
    positions, knowledge = batch()
    taught = replace(positions, share=(positions.teacher != NO_TEACHER).double())
    hidden, head = draw(12, WIDTH, seed=0), OutputLayer(draw(V, WIDTH, seed=1))
    rows = torch.tensor([1.0, 0.0, 1.0]).double()  # none without a teacher
    usual, unscaled = (
        SoftTargets(3.0, unscaled=flag).loss(hidden, head, knowledge, taught, rows).total
        for flag in (None, True)
    )
    torch.testing.assert_close(unscaled, usual / 9)


def test_every_built_in_has_a_formula() -> None:
    assert list(FORMULAS) == list(DIVERGENCES)


# In a study


SKEWED = {"kd.divergence": EXAMPLE}


def students(tiny: Any, arms: dict[str, dict[str, Any]]) -> dict[str, Learn]:
    """L2KD's student of each arm after the first task of its first order."""
    methods = [{"name": n, "method": "l2kd", "settings": own} for n, own in arms.items()]
    study = tiny(methods=methods, kd={"teacher": "cached"})
    firsts = {name: study.trial(name, {}, study.orders[0], "531") for name in arms}
    return {name: trial.steps[1][0].stage.model for name, trial in firsts.items()}


def test_a_divergence_and_its_options_are_part_of_the_key(tiny: Any) -> None:
    made = students(
        tiny,
        {
            "usual": {},
            "forward": {"kd.divergence": "forward"},
            "skewed": SKEWED,
            "tenth": {**SKEWED, "skew_kl.alpha": 0.1},
            "more": {**SKEWED, "skew_kl.alpha": 0.4},
        },
    )
    assert made["usual"].key == made["forward"].key
    assert made["skewed"].key == made["tenth"].key
    assert len({student.key for student in made.values()}) == 3
    objective = made["skewed"].objective
    assert objective.loaded_divergence is objective.loaded_divergence  # loaded once


def test_limits_and_what_has_no_effect_share_one_key(tiny: Any) -> None:
    made = students(
        tiny,
        {
            "forward": {},
            "jsd-0": {"kd.divergence": "jsd", "kd.beta": 0.0},
            "skew-0": {"kd.divergence": "skew_forward", "kd.skew": 0.0},
            "reverse": {"kd.divergence": "reverse"},
            "jsd-1": {"kd.divergence": "jsd", "kd.beta": 1.0, "kd.jsd_scale": "raw"},
            "skewed-reverse-0": {"kd.divergence": "skew_reverse", "kd.skew": 0.0},
            "at-1": {"kd.temperature": 1.0},
            "at-1-unscaled": {"kd.temperature": 1.0, "kd.scale": "none"},
            "unscaled": {"kd.scale": "none"},
            "jsd": {"kd.divergence": "jsd"},
            "raw": {"kd.divergence": "jsd", "kd.jsd_scale": "raw"},
            "skewed": {"kd.divergence": "skew_forward"},
            "tvd": {"kd.divergence": "tvd"},
        },
    )
    alike = [
        ["forward", "jsd-0", "skew-0"],
        ["reverse", "jsd-1", "skewed-reverse-0"],
        ["at-1", "at-1-unscaled"],
        *([name] for name in ("unscaled", "jsd", "raw", "skewed", "tvd")),
    ]
    keys = [{made[name].key for name in group} for group in alike]
    assert [len(group) for group in keys] == [1] * len(alike)
    assert len(set.union(*keys)) == len(alike)


@pytest.mark.parametrize(
    ("kd", "key"),
    [
        ({"beta": 0.3}, "kd.beta"),
        ({"skew": 0.3}, "kd.skew"),
        ({"jsd_scale": "raw"}, "kd.jsd_scale"),
        ({"divergence": "jsd", "skew": 0.3}, "kd.skew"),
        ({"divergence": "skew_reverse", "beta": 0.3}, "kd.beta"),
        ({"divergence": EXAMPLE, "scale": "none"}, "kd.scale"),
    ],
)
def test_what_a_divergence_does_not_read_is_refused(
    tiny: Any, kd: dict[str, Any], key: str
) -> None:
    with pytest.raises(InputError, match="it has no effect") as caught:
        tiny(methods=["l2kd"], kd=kd)
    assert caught.value.key == key


def test_a_search_may_choose_it(tiny: Any) -> None:
    grid = {"kd.divergence": {"grid": ["forward", EXAMPLE]}, "skew_kl.alpha": {"grid": [0.1, 0.2]}}
    study = tiny(methods=["l2kd"], search=grid)
    keys = {t.steps[1][0].stage.model.key for t in study.trials() if t.method == "l2kd"}
    assert len(keys) == 3 * len(study.tasks)  # forward does not read alpha


@pytest.mark.parametrize(
    ("kd", "message"),
    [
        ({"divergence": "sideways"}, "there is no such divergence"),
        ({"divergence": EXAMPLE, "objective": "seq"}, "it has no effect"),
        ({"divergence": "./nowhere.py:mine"}, "cannot be imported"),
    ],
)
def test_what_is_unknown_or_has_no_effect_is_refused(
    tiny: Any, kd: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tiny(methods=["l2kd"], kd=kd)


def test_the_examples_value_is_that_of_its_formula() -> None:
    student, teacher, T, alpha = 3 * draw(C, V, seed=1), 3 * draw(C, V, seed=2), 2.0, 0.3
    wanted = []
    for z, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(x / T) for x in row] for row in (t, z))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        pairs = zip(p, q, strict=True)
        wanted.append(T**2 * sum(a * math.log(a / (alpha * a + (1 - alpha) * b)) for a, b in pairs))
    single = skew_kl(alpha)(student.float(), teacher.float(), T)
    torch.testing.assert_close(skew_kl(alpha)(student, teacher, T), torch.tensor(wanted).double())
    torch.testing.assert_close(single, torch.tensor(wanted), rtol=1e-5, atol=1e-6)
    nearly = skew_kl(1e-9)(student, teacher, T)
    torch.testing.assert_close(nearly, forward(student, teacher, T), rtol=1e-6, atol=1e-6)


def test_a_student_learns_by_the_example(tiny: Any, store: Store) -> None:
    """From a live teacher, or from the most likely tokens of a cached one."""
    arms = {"usual": {}, "live": {"kd.teacher": "online"}, "kept": {"kd.top_k": 300}}
    made = students(
        tiny, {name: own if name == "usual" else own | SKEWED for name, own in arms.items()}
    )
    assert isinstance(made["kept"].teacher, Annotate)
    scores = {name: obtain(student, store) for name, student in made.items()}
    assert scores["live"]["loss"] < scores["usual"]["loss"]  # skew KL is at most (1 - alpha) KL
    assert scores["kept"]["top_k/cosine"] > 0.9
    folder = store.fetch("learn", made["live"].key)
    losses = [row["loss"] for row in json.loads((folder / CURVE).read_text())]
    assert losses[-1] < losses[0]
