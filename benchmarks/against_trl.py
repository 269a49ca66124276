"""A distillation step against TRL's trainers: the same models, batch and tokens.

    pip install trl && python benchmarks/against_trl.py [--models small gpt2] [--times 5] [--own]
        [--device cuda]

All learn the answers of one batch (QA rows, no sampling by the student) from the same live teacher,
forward KL at T = 1 over the whole vocabulary, AdamW, clipping at 1, one thread. `GKDTrainer`
(lmbda 0, beta 0) makes the logits of all positions of both models. `DistillationTrainer`
(beta 0) makes them chunk by chunk; it would have the student write the completions, and is given
the batch's here. A TRL step is one of `Trainer.train()`, data loading and its callbacks
included. The first losses are compared: they are of the same work (to 1e-3, because
`DistillationTrainer` pads on the left and GPT-2's positions move with it).

With `--own` the student writes the answers (GKD with lmbda 1; `kd.policy: student`): `NEW` tokens
each, drawn from the whole vocabulary, within the step that is timed. And the losses of TRL's
`generalized_jsd_loss` at several beta are compared with `kd.divergence` on one batch.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from threading import Semaphore, Thread
from typing import Any

from step import (
    BATCH,
    CONTEXT,
    SIZES,
    VOCABULARY,
    Prepared,
    compare,
    counted,
    model,
    our_step,
    sequences,
)
from table import save

TRAINERS = ("TRL GKDTrainer", "TRL DistillationTrainer")
NEW = 32
TOLERANCE = {"": 1e-3, ", bf16": 2e-2}


def step_of(size: str, lm: bool, variant: str, device: str = "cpu") -> Prepared:
    """The step of ours or of a trainer of TRL's; its first loss is checked against ours."""
    qa, _ = sequences(seed=0)
    half = ", bf16" if "bf16" in variant else ""
    wanted = our_step(*_models(size, device), qa, [], half, temperature=1.0, device=device)()
    student, teacher = _models(size, device)
    if variant.startswith("TRL"):
        step = trl_step(student.lm, teacher.lm, qa, variant, device)
    else:
        step = our_step(student, teacher, qa, [], variant, temperature=1.0, device=device)
    loss = step()
    if abs(loss - wanted) > TOLERANCE[half] * wanted:
        raise SystemExit(f"{variant}: the first loss is {loss}, ours {wanted}")
    ours = variant.startswith("ours")
    return step, sum(len(s.tokens) for s in qa), lambda: counted(step) if ours else 0.0


def _models(size: str, device: str) -> tuple[Any, Any]:
    """A student and its teacher."""
    return model(size, 0).to(device), model(size, 1).to(device)


def own_step_of(size: str, lm: bool, variant: str, device: str = "cpu") -> Prepared:
    """A step in which the student writes the answers first; both write as many tokens."""
    qa, _ = sequences(seed=0)
    student, teacher = _models(size, device)
    tokens = sum(s.supervised + NEW for s in qa)
    if variant.startswith("TRL"):
        return trl_step(student.lm, teacher.lm, qa, variant, device), tokens, lambda: 0.0
    return own_step(student, teacher, qa, device), tokens, lambda: 0.0


def own_step(student: Any, teacher: Any, qa: Any, device: str) -> Callable[[], float]:
    """Our step on the student's own answers, as the stages take it."""
    from pathlib import Path

    from torch import nn

    from l2kd_ray.core import loop
    from l2kd_ray.core.stage import Context, Optimisation
    from l2kd_ray.core.store import Store
    from l2kd_ray.distill.objectives import SoftTargets
    from l2kd_ray.families.language.model.sequences import Sample, TrainingSequence
    from l2kd_ray.families.language.stages.curriculum import Batch, Curriculum, SampleSource
    from l2kd_ray.families.language.stages.on_policy import Sampling
    from l2kd_ray.families.language.stages.teachers import Live
    from l2kd_ray.families.language.stages.writing import Writer

    class Format:
        answer, eos = -1, VOCABULARY - 1

        def qa(self, sample: Sample) -> TrainingSequence:
            tokens = [*sample.question, *sample.answer, self.eos]
            return TrainingSequence(tokens, len(sample.question))

    student.train()
    text: Any = Format()
    how = Optimisation(epochs=9, batch_size=BATCH, lr=1e-4, adam_eps=1e-4)
    context = Context(Store("memory://bench"), Path(), device=device)
    sampling = Sampling(share=1.0, max_new_tokens=NEW, temperature=1.0, top_k=None, renew_every=1)
    samples = [Sample("", row.tokens[: row.supervised], []) for row in qa]
    curriculum = Curriculum(
        (SampleSource(samples, teacher=Live(teacher), share=1.0, own=True),),
        SampleSource([]),
        separate=False,
        format=text,
        optimisation=how,
        seed=0,
        stream="",
        objective=SoftTargets(1.0),
        parts=("qa",),
        writer=Writer(sampling, student, text, (0, ""), context, CONTEXT),
    )
    optimizer = loop._optimizer(student, how)
    steps = count()

    def step() -> float:
        rows = curriculum.rows(Batch(next(steps), range(len(samples))))
        optimizer.zero_grad()
        loss, *_ = loop.accumulate(student, rows, curriculum, context)
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        return float(loss)

    return step


def compare_losses() -> None:
    """Raise SystemExit where a loss of TRL's differs from ours on one batch of logits."""
    import torch
    from trl.experimental.gkd import GKDTrainer

    from l2kd_ray.distill.divergences import DIVERGENCES

    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 64, 5000)
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        for temperature in (1.0, 2.0):
            theirs = GKDTrainer.generalized_jsd_loss(
                student[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
            )
            name = {0.0: "forward", 1.0: "reverse"}.get(beta, "jsd")
            given = {"beta": beta, "unit": False} if name == "jsd" else {}
            ours = DIVERGENCES[name](student, teacher, temperature, **given) / temperature**2
            error = abs(float(ours.sum() / theirs) - 1)
            print(f"beta {beta}, T {temperature}: {float(theirs):.5f}, relative error {error:.1e}")
            if error > 1e-5:
                raise SystemExit(f"{name} at beta {beta} is not TRL's loss")


def trl_step(student: Any, teacher: Any, qa: Any, variant: str, device: str) -> Callable[[], float]:
    """One step of a trainer's `train()` a call; returns its loss."""
    import torch
    from transformers import PrinterCallback, TrainerCallback

    asked, done, losses = Semaphore(0), Semaphore(0), list[float]()

    class OneStep(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])
            done.release()
            asked.acquire()

    settings = {**SETTINGS, "bf16": "bf16" in variant, "use_cpu": device == "cpu"}
    if "GKD" in variant:
        trainer = _gkd(student, teacher, qa, settings, own="own" in variant)
    else:
        trainer = _distillation(student, teacher, qa, settings)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(OneStep())

    def train() -> None:
        torch.set_num_threads(1)
        asked.acquire()
        trainer.train()

    Thread(target=train, daemon=True).start()

    def step() -> float:
        asked.release()
        done.acquire()
        return losses[-1]

    return step


SETTINGS: Mapping[str, Any] = {
    "output_dir": tempfile.mkdtemp(),
    "per_device_train_batch_size": BATCH,
    "max_steps": 10_000,
    "beta": 0.0,
    "temperature": 1.0,
    "learning_rate": 1e-4,
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "disable_dropout": False,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def _gkd(student: Any, teacher: Any, qa: Any, settings: Mapping[str, Any], own: bool) -> Any:
    import torch
    from datasets import Dataset
    from torch.nn.utils.rnn import pad_sequence
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collate(rows: Any) -> dict[str, Any]:
        tokens = [torch.tensor(qa[row["row"]].tokens) for row in rows]
        labels = [t.clone() for t in tokens]
        for label, row in zip(labels, rows, strict=True):
            label[: qa[row["row"]].supervised] = -100
        prompts = [torch.tensor(qa[row["row"]].tokens[: qa[row["row"]].supervised]) for row in rows]
        ones = [torch.ones_like(prompt) for prompt in prompts]
        left: Any = {"batch_first": True, "padding_side": "left"}
        return {
            "prompts": pad_sequence(prompts, **left),
            "prompt_attention_mask": pad_sequence(ones, **left),
            "input_ids": pad_sequence(tokens, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        }

    return GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=GKDConfig(lmbda=float(own), max_new_tokens=NEW, **settings),
        data_collator=collate,
        train_dataset=Dataset.from_list([{"row": row} for row in range(len(qa))]),
        processing_class=_tokenizer(),
    )


def _distillation(student: Any, teacher: Any, qa: Any, settings: Mapping[str, Any]) -> Any:
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    class Given(DistillationTrainer):  # type: ignore[misc]
        """The completions are those of the batch."""

        def _generate(self, prompts: list[str]) -> Any:
            rows = [qa[int(prompt)] for prompt in prompts]
            starts = [row.tokens[: row.supervised] for row in rows]
            return starts, [row.tokens[row.supervised :] for row in rows], None, None, None

    return Given(
        model=student,
        teacher_model=teacher,
        args=DistillationConfig(**settings),
        train_dataset=Dataset.from_list([{"prompt": str(row)} for row in range(len(qa))]),
        processing_class=_tokenizer(),
    )


def _tokenizer() -> Any:
    """The trainers ask for one; the batch is of tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["small", "gpt2"], choices=list(SIZES))
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--own", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    chosen = parser.parse_args()
    device = chosen.device
    suffix = "" if device == "cpu" else f"_{device}"

    def rows_of(size: str, names: Sequence[str], prepare: Any) -> Iterator[dict[str, Any]]:
        how = partial(prepare, device=device)
        yield from compare(names, size, False, chosen.times, how, device)

    if chosen.own:
        compare_losses()
        own = ("TRL GKDTrainer, own text", "ours, own text")
        found = [row for size in chosen.models for row in rows_of(size, own, own_step_of)]
        save(f"against_trl_own{suffix}", found)
        return
    names = (*TRAINERS, "ours")
    unknown = "memory MB"  # the check of the first loss is in its peak
    rows = [
        {name: value for name, value in row.items() if name != unknown}
        for size in chosen.models
        for half in TOLERANCE
        for row in rows_of(size, [name + half for name in names], step_of)
    ]
    save(f"against_trl{suffix}", rows)


if __name__ == "__main__":
    main()
