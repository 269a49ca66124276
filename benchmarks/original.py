"""A distillation step as the original L2KD code is built, written anew as the reference of speed.

Four passes with full logits (student and teacher, QA and LM sequences) and the selection of
supervised positions afterwards; the teacher's graph is kept; padding to the longest; AdamW a tensor
at a time. No reading of losses within the step, which the original has besides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import TrainingSequence

IGNORED = -1


class OriginalStep:
    """One optimizer step on (QA sequences, LM sequences), all of them distilled."""

    def __init__(self, student: CausalLM, teacher: CausalLM, temperature: float, lm: float) -> None:
        self.student, self.teacher = student.train(), teacher.eval()
        self.temperature, self.lm = temperature, lm
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, foreach=False)

    def __call__(self, qa: Sequence[TrainingSequence], lm: Sequence[TrainingSequence]) -> Tensor:
        self.optimizer.zero_grad()
        loss = self._loss(qa)
        if lm:
            loss = loss + self.lm * self._loss(lm)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0, foreach=False)
        self.optimizer.step()
        return loss.detach()

    def _loss(self, sequences: Sequence[TrainingSequence]) -> Tensor:
        width = max(len(sequence.tokens) for sequence in sequences)
        rows = [[*s.tokens, *[0] * (width - len(s.tokens))] for s in sequences]
        input_ids = torch.tensor(rows)
        labels = torch.full_like(input_ids, IGNORED)
        for row, sequence in enumerate(sequences):
            supervised = torch.tensor(sequence.tokens[sequence.supervised :])
            labels[row, sequence.supervised - 1 : len(sequence.tokens) - 1] = supervised
        chosen = (labels != IGNORED).flatten()
        student, teacher = (
            model.lm(input_ids=input_ids).logits.flatten(0, 1)[chosen] / self.temperature
            for model in (self.student, self.teacher)
        )
        divergence = F.kl_div(
            student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean", log_target=False
        )
        return self.temperature**2 * divergence
