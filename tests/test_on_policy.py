"""Students that are taught on answers that they write, and students that teach themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.language import FORMAT, NEW, Dummy, context, curriculum, make_model, stopped
from helpers.studies import TINY, planned
from helpers.weights import weights
from torch import Tensor

from l2kd_ray import load_study
from l2kd_ray.core.execute import obtain
from l2kd_ray.core.loop import accumulate, fit
from l2kd_ray.core.stage import CURVE
from l2kd_ray.core.store import Store
from l2kd_ray.distill.divergences import DIVERGENCES
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.model.generation import generate, greedy
from l2kd_ray.families.language.model.sequences import Sample
from l2kd_ray.families.language.stages import writing
from l2kd_ray.families.language.stages.curriculum import (
    Batch,
    Curriculum,
    SampleSource,
    written_sequence,
)
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.language.stages.on_policy import Demonstration, Sampling
from l2kd_ray.families.language.stages.teachers import Following, Itself, Live
from l2kd_ray.families.language.stages.writing import Writer

GREEDY = Sampling(share=1.0, max_new_tokens=5, temperature=None, top_k=1, renew_every=1)
DRAWN = replace(GREEDY, temperature=1.0, top_k=None)
SURE = {f"{name}_pdrop": 0.0 for name in ("attn", "embd", "resid")}


# Writing


def writer(how: Sampling, tmp_path: Path, seed: int = 1, room: int = 50) -> Writer:
    return Writer(how, make_model(), FORMAT, (seed, "a"), context(tmp_path), room)


def questions(step: int = 0, samples: list[Sample] = NEW) -> list[tuple[int, int, Sample]]:
    return [(step, index, sample) for index, sample in enumerate(samples)]


def written(one: Writer, step: int = 0) -> list[list[int] | None]:
    return [one.answer(step, index) for index in range(len(NEW))]


def test_a_student_writes_what_it_would_decode(tmp_path: Path) -> None:
    one = writer(GREEDY, tmp_path)
    one.write(questions())
    prompts = [[*sample.question, FORMAT.answer] for sample in NEW]
    wanted = generate(make_model(), prompts, greedy, max_new_tokens=5, eos=FORMAT.eos)
    assert written(one) == wanted
    assert one.sampled == sum(map(len, wanted))
    assert one._model.training  # it goes on to learn


def test_an_answer_depends_on_seed_and_step_and_not_on_the_samples_beside_it(
    tmp_path: Path,
) -> None:
    def drawn(step: int = 0, seed: int = 1, first: int = 0) -> list[Any]:
        one = writer(DRAWN, tmp_path, seed)
        one.write(questions(step)[first:])
        return written(one, step)[first:]

    whole = drawn()
    assert drawn() == whole
    assert drawn(first=4) == whole[4:]
    assert drawn(step=1) != whole
    assert drawn(seed=2) != whole


def test_a_share_of_the_samples_has_an_answer_by_the_student(tmp_path: Path) -> None:
    one = writer(replace(DRAWN, share=0.3), tmp_path)
    one.write(question for step in range(100) for question in questions(step))
    found = [answer is not None for step in range(100) for answer in written(one, step)]
    assert sum(found) / len(found) == pytest.approx(0.3, abs=0.05)


def test_an_adaptive_share_grows_where_the_loss_on_dev_has_risen(tmp_path: Path) -> None:
    """DistiLLM's threshold: by 0.1 after a rise of 0.1 from one epoch's start to the next's."""
    model = make_model()
    one = Writer(replace(DRAWN, share=None), model, FORMAT, (1, "a"), context(tmp_path), 50, NEW)
    losses = []
    for sample in NEW:
        sequence = FORMAT.qa(sample)
        tokens, first = torch.tensor([sequence.tokens]), sequence.supervised
        log_p = model.eval().lm(input_ids=tokens).logits[0].detach().log_softmax(-1)
        losses += [-float(log_p[n - 1, sequence.tokens[n]]) for n in range(first, tokens.shape[1])]
    one.observe()
    assert (one.share, one._model.training) == (0.0, True)
    assert one._dev_loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    shares = []
    for factor in (100.0, 1.0, 100.0):  # surer of what is wrong, the same, surer still
        with torch.no_grad():
            model.head.weight.mul_(factor)
        one.observe()
        shares.append(one.share)
    assert shares == [0.1, 0.1, 0.2]
    other = Writer(replace(DRAWN, share=None), model, FORMAT, (1, "a"), context(tmp_path), 50, NEW)
    other.load(one.state())
    assert (other.share, other._dev_loss) == (one.share, one._dev_loss)
    one._growths = 10
    one._dev_loss = 0.0
    one.observe()
    assert one.share == 1


def test_an_answer_that_did_not_end_has_no_eos_and_keeps_to_its_room(tmp_path: Path) -> None:
    sample = NEW[0]
    whole = written_sequence(FORMAT, sample, "qa", [30, FORMAT.eos])
    assert whole == FORMAT.qa(replace(sample, answer=[30]))
    cut = written_sequence(FORMAT, sample, "lm", [30, 31])
    assert cut.tokens == FORMAT.lm(replace(sample, answer=[30, 31])).tokens[:-1]
    one = writer(DRAWN, tmp_path, room=len(sample.question) + 2)
    one.write(questions(samples=[sample]))
    assert len(one.answer(0, 0) or []) <= 2


def test_what_was_written_is_kept(tmp_path: Path) -> None:
    for how in (DRAWN, replace(DRAWN, share=1e-9)):  # the latter writes nothing
        one, other = writer(how, tmp_path), writer(how, tmp_path)
        one.write([*questions(), *questions(1)])
        other.load(one.state())
        assert [written(other, step) for step in (0, 1)] == [written(one, step) for step in (0, 1)]
        assert other.sampled == one.sampled


# The lessons


def lessons(tmp_path: Path, how: Sampling, teacher: Any, model: Any, **more: Any) -> Curriculum:
    source = SampleSource(NEW, teacher=teacher, share=1.0, own=True, **more)
    own = Writer(how, model, FORMAT, (1, "a"), context(tmp_path), 50)
    return curriculum(new=(source,), replayed=[], writer=own, parts=("qa",))


@pytest.mark.parametrize("name", ["forward", "reverse", "tvd"])
def test_the_loss_is_the_divergence_at_the_tokens_that_the_student_wrote(
    tmp_path: Path, name: str
) -> None:
    """GKD with lambda 1, from its definition."""
    torch.manual_seed(5)
    student, teacher = make_model().eval(), make_model()
    for value in teacher.parameters():
        value.data += 0.3 * torch.randn_like(value)
    chosen = lessons(tmp_path, GREEDY, Live(teacher), student)
    chosen = replace(chosen, objective=SoftTargets(2.0, divergence=name))
    rows = chosen.rows(Batch(0, [0, 3, 5]))
    student.eval()
    found, *_ = accumulate(student, rows, chosen, context(tmp_path))
    losses: list[Tensor] = []
    for sample in (NEW[0], NEW[3], NEW[5]):
        prompt = [*sample.question, FORMAT.answer]
        (answer,) = generate(student, [prompt], greedy, max_new_tokens=5, eos=FORMAT.eos)
        tokens = torch.tensor([[*prompt, *answer]])
        places = slice(len(prompt) - 1, tokens.shape[1] - 1)
        z_s, z_t = (m.lm(input_ids=tokens).logits[0, places] for m in (student, teacher))
        losses += DIVERGENCES[name](z_s, z_t, 2.0)
    torch.testing.assert_close(found, torch.stack(losses).mean().detach(), rtol=1e-4, atol=1e-6)


def test_answers_of_several_steps_are_written_at_once(tmp_path: Path) -> None:
    student = make_model()
    chosen = lessons(tmp_path, replace(DRAWN, renew_every=3), Live(make_model()), student)
    batches = [batch for batch, _ in zip(chosen.batches(0), range(4), strict=False)]
    first = chosen.rows(batches[0])
    assert chosen.writer is not None
    sampled = chosen.writer.sampled
    with torch.no_grad():
        for value in student.parameters():
            value.zero_()
    for batch in batches[1:3]:
        chosen.rows(batch)
    assert chosen.writer.sampled == sampled  # of the student as it was
    chosen.rows(batches[3])
    assert chosen.writer.sampled > sampled
    again = lessons(tmp_path, DRAWN, Live(make_model()), make_model())
    assert again.rows(batches[0]) == first  # whatever is written beside it


# The student as its teacher


def test_a_demonstration_stands_before_the_answer_token() -> None:
    sequence, answer = FORMAT.qa(NEW[0]), [70, 71, 72]
    end = sequence.supervised - 1
    shown = Demonstration([90], [91, 92], 64).shown(sequence, answer)
    inserted = [90, 70, 71, 72, 91, 92]
    assert shown.tokens == [*sequence.tokens[:end], *inserted, *sequence.tokens[end:]]
    assert shown.tokens[shown.supervised :] == sequence.tokens[sequence.supervised :]
    room = len(sequence.tokens) + 4
    tight = Demonstration([90], [91, 92], room).shown(sequence, answer)
    assert tight.tokens[end : end + 4] == [90, 70, 91, 92]
    assert len(tight.tokens) == room
    assert Demonstration([90], [91, 92], room - 2).shown(sequence, answer) == sequence


def test_a_teacher_reads_the_demonstration_and_the_student_does_not(tmp_path: Path) -> None:
    shows = Demonstration([90], [91], 64)
    student = make_model().eval()
    chosen = lessons(tmp_path, GREEDY, Itself(student), student, demonstration=shows, skip=1)
    rows = chosen.rows(Batch(0, [0, 1]))
    for row in rows:
        assert row.shown is not None
        learned = row.sequence.tokens[row.sequence.supervised :]
        assert row.shown.tokens[row.shown.supervised :] == learned
        assert 90 in row.shown.tokens
        assert 90 not in row.sequence.tokens
        assert len(learned) == len(chosen.writer.answer(0, row.index) or ()) - 1  # type: ignore[union-attr]
    (teacher,) = chosen.teachers
    known = teacher.annotate(rows, "cpu")
    plain = teacher.annotate([replace(row, shown=None) for row in rows], "cpu")
    assert known.hidden.shape == plain.hidden.shape  # type: ignore[union-attr]
    assert not torch.equal(known.hidden, plain.hidden)  # type: ignore[union-attr]


def test_an_average_follows_by_its_rate_and_is_kept() -> None:
    student = make_model()
    one = Following(student, 0.25)
    one.to("cpu")
    before = [value.clone() for value in student.parameters()]
    with torch.no_grad():
        for value in student.parameters():
            value.add_(1.0)
    one.follow()
    for value, old in zip(one.model.parameters(), before, strict=True):
        torch.testing.assert_close(value, old + 0.25)
    other = Following(make_model(), 0.25)
    other.to("cpu")
    other.load(one.state())
    for value, same in zip(other.model.parameters(), one.model.parameters(), strict=True):
        assert torch.equal(value, same)


# In a study


def students(method: str, kd: Mapping[str, Any], **changes: Any) -> list[Learn]:
    """The students of a method after each task of its first order."""
    settings = {f"kd.{name}": value for name, value in kd.items()}
    arms = [{"name": "one", "method": method, "settings": settings}]
    study = planned(methods=arms, **changes)
    trial = next(trial for trial in study.trials() if trial.method == "one")
    return [step[0].stage.model for step in trial.steps[1:]]


def losses_of(student: Learn, store: Store) -> list[float]:
    obtain(student, store)
    curve = json.loads((store.fetch(student.kind, student.key) / CURVE).read_text())
    return [row["loss"] for row in curve]


def sampling(**changes: Any) -> dict[str, Any]:
    usual = {"sampling.max_new_tokens": 4, "demonstration": "as {answer} :"}
    return {**usual, **changes}


CUT = {
    "follower": ("sdft", {"self_teacher": "ema", "ema_rate": 0.5, "sampling.renew_every": 3}),
    "mix": ("l2kd", {"policy": "mix", "sampling.renew_every": 2}),
    "base": ("sdft", {"skip_tokens": 1}),
    "adaptive": ("l2kd", {"policy": "mix", "student_share": "adaptive"}),
}


@pytest.mark.parametrize("name", CUT)
def test_a_student_that_was_killed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What it wrote ahead and the average of its weights are in its checkpoint."""
    monkeypatch.setattr(writing, "RISE", -100.0)  # an adaptive share grows after each epoch,
    monkeypatch.setattr(writing, "GROWTHS", 1)  # to 1
    method, kd = CUT[name]
    own = sampling(**kd)
    if method == "l2kd":
        del own["demonstration"]
    last = students(method, own)[-1]
    one, other = Store(str(tmp_path / "one")), Store(str(tmp_path / "other"))
    whole = weights(last, one)
    for _, source in last.inputs():
        obtain(source, other)
    with stopped(monkeypatch, after=3 if name == "adaptive" else 2):
        obtain(last, other, checkpoint_seconds=0.0)
    resumed = weights(last, other)
    for tensor, value in whole.items():
        assert torch.equal(value, resumed[tensor])
    scores = [store.manifest(last.kind, last.key).scores for store in (one, other)]  # type: ignore[union-attr]
    assert scores[0]["sampled"] == scores[1]["sampled"] > 0
    assert scores[0] == scores[1]


def test_its_own_teacher_has_nothing_to_say_without_a_demonstration(store: Store) -> None:
    """A live teacher that is shown nothing agrees everywhere, and the student stays as it is."""
    sure = {"student": {"arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, **SURE}}
    kd = {"self_teacher": "live", "sampling.max_new_tokens": 4}
    silent, shown = (
        students("sdft", {**kd, "demonstration": template}, **sure)[0]
        for template in (None, "as {answer} :")
    )
    assert losses_of(silent, store) == pytest.approx([0.0] * 4, abs=1e-6)
    assert min(losses_of(shown, store)) > 1e-4


@pytest.mark.parametrize("weights", ["base", "ema", "live"])
def test_low_rank_updates_have_their_own_teacher(store: Store, weights: str) -> None:
    own = sampling(self_teacher=weights)
    train = {**TINY["train"], "lora": {"r": 2}}
    assert len(losses_of(students("sdft", own, train=train)[0], store)) == 4


def test_demonstrations_that_are_cut_are_counted(store: Store) -> None:
    """Of 96 tokens that the student reads."""
    found = []
    for words in ("as {answer} :", "so " * 200 + "{answer}"):
        student = students("sdft", sampling(demonstration=words))[0]
        found.append(obtain(student, store)["demonstration/cut"])
    assert found == [0.0, 100.0]


def test_a_share_of_nothing_is_the_data(store: Store) -> None:
    """Bit for bit, at w = 1 and, but for rounding, where labels are learned beside."""
    for weight, tolerance in ((1.0, 0.0), (0.5, 1e-4)):
        usual, mixed = (
            losses_of(
                students(
                    "l2kd",
                    {"weight": weight, **own},
                    student={"arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, **SURE},
                )[0],
                store,
            )
            for own in ({"teacher": "online"}, {"policy": "mix", "student_share": 1e-12})
        )
        assert usual == pytest.approx(mixed, rel=tolerance, abs=0)


def test_sdft_without_a_teacher_is_plain_fine_tuning_on_the_same_text() -> None:
    assert students("sdft", {"weight": 0.0}) == students("finetune", {})
    assert students("sdft", {}) != students("finetune", {})


def test_the_student_may_teach_itself_beside_replay(store: Store) -> None:
    """L2KD's stream with the student for a teacher: LM rows are learned from the data."""
    last = students("l2kd", sampling(teachers="self", policy="student", weight=0.5))[-1]
    assert last.teacher is None
    assert last.replay is not None
    assert len(losses_of(last, store)) > 0


@pytest.mark.parametrize(
    ("method", "kd", "key", "message"),
    [
        ("l2kd", {"policy": "student", "teacher": "cached"}, "teacher", "no cached teacher"),
        ("l2kd", {"policy": "mix", "top_k": 4}, "top_k", "no cached teacher"),
        ("l2kd", {"policy": "mix", "objective": "seq"}, "objective", "take the place"),
        ("l2kd", {"policy": "student", "objective": "seq-soft"}, "objective", "take the place"),
        ("l2kd", {"student_share": 0.3}, "student_share", "no effect"),
        ("l2kd", {"student_share": "adaptive"}, "student_share", "no effect"),
        ("l2kd", {"sampling.renew_every": 3}, "sampling.renew_every", "no effect"),
        ("l2kd", {"self_teacher": "ema"}, "self_teacher", "no effect"),
        ("l2kd", {"teachers": "self", "objective": "seq"}, "objective", "no effect"),
        ("l2kd", {"teachers": "self", "teacher": "cached"}, "teacher", "no effect"),
        ("sdft", {"teachers": "new"}, "teachers", "no effect"),
        ("sdft", {"policy": "student"}, "policy", "no effect"),
        ("sdft", {"ema_rate": 0.3}, "ema_rate", "no effect"),
        ("sdft", {"demonstration": "look"}, "demonstration", "shows the given answer once"),
    ],
)
def test_what_cannot_be_or_has_no_effect_is_refused(
    tiny: Any, method: str, kd: dict[str, Any], key: str, message: str
) -> None:
    arms = [{"name": "x", "method": method, "settings": {f"kd.{n}": v for n, v in kd.items()}}]
    with pytest.raises(InputError, match=message) as caught:
        tiny(methods=arms, replay=None)
    assert caught.value.key.endswith(key)


@pytest.mark.parametrize(
    ("method", "kd"),
    [
        ("l2kd", {"policy": "student"}),
        ("l2kd", {"policy": "mix"}),
        ("l2kd", {"teachers": "self", "self_teacher": "ema"}),
        ("l2kd", {"teachers": "self", "self_teacher": "live"}),
        ("sdft", {}),
    ],
)
def test_a_student_that_is_shared_out_neither_writes_nor_is_followed(
    study_file: Any, method: str, kd: dict[str, Any]
) -> None:
    """Refused when the study is planned, before anything starts."""
    arms = [{"name": "x", "method": method, "settings": {f"kd.{n}": v for n, v in kd.items()}}]
    two = {"train": {**TINY["train"], "shard": "fsdp2"}, "scale": {"workers": 2}}
    with pytest.raises(InputError, match="shared out") as caught:
        load_study(study_file(methods=arms, replay=None, **two))
    assert caught.value.key.endswith("train.shard")
    own = [{"name": "x", "method": "l2kd", "settings": {"kd.teachers": "self"}}]
    load_study(study_file(methods=own, **two))  # a frozen teacher on the given answers


def test_a_greedy_student_draws_nothing() -> None:
    own = {"sampling.top_k": 1}
    one, other = (
        students("sdft", {**own, **more})[0] for more in ({}, {"sampling.temperature": 0.5})
    )
    assert one.key == other.key
    assert one.sampling is not None
    assert one.sampling.temperature is None


def test_the_loop_keeps_what_lessons_remember(tmp_path: Path) -> None:
    student = make_model()
    follower = Following(student, 0.5)
    chosen = lessons(tmp_path, DRAWN, follower, student)
    assert chosen.stateful == [chosen.writer, follower]
    fit(Dummy(), student, chosen, context(tmp_path), stateful=chosen.stateful)
    assert chosen.writer is not None
    assert chosen.writer.sampled > 0


@pytest.mark.drill
@pytest.mark.parametrize("name", ["divergences", "divergences_confirm"])
def test_the_study_of_divergences_runs_and_counts_what_students_wrote(
    tmp_path: Path, name: str
) -> None:
    """The shipped studies, on two generated tasks and a tiny student."""
    overrides = {
        "tasks": ["gen.rest", "gen.intent"],
        "orders": [["gen.rest", "gen.intent"]],
        "seeds": [1],
        "student": {**TINY["student"], **SURE},
        "train.epochs": 1,
        "train.max_length": None,
        "max_train": 8,
        "max_dev": 4,
        "max_test": 4,
        "kd.sampling.max_new_tokens": 4,
        "evaluate.max_new_tokens": 4,
        "storage": str(tmp_path),
        "wandb": {"mode": "disabled"},
    }
    if name == "divergences":
        grids = {"kd.divergence": ["forward", "reverse"], "kd.policy": ["data", "mix"]}
        overrides["search"] = {key: {"grid": values} for key, values in grids.items()}
    shipped = Path(__file__).parents[1] / "tune_configs" / f"{name}.yaml"
    study = load_study(shipped, overrides)
    assert study.sweep("inline").failures == []
    written = {Path(path).name: Path(path) for path in study.report()}
    page = written["report.md"].read_text()
    who = "l2kd" if name == "divergences" else "l2kd-reverse"
    assert f"reverse ({who}): KL(q || p)" in page.replace("\\", "")
    costs = [line for line in page.splitlines() if line.startswith("| Method | Gap | Steps")]
    assert any("Sampled" in line for line in costs)
