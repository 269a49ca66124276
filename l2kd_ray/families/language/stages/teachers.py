"""Live teachers, which are run on each batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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

    def to(self, device: str) -> None:
        self.model.to(device)

    @torch.inference_mode()
    def annotate(self, rows: Sequence[SequenceRow], device: str) -> Knowledge:
        input_ids, positions = inputs(rows, device)
        if input_ids.shape[1] > self.model.context:
            raise ValueError(
                f"the teacher reads {self.model.context} tokens at most, but a new sample has "
                f"{input_ids.shape[1]}: set train.max_length={self.model.context}"
            )
        return Knowledge(self.model(input_ids, positions), OutputLayer.of(self.model.head))
