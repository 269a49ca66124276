"""Scores of a teacher stored as flat tensors without padding, and read back as padded batches.

Scores are stored and not marginals: one pass of the teacher then serves every temperature and every
student. `pack` joins batches to one set of tensors, as safetensors holds it; `unpack` gives any of
its sentences, padded. A sentence of n words takes n * L numbers as tokens or a chain, n^2 * R as
spans, n (n + 1) (R + 1) as a parser; second-order arcs add 2 n^3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from l2kd_ray.distill.structured.arcs import Heads
from l2kd_ray.distill.structured.chain import Chain
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.labelled import LabelledArcs
from l2kd_ray.distill.structured.second_order import SecondOrder
from l2kd_ray.distill.structured.spans import Spans
from l2kd_ray.distill.structured.structure import Structure, valid_positions
from l2kd_ray.distill.structured.token import IndependentTokens
from l2kd_ray.distill.structured.trees import NonProjective

# The names below are part of the file format.
_KINDS = {
    "Tokens": IndependentTokens,
    **{
        kind.__name__: kind
        for kind in (Chain, Spans, Heads, NonProjective, Projective, SecondOrder)
    },
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
# The dimensions after the batch's that grow with the sentence: 0 as n, 1 as n + 1; one entry per
# tensor. Tensors not listed belong to the model and are the same for all sentences.
_GROWING: Mapping[str, tuple[int, ...]] = {
    "Tokens.emissions": (0,),
    "Chain.emissions": (0,),
    "Spans.scores": (0, 0),
    "Heads.scores": (0, 1),
    "NonProjective.scores": (0, 1),
    "Projective.scores": (0, 1),
    "SecondOrder.arcs": (0, 1),
    "SecondOrder.siblings": (0, 1, 0),
    "SecondOrder.grandparents": (0, 1, 1),
    "relations": (0, 1),
}


def pack(batches: Iterable[Structure]) -> dict[str, Tensor]:
    """The scores of all sentences one after the other, on the CPU; all batches are of one kind."""
    packed: dict[str, list[Tensor]] = {}
    for batch in batches:
        for name, values in _named(batch).items():
            flat = values
            if name in _GROWING:
                flat = values[_inside(batch.lengths, _GROWING[name], values.shape)]
            packed.setdefault(name, []).append(flat.detach().cpu())
    return {
        # Cloned, since safetensors refuses to save tensors that share memory.
        name: torch.cat(parts) if name in _GROWING or name == "lengths" else parts[0].clone()
        for name, parts in packed.items()
    }


def join(packs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sentences of several packs of one model, one pack after the other."""
    first = packs[0]
    return {
        name: torch.cat([pack[name] for pack in packs])
        if name in _GROWING or name == "lengths"
        else first[name]
        for name in first
    }


def to(structure: Any, device: str) -> Any:
    """Move a structure to a device."""
    changed = {
        name: value.to(device) if isinstance(value, Tensor) else to(value, device)
        for name, value in vars(structure).items()
        if isinstance(value, Tensor) or is_dataclass(value)
    }
    return replace(structure, **changed)


def unpack(packed: Mapping[str, Tensor], sentences: Sequence[int]) -> Structure:
    """A padded batch of sentences, given by their indices in the pack, on the pack's device."""
    rows = torch.tensor(sentences, device=packed["lengths"].device)
    lengths = packed["lengths"][rows]
    values = {
        name: _picked(packed[name], packed["lengths"], rows, _GROWING[name])
        if name in _GROWING
        else packed[name]
        for name in packed
        if name != "lengths"
    }
    relations = values.pop("relations", None)
    # All remaining tensors are of one class, whose name stands before the dot.
    kind = _KINDS[next(iter(values)).partition(".")[0]]
    arguments: dict[str, Any] = {name.partition(".")[2]: value for name, value in values.items()}
    structure: Any = kind(**arguments, lengths=lengths)
    return structure if relations is None else LabelledArcs(structure, relations)


def _named(structure: Any) -> dict[str, Tensor]:
    """The tensors of a structure by their names in `_GROWING`, with its lengths."""
    if isinstance(structure, LabelledArcs):
        return {**_named(structure.arcs), "relations": structure.relations}
    kind = _NAMES[type(structure)]
    return {
        name if name == "lengths" else f"{kind}.{name}": value
        for name, value in vars(structure).items()
        if isinstance(value, Tensor)
    }


def _inside(lengths: Tensor, growing: Sequence[int], shape: Sequence[int]) -> Tensor:
    """[B, ...]: True on entries inside the sentences, False on padding."""
    inside = torch.ones(shape[: 1 + len(growing)], dtype=torch.bool, device=lengths.device)
    for dimension, extra in enumerate(growing, start=1):
        valid = valid_positions(lengths + extra, shape[dimension])
        dimensions = [len(lengths)] + [1] * len(growing)
        dimensions[dimension] = -1
        inside &= valid.view(dimensions)
    return inside


def _picked(flat: Tensor, lengths: Tensor, rows: Tensor, growing: Sequence[int]) -> Tensor:
    sizes = torch.stack([lengths + extra for extra in growing]).prod(0)
    ends = sizes.cumsum(0)
    parts = [flat[ends[row] - sizes[row] : ends[row]] for row in rows.tolist()]
    chosen = lengths[rows]
    n = int(chosen.max())
    shape = (len(rows), *(n + extra for extra in growing))
    padded = flat.new_zeros(*shape, *flat.shape[1:])
    padded[_inside(chosen, growing, shape)] = torch.cat(parts)
    return padded
