"""What a frozen teacher says: computed as it is asked for, or read from a stage's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2kd_ray.distill.linear_loss import Head, Knowledge
from l2kd_ray.models.causal_lm import CausalLM
from l2kd_ray.stages.annotate import HEAD, HIDDEN, OFFSETS, SHARD, SHARD_POSITIONS
from l2kd_ray.stages.curriculum import Row, inputs


class Live:
    """A model that is asked."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model.freeze()

    @property
    def vocabulary(self) -> int:
        return self.model.vocabulary

    def to(self, device: str) -> None:
        self.model.to(device)

    @torch.inference_mode()
    def listen(self, rows: Sequence[Row], device: str) -> Knowledge:
        input_ids, places = inputs(rows, device)
        if input_ids.shape[1] > self.model.context:
            raise ValueError(
                f"the teacher reads {self.model.context} tokens at most, a new sample has "
                f"{input_ids.shape[1]}: set train.max_length={self.model.context}"
            )
        return Knowledge(self.model(input_ids, places), Head.of(self.model.head))


class Cached:
    """The files of an `Annotate` stage: hidden states mapped into memory, and an output layer."""

    def __init__(self, folder: Path, parts: Sequence[str]) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file

        self._offsets = np.load(folder / OFFSETS)
        shards = sorted(folder.glob(SHARD.format("*")))
        handles = [safe_open(shard, framework="pt") for shard in shards]
        self._shards = [_slice(handle) for handle in handles]
        layer = load_file(folder / HEAD)
        self._head, self._parts = Head(layer["weight"], layer.get("bias")), tuple(parts)

    @property
    def vocabulary(self) -> int:
        return len(self._head.weight)

    def to(self, device: str) -> None:
        bias = self._head.bias
        moved = None if bias is None else bias.to(device)
        self._head = Head(self._head.weight.to(device), moved)

    def listen(self, rows: Sequence[Row], device: str) -> Knowledge:
        dtype = self._head.weight.dtype  # before they are joined: autocast knows no half on CPUs
        pieces = [piece.to(dtype) for row in rows for piece in self._pieces(row)]
        return Knowledge(torch.cat(pieces).to(device), self._head)

    def _pieces(self, row: Row) -> Iterator[Tensor]:
        """The hidden states of a row, from the one or two shards that hold them."""
        number = row.index * len(self._parts) + self._parts.index(row.part)
        start, end = self._offsets[number : number + 2].tolist()
        supervised = len(row.sequence.tokens) - row.sequence.supervised
        if end - start != supervised:
            raise ValueError(
                f"the teacher spoke at {end - start} positions, the student learns {supervised}: "
                "their contexts differ; set train.max_length, or kd.teacher: online"
            )
        while start < end:
            shard, place = divmod(start, SHARD_POSITIONS)
            stop = min(end, (shard + 1) * SHARD_POSITIONS)
            yield self._shards[shard][place : place + stop - start]
            start = stop


def _slice(handle: Any) -> Any:
    """The tensor of a shard, read only where it is looked at."""
    return handle.get_slice(HIDDEN)
