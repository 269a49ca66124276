"""Measures of what a model has kept: its loss on general text, its drift on new tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.families.evaluate import Evaluate, Measure

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.sequences import SequenceFormat, TrainingSequence


@dataclass(frozen=True, eq=False, kw_only=True)
class TextLoss(Evaluate):
    """The cross-entropy of a model on general text, in nats a token; each answer is a text.

    A text that is longer than the model's context is cut into pieces.
    """

    distributable = True
    max_length: int | None

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.stages.reading import opened

        text, model = opened(self.model, context)
        total = count = 0.0
        for sequence in self._pieces(model, text, context):
            loss, tokens = cross_entropy(model, sequence)
            total += loss
            count += tokens
        return {"cross_entropy": total / count, "tokens": count}

    def _pieces(
        self, model: CausalLM, text: SequenceFormat, context: Context
    ) -> Iterator[TrainingSequence]:
        from l2kd_ray.families.language.model.sequences import TrainingSequence

        longest = min(self.max_length or model.context, model.context)
        texts = [example.answers[0] for example in self.examples.load(context)]
        for tokens in text.encode(texts):
            whole = [*text.bos, *tokens]
            for start in range(0, len(whole), longest):
                piece = whole[start : start + longest]
                if len(piece) > 1:  # the first token of a piece is not predicted
                    yield TrainingSequence(piece, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Drift(Evaluate):
    """KL(initial model || model) on a task's given answers, in nats a token.

    On a new task's own data it foretells forgetting (Shenfeld et al. 2025, arXiv 2509.04259).
    """

    distributable = True
    initial: Stage
    max_length: int | None

    @property
    def task(self) -> str:
        return f"kl on {self.examples.task}"  # not among the evaluations of the task

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.model.corpus import Corpus
        from l2kd_ray.families.language.stages.reading import opened

        text, model = opened(self.model, context)
        _, initial = opened(self.initial, context)
        longest = min(self.max_length or model.context, model.context)
        task = self.examples.task
        total = count = 0.0
        for sample in Corpus.of(self.examples.load(context), text, task, longest):
            sequence = text.qa(sample)
            before, after = (log_probabilities(one, sequence) for one in (initial, model))
            total += float((before.exp() * (before - after)).sum())
            count += len(before)
        return {"kl": total / count, "tokens": count}


@dataclass(frozen=True, eq=False, kw_only=True)
class Harness(Measure):
    """A task of the Language Model Evaluation Harness (Gao et al., lm-eval), by its own metric.

    Scores are in lm-eval's unit. Its seeds are its defaults; its data are those of its task.
    """

    kind = "lm_eval"
    default_seconds = 600.0
    name: str
    metric: str
    limit: int | None
    num_fewshot: int | None
    release: str
    """The version of lm-eval."""

    @property
    def task(self) -> str:
        return self.name

    @property
    def metric_name(self) -> str:
        return self.metric

    def run(self, context: Context) -> Scores:
        import lm_eval

        found = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(context.files_of(self.model))},
            tasks=[self.name],
            num_fewshot=self.num_fewshot,
            limit=self.limit,
            device=context.device,
            batch_size=8,
            bootstrap_iters=0,
            log_samples=False,
        )
        # Of a task's results, those of the first filter: "acc,none".
        scores: dict[str, float] = {}
        for name, value in found["results"][self.name].items():
            if isinstance(value, int | float):
                scores.setdefault(name.partition(",")[0], float(value))
        if self.metric not in scores:
            raise ValueError(f"{self.name} has no metric {self.metric}, but {', '.join(scores)}")
        if not found["higher_is_better"][self.name].get(self.metric, True):
            raise ValueError(f"of {self.metric} less is better: name another metric")
        return scores


def cross_entropy(model: CausalLM, sequence: TrainingSequence) -> tuple[float, int]:
    """The sum over a sequence's supervised tokens, in nats, and their number."""
    import torch

    log_p = log_probabilities(model, sequence)
    targets = torch.tensor(sequence.tokens[sequence.supervised :], device=log_p.device)
    return -float(log_p.gather(-1, targets.unsqueeze(-1)).sum()), len(targets)


def log_probabilities(model: CausalLM, sequence: TrainingSequence) -> Tensor:
    """[supervised tokens, V]: the log-probabilities that predict a sequence's supervised tokens."""
    import torch

    device = model.device
    with torch.inference_mode():
        ids = torch.tensor([sequence.tokens], device=device)
        places = torch.arange(sequence.supervised - 1, len(sequence.tokens) - 1, device=device)
        hidden = model(ids, places, [sequence.source])
        log_p: Tensor = model.head(hidden).float().log_softmax(-1)
    return log_p
