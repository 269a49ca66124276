"""What a frozen teacher says: computed as it is asked for, or read from a stage's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l2kd_ray.distill import top_k
from l2kd_ray.distill.linear_loss import Head, Knowledge
from l2kd_ray.distill.top_k import MostLikely
from l2kd_ray.models.causal_lm import CausalLM
from l2kd_ray.stages.annotate import (
    HEAD,
    HIDDEN,
    OFFSETS,
    PROBE,
    PROBED,
    SHARD,
    SHARD_POSITIONS,
)
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
    """The files of an `Annotate` stage, mapped into memory: hidden states and an output layer, or
    the most likely tokens."""

    def __init__(self, folder: Path, parts: Sequence[str]) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file

        self._offsets = np.load(folder / OFFSETS)
        shards = sorted(folder.glob(SHARD.format("*")))
        self._shards = [_slices(safe_open(shard, framework="pt")) for shard in shards]
        probe = folder / PROBE
        self._probe = load_file(probe)[HIDDEN] if probe.exists() else None
        layer = load_file(folder / HEAD)
        self._head, self._parts = Head(layer["weight"], layer.get("bias")), tuple(parts)

    @property
    def vocabulary(self) -> int:
        return len(self._head.weight)

    def to(self, device: str) -> None:
        bias = self._head.bias
        moved = None if bias is None else bias.to(device)
        self._head = Head(self._head.weight.to(device), moved)

    def listen(self, rows: Sequence[Row], device: str) -> Knowledge | MostLikely:
        dtype = self._head.weight.dtype  # before they are joined: autocast knows no half on CPUs
        pieces = [piece for row in rows for piece in self._pieces(row)]
        said = {
            name: torch.cat(
                [p[name].to(torch.long if name == "tokens" else dtype) for p in pieces]
            ).to(device)
            for name in pieces[0]
        }
        if self._probe is None:
            return Knowledge(said[HIDDEN], self._head)
        return MostLikely(**said, others=self.vocabulary - said["tokens"].shape[1])

    def bias(self, model: CausalLM, rows: Sequence[Row], temperature: float) -> Mapping[str, float]:
        """Of the gradient that `rows` of the first samples give `model`, where only the most likely
        tokens are kept: `distill.top_k.bias`. Empty where all is kept. Before anything is moved."""
        if self._probe is None:
            return {}
        rows = [row for row in rows if row.index < PROBED]
        kept, places = (
            self.listen(rows, "cpu"),
            [place for row in rows for place in self._places(row)],
        )
        assert isinstance(kept, MostLikely)
        hidden = self._probe[places].to(self._head.weight.dtype)
        with torch.no_grad():
            student: Tensor = model.head(model.eval()(*inputs(rows, "cpu")))
            exact = nn.functional.linear(hidden, self._head.weight, self._head.bias)
            return top_k.bias(student.float(), exact, kept, temperature)

    def _places(self, row: Row) -> range:
        """The row's positions among all that the teacher spoke at."""
        number = row.index * len(self._parts) + self._parts.index(row.part)
        return range(*self._offsets[number : number + 2].tolist())

    def _pieces(self, row: Row) -> Iterator[dict[str, Tensor]]:
        """What is kept of a row, from the one or two shards that hold it."""
        places = self._places(row)
        start, end = places.start, places.stop
        supervised = len(row.sequence.tokens) - row.sequence.supervised
        if end - start != supervised:
            raise ValueError(
                f"the teacher spoke at {end - start} positions, the student learns {supervised}: "
                "their contexts differ; set train.max_length, or kd.teacher: online"
            )
        while start < end:
            shard, place = divmod(start, SHARD_POSITIONS)
            stop = min(end, (shard + 1) * SHARD_POSITIONS)
            tensors = self._shards[shard].items()
            yield {name: tensor[place : place + stop - start] for name, tensor in tensors}
            start = stop


def _slices(handle: Any) -> dict[str, Any]:
    """The tensors of a shard, read only where they are looked at."""
    return {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
