"""The files of a teacher's outputs: how `Annotate` writes them and how trainings read them.

`offsets.npy` [rows + 1, 2]: the first position of each row, and its first token, the rows of sample
0 first, then those of sample 1; `head.safetensors`: the teacher's output layer; shards of
`SHARD_POSITIONS` positions: hidden [positions, d], or with top-k the fields of
`distill.top_k.MostLikely`, and then `probe.safetensors` has the hidden states of the first `PROBED`
samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from l2kd_ray.core.memory import in_parts
from l2kd_ray.core.stage import Context, Sharding
from l2kd_ray.distill import gradients
from l2kd_ray.distill.linear_loss import Knowledge, OutputLayer, chunk_size
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.distill.top_k import MostLikely
from l2kd_ray.distill.transfer import to_device
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.stages.curriculum import SequenceRow, inputs
from l2kd_ray.families.language.stages.teachers import Live

OFFSETS, HEAD, _PROBE = "offsets.npy", "head.safetensors", "probe.safetensors"
_SHARD, _HIDDEN = "hidden-{}.safetensors", "hidden"
PROBED = 16
"""Number of samples whose hidden states are stored beside top-k, to measure the bias of top-k."""
SHARD_POSITIONS = 2**18
_BATCH, _LARGE_BATCH = 32, 256
"""Rows that a CPU annotates at once, and that another device does."""


class Cached:
    """A teacher read from the files of an `Annotate` stage, which are mapped into memory.

    It gives hidden states with an output layer, or the most likely tokens.
    """

    def __init__(self, folder: Path, parts: Sequence[str]) -> None:
        self._offsets = np.load(folder / OFFSETS)
        shards = sorted(folder.glob(_SHARD.format("*")))
        self._shards = [_slices(safe_open(shard, framework="np")) for shard in shards]
        probe = folder / _PROBE
        self._probe = load_file(probe)[_HIDDEN] if probe.exists() else None
        layer = load_file(folder / HEAD)
        self._head, self._parts = OutputLayer(layer["weight"], layer.get("bias")), tuple(parts)

    @property
    def vocabulary(self) -> int:
        return len(self._head.weight)

    @property
    def is_sharded(self) -> bool:
        return False

    def to(self, device: str, shard: Sharding | None = None) -> None:
        """Move its output layer, which each worker has whole."""
        bias = self._head.bias
        moved = None if bias is None else bias.to(device)
        self._head = OutputLayer(self._head.weight.to(device), moved)

    def annotate(self, rows: Sequence[SequenceRow], device: str) -> Knowledge | MostLikely:
        pieces = [piece for row in rows for piece in self._pieces(row)]
        # Rows that are too long for a teacher of another tokenizer have no position.
        pieces = pieces or [{name: array[:0] for name, array in self._shards[0].items()}]
        joined = [torch.from_numpy(np.concatenate([p[name] for p in pieces])) for name in pieces[0]]
        found = {
            # Converted there: half as many bytes travel.
            name: there.to(torch.long if name == "tokens" else self._head.weight.dtype)
            for name, there in zip(pieces[0], to_device(joined, device), strict=True)
        }
        if self._probe is None:
            return Knowledge(found[_HIDDEN], self._head)
        return MostLikely(**found, others=self.vocabulary - found["tokens"].shape[1])

    def bias(
        self, model: CausalLM, rows: Sequence[SequenceRow], objective: SoftTargets, device: str
    ) -> Mapping[str, float]:
        """The bias (`gradients.bias`) of top-k in the gradient of `model` on the first samples.

        Empty without top-k. Model and teacher are on the device.
        """
        if self._probe is None:
            return {}
        rows = [row for row in rows if row.index < PROBED]
        kept = self.annotate(rows, device)
        positions = [p for row in rows for p in range(*self._bounds(row)[:, 0].tolist())]
        assert isinstance(kept, MostLikely)
        hidden = self._probe[positions].to(device, self._head.weight.dtype)
        layer = self._head.weight, self._head.bias
        with torch.no_grad():
            own, size = model.eval()(*inputs(rows, device)), chunk_size(self._head.weight)
            parts = [slice(start, start + size) for start in range(0, len(own), size)]
            # Logits are made chunk by chunk: of all positions they may not fit.
            chunks = (
                (
                    model.head(own[part]).float(),
                    nn.functional.linear(hidden[part], *layer),
                    kept[part],
                )
                for part in parts
            )
            return gradients.bias(chunks, objective.temperature, objective.loaded_divergence)

    def _bounds(self, row: SequenceRow) -> NDArray[np.int64]:
        """[2, 2]: the first position and the first token of the row, and of the one after it."""
        number = row.index * len(self._parts) + self._parts.index(row.part)
        bounds: NDArray[np.int64] = self._offsets[number : number + 2]
        return bounds

    def _pieces(self, row: SequenceRow) -> Iterator[dict[str, NDArray[Any]]]:
        """The stored arrays of a row, from each shard that holds a part of it."""
        (start, before), (end, after) = self._bounds(row).tolist()
        whole = len(row.read.tokens)
        # A context that is cut elsewhere leaves as many answer tokens, of another text.
        if (end - start, after - before) != (whole - row.read.supervised, whole):
            raise ValueError(
                f"the teacher read {after - before} tokens of a row of {whole}: their contexts "
                "differ; set train.max_length, or kd.teacher: online"
            )
        while start < end:
            shard, offset = divmod(start, SHARD_POSITIONS)
            stop = min(end, (shard + 1) * SHARD_POSITIONS)
            arrays = self._shards[shard].items()
            yield {name: array[offset : offset + stop - start] for name, array in arrays}
            start = stop


def _slices(handle: Any) -> dict[str, Any]:
    """Slices of a shard's tensors, which read from disk only the part that is indexed."""
    return {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118


def write(
    rows: Sequence[SequenceRow],
    live: Live,
    context: Context,
    *,
    half: bool = False,
    keep: int | None = None,
) -> int:
    """Write the files of the teacher's outputs at `rows`; returns the number of positions.

    `half`: compute in bfloat16, as its training did; `keep`: store this many most likely tokens.
    """

    def work(part: Sequence[SequenceRow]) -> dict[str, Tensor]:
        with torch.autocast(torch.device(context.device).type, torch.bfloat16, enabled=half):
            found = live.annotate(part, context.device)
        return _best(found, keep) if keep else {_HIDDEN: found.hidden.half().cpu()}

    alone = not live.model.is_shared_out
    size = _BATCH if context.device == "cpu" or not alone else _LARGE_BATCH
    for number, shard in enumerate(_shards(in_parts(work, rows, size, again=alone))):
        if context.rank == 0:
            save_file(shard, context.out / _SHARD.format(f"{number:05}"))
    if keep is not None:
        probed = [row for row in rows if row.index < PROBED]
        exact = live.annotate(probed, context.device).hidden
        save_file({_HIDDEN: exact.half().cpu()}, context.out / _PROBE)
    sizes = [(len(row.read.tokens) - row.read.supervised, len(row.read.tokens)) for row in rows]
    np.save(context.out / OFFSETS, np.cumsum([(0, 0), *sizes], axis=0, dtype=np.int64))
    layer = live.model.head.state_dict()
    save_file({name: value.cpu().clone() for name, value in layer.items()}, context.out / HEAD)
    return sum(positions for positions, _ in sizes)


def _shards(parts: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The tensors of all parts one after another, cut anew: `SHARD_POSITIONS` at a time."""
    waiting: list[dict[str, Tensor]] = []
    count = 0
    for part in parts:
        # Joined once a shard: joining at every batch copies all that waits.
        waiting.append(part)
        count += len(next(iter(part.values())))
        while count >= SHARD_POSITIONS:
            joined = _joined(waiting)
            yield {name: value[:SHARD_POSITIONS].clone() for name, value in joined.items()}
            waiting = [{name: value[SHARD_POSITIONS:] for name, value in joined.items()}]
            count -= SHARD_POSITIONS
    if count:
        yield _joined(waiting)


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([one[name] for one in parts]) for name in parts[0]}


def _best(found: Knowledge, k: int) -> dict[str, Tensor]:
    """The fields of `MostLikely` as stored: logits minus their maximum, in half precision."""
    with torch.inference_mode():
        logits = torch.nn.functional.linear(
            found.hidden, found.head.weight, found.head.bias
        ).float()
        best = MostLikely.of(logits - logits.amax(-1, keepdim=True), k)
    kept = {"tokens": best.tokens.int(), "logits": best.logits.half(), "rest": best.rest}
    return {name: value.cpu() for name, value in kept.items()}
