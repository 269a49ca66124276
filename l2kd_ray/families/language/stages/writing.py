"""The answers that a student writes during its own training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from l2kd_ray.core.randomness import generator
from l2kd_ray.core.stage import Context
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.generation import TopK, generate, greedy
from l2kd_ray.families.language.model.sequences import Sample, SequenceFormat, TokenIds
from l2kd_ray.families.language.stages.on_policy import Sampling
from l2kd_ray.families.language.stages.retention import cross_entropy

Question = tuple[int, int, Sample]
"""The step that learns from the answer, the sample's index, and the sample."""
_FIELDS = ("steps", "indices", "lengths", "tokens")
RISE, GROWTHS = 0.1, 10
"""The rise of the loss on dev, in nats a token, after which an adaptive share grows, and how often
it grows until it is 1."""


class Writer:
    """The student's answers to the questions of some steps, at most `room` tokens with a question.

    An answer depends on the student's weights, the seed, the step and the sample, and not on the
    samples beside it. The answers that are still to be learned are kept in a checkpoint. `dev`:
    what an adaptive share is measured on.
    """

    def __init__(
        self,
        how: Sampling,
        model: CausalLM,
        text: SequenceFormat,
        stream: tuple[int, str],
        context: Context,
        room: int,
        dev: Sequence[Sample] = (),
    ) -> None:
        self.how, self._model, self._text = how, model, text
        self._stream, self._context, self._room = stream, context, room
        self._answers: dict[tuple[int, int], TokenIds] = {}
        self.sampled = 0
        """Number of tokens written so far."""
        self._dev, self._growths, self._dev_loss = dev, 0, math.inf

    @property
    def share(self) -> float:
        """The share of the answers that the student writes now."""
        return self._growths / GROWTHS if self.how.share is None else self.how.share

    def observe(self) -> None:
        """At the start of an epoch: let an adaptive share grow if the loss on dev has risen."""
        if self.how.share is not None:
            return
        self._model.eval()
        parts = self._context.shared_out(self._losses, self._dev)
        self._model.train()
        total, count = (sum(one) for one in zip(*parts, strict=True))
        if total / count >= self._dev_loss + RISE:
            self._growths = min(self._growths + 1, GROWTHS)
        self._dev_loss = total / count

    def _losses(self, samples: Sequence[Sample]) -> list[tuple[float, int]]:
        """The cross-entropy of each given answer, and its number of tokens."""
        return [cross_entropy(self._model, self._text.qa(sample)) for sample in samples]

    def write(self, questions: Iterable[Question]) -> None:
        """Write the answers of the next steps in place of those before."""
        asked = [
            (step, index, sample) for step, index, sample in questions if self._writes(step, index)
        ]
        answers = self._context.shared_out(self._generated, asked)
        self._model.train()
        self._answers = {
            (step, index): answer[: max(0, self._room - len(sample.question))]
            for (step, index, sample), answer in zip(asked, answers, strict=True)
        }
        self.sampled += sum(map(len, answers))

    def answer(self, step: int, index: int) -> TokenIds | None:
        """The answer to a sample's question, with eos if it ended; None where the data has it."""
        return self._answers.get((step, index))

    def _writes(self, step: int, index: int) -> bool:
        """Whether the student writes this answer."""
        seed, task = self._stream
        share = self.share
        return share == 1 or generator(seed, "policy", task, step, index).random() < share

    def _generated(self, asked: Sequence[Question]) -> list[TokenIds]:
        how, (seed, task) = self.how, self._stream
        sequences = [self._text.qa(sample) for _, _, sample in asked]
        prompts = [sequence.tokens[: sequence.supervised] for sequence in sequences]
        sampler = greedy
        if how.temperature is not None:
            draws = [generator(seed, "sample", task, step, index) for step, index, _ in asked]
            drawn = (how.top_k, how.temperature, draws, how.max_new_tokens, self._model.device)
            sampler = TopK.seeded(*drawn)
        return generate(
            self._model,
            prompts,
            sampler,
            max_new_tokens=how.max_new_tokens,
            eos=self._text.eos,
        )

    def state(self) -> Mapping[str, Tensor]:
        found = [(*place, len(answer)) for place, answer in self._answers.items()]
        columns = zip(*found, strict=True) if found else [(), (), ()]
        tokens = [token for answer in self._answers.values() for token in answer]
        values = [*columns, tokens]
        state = {f"text.{n}": torch.tensor(v) for n, v in zip(_FIELDS, values, strict=True)}
        grown = torch.tensor([self._growths, self._dev_loss], dtype=torch.float64)
        return {**state, "text.sampled": torch.tensor(self.sampled), "text.grown": grown}

    def load(self, state: Mapping[str, Tensor]) -> None:
        steps, indices, lengths, tokens = (state[f"text.{name}"] for name in _FIELDS)
        answers = tokens.long().split(lengths.long().tolist()) if len(lengths) else ()
        places = zip(steps.tolist(), indices.tolist(), strict=True)
        self._answers = {
            (int(step), int(index)): answer.tolist()
            for (step, index), answer in zip(places, answers, strict=True)
        }
        self.sampled = int(state["text.sampled"])
        growths, self._dev_loss = state["text.grown"].tolist()
        self._growths = int(growths)
