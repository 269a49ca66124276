"""Live teachers, which are run on each batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
        input_ids, positions = inputs(rows, device)
        if input_ids.shape[1] > self.model.context:
            raise ValueError(
                f"the teacher reads {self.model.context} tokens at most, but a new sample has "
                f"{input_ids.shape[1]}: set train.max_length={self.model.context}"
            )
        return Knowledge(self.model(input_ids, positions), OutputLayer.of(self.model.head))
