"""Live teachers, which are run on each batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from l2kd_ray.core.shard import is_sharded, place
from l2kd_ray.core.stage import Sharding
from l2kd_ray.distill.linear_loss import Knowledge, OutputLayer
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.stages.curriculum import SequenceRow, inputs


class Live:
    """A frozen teacher, run on each batch (no cache)."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model.freeze()

    @property
    def vocabulary(self) -> int:
        return self.model.vocabulary

    @property
    def is_sharded(self) -> bool:
        return is_sharded(self.model)

    def to(self, device: str, shard: Sharding | None = None) -> None:
        self.model = place(self.model, shard, device)

    @torch.no_grad()  # not inference_mode, in which a shared model cannot be put together
    def annotate(self, rows: Sequence[SequenceRow], device: str) -> Knowledge:
        shown = [replace(row, sequence=row.shown) if row.shown else row for row in rows]
        input_ids, *where = inputs(shown, device)
        if input_ids.shape[1] > self.model.context:
            raise ValueError(
                f"the teacher reads {self.model.context} tokens at most, but a new sample has "
                f"{input_ids.shape[1]}: set train.max_length={self.model.context} or less"
            )
        return Knowledge(self.model(input_ids, *where), OutputLayer.of(self.model.head))


class Itself(Live):
    """The student as it is, run without dropout and without a gradient."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model

    def to(self, device: str, shard: Sharding | None = None) -> None:
        """Do nothing: the training loop moves the student."""

    def annotate(self, rows: Sequence[SequenceRow], device: str) -> Knowledge:
        self.model.eval()
        try:
            return super().annotate(rows, device)
        finally:
            self.model.train()


class Following(Live):
    """An exponential moving average of a student's weights, kept in its checkpoints."""

    def __init__(self, student: CausalLM, rate: float) -> None:
        self.model = self._student = student
        self._rate = rate

    def to(self, device: str, shard: Sharding | None = None) -> None:
        if self.model is self._student:  # only now, when all that it trains is attached to it
            self.model = copy.deepcopy(self._student).freeze()
        super().to(device, shard)

    def follow(self) -> None:
        """Take `rate` of the student's weights: theirs <- (1 - rate) theirs + rate student's."""
        self.model.average_with(self._student, self._rate)

    def state(self) -> Mapping[str, Tensor]:
        return {f"average.{name}": value for name, value in self.model.named_parameters()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(state[f"average.{name}"])
