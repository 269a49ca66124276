"""A distillation step against TRL's trainers: the same models, batch and tokens.

    pip install trl && python benchmarks/against_trl.py [--models small gpt2] [--times 5]

All learn the answers of one batch (QA rows, no sampling by the student) from the same live teacher,
forward KL at T = 1 over the whole vocabulary, AdamW, clipping at 1, one thread. `GKDTrainer`
(lmbda 0, beta 0) makes the logits of all positions of both models. `DistillationTrainer`
(beta 0) makes them chunk by chunk; it would have the student write the completions, and is given
the batch's here. A TRL step is one of `Trainer.train()`, data loading and its callbacks
included. The first losses are compared: they are of the same work (to 1e-3, because
`DistillationTrainer` pads on the left and GPT-2's positions move with it).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from threading import Semaphore, Thread
from typing import Any

from step import BATCH, SIZES, Prepared, compare, counted, model, our_step, sequences
from table import save

TRAINERS = ("TRL GKDTrainer", "TRL DistillationTrainer")
TOLERANCE = {"": 1e-3, ", bf16": 2e-2}


def step_of(size: str, lm: bool, variant: str) -> Prepared:
    """The step of ours or of a trainer of TRL's; its first loss is checked against ours."""
    qa, _ = sequences(seed=0)
    half = ", bf16" if "bf16" in variant else ""
    wanted = our_step(model(size, 0), model(size, 1), qa, [], half, temperature=1.0)()
    student, teacher = model(size, 0), model(size, 1)
    if variant.startswith("TRL"):
        step = trl_step(student.lm, teacher.lm, qa, variant)
    else:
        step = our_step(student, teacher, qa, [], variant, temperature=1.0)
    loss = step()
    if abs(loss - wanted) > TOLERANCE[half] * wanted:
        raise SystemExit(f"{variant}: the first loss is {loss}, ours {wanted}")
    ours = variant.startswith("ours")
    return step, sum(len(s.tokens) for s in qa), lambda: counted(step) if ours else 0.0


def trl_step(student: Any, teacher: Any, qa: Any, variant: str) -> Callable[[], float]:
    """One step of a trainer's `train()` a call; returns its loss."""
    import torch
    from transformers import PrinterCallback, TrainerCallback

    asked, done, losses = Semaphore(0), Semaphore(0), list[float]()

    class OneStep(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])
            done.release()
            asked.acquire()

    make = _gkd if "GKD" in variant else _distillation
    trainer = make(student, teacher, qa, "bf16" in variant)
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


def _settings(half: bool) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": True,
        "bf16": half,
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


def _gkd(student: Any, teacher: Any, qa: Any, half: bool) -> Any:
    import torch
    from datasets import Dataset
    from torch.nn.utils.rnn import pad_sequence
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collate(rows: Any) -> dict[str, Any]:
        tokens = [torch.tensor(qa[row["row"]].tokens) for row in rows]
        labels = [t.clone() for t in tokens]
        for label, row in zip(labels, rows, strict=True):
            label[: qa[row["row"]].supervised] = -100
        return {
            "input_ids": pad_sequence(tokens, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        }

    return GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=GKDConfig(lmbda=0.0, **_settings(half)),
        data_collator=collate,
        train_dataset=Dataset.from_list([{"row": row} for row in range(len(qa))]),
        processing_class=_tokenizer(),
    )


def _distillation(student: Any, teacher: Any, qa: Any, half: bool) -> Any:
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
        args=DistillationConfig(**_settings(half)),
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
    parser.add_argument("--models", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--times", type=int, default=5)
    chosen = parser.parse_args()
    names = (*TRAINERS, "ours")
    unknown = "memory MB"  # the check of the first loss is in its peak
    rows = [
        {name: value for name, value in row.items() if name != unknown}
        for size in chosen.models
        for half in TOLERANCE
        for row in compare([name + half for name in names], size, False, chosen.times, step_of)
    ]
    save("against_trl", rows)


if __name__ == "__main__":
    main()
