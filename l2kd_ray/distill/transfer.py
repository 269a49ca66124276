"""Tensors on their way to a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

_ALIGNED = 8  # bytes: where a tensor of any dtype may begin


def to_device(tensors: Sequence[Tensor], device: str | torch.device) -> list[Tensor]:
    """Copies of tensors of the CPU on a device, made by one transfer that the host does not wait
    for; on the CPU the tensors themselves.

    A copy of each from ordinary memory would make the host wait for all work given to a GPU before.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return list(tensors)
    parts = [one.contiguous().flatten().view(torch.uint8) for one in tensors]
    starts = [0, *accumulate(math.ceil(len(part) / _ALIGNED) * _ALIGNED for part in parts)]
    buffer = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for start, part in zip(starts, parts, strict=False):
        buffer[start : start + len(part)] = part
    there = buffer.to(device, non_blocking=True)
    return [
        there[start : start + len(part)].view(one.dtype).view(one.shape)
        for start, part, one in zip(starts, parts, tensors, strict=False)
    ]
