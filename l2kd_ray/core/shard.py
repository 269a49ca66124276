"""Models shared out among workers: parameters, gradients and moments (FSDP2, ZeRO stage 3).

torch's `fully_shard` keeps a chunk of each parameter's first dimension on each worker, and puts a
layer together while it computes. The workers must run the same forward passes in one sequence.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from l2kd_ray.core.stage import Sharding

M = TypeVar("M", bound=nn.Module)


def place(model: M, how: Sharding | None, device: str) -> M:
    """The model on the device; with `how`, and several workers, a chunk of it.

    Then the model that was given is left without its weights until `put_together`.
    """
    if how is None or not dist.is_initialized() or dist.get_world_size() == 1:
        return model.to(device)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    kind = torch.device(device).type
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    offload = CPUOffloadPolicy() if how.cpu_offload and kind != "cpu" else OffloadPolicy()
    whole = list(model.parameters())
    # A copy of the structure alone: it holds the very parameters, until they are cut.
    sharded = copy.deepcopy(model, {id(parameter): parameter for parameter in whole})
    if not how.cpu_offload:
        sharded.to(device)
    options: Any = {"mesh": mesh, "offload_policy": offload}
    for layer in _layers(sharded, how.layers or getattr(model, "layer_names", ())):
        fully_shard(layer, reshard_after_forward=how.reshard_after_forward, **options)
    # What is in no layer (the embeddings) stays whole from the forward pass to the end of the
    # backward pass: the fused loss reads the output layer's weight after the forward pass.
    fully_shard(sharded, reshard_after_forward=False, **options)
    for parameter in whole:
        parameter.data = parameter.data.new_empty(0)
    return sharded


def _layers(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    return [one for one in model.modules() if type(one).__name__ in set(names)]


def is_sharded(model: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def put_together(sharded: nn.Module, model: nn.Module) -> None:
    """Give `model`, from which `sharded` was made, the trained weights; on the CPU."""
    pairs = zip(model.parameters(), sharded.parameters(), strict=True)
    for parameter, part in pairs:
        parameter.data = whole(part.detach()).cpu()


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or of a chunk the whole; every worker must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def chunk(tensor: Tensor) -> Tensor:
    """This worker's chunk of a tensor; of one that is not shared out, the tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def chunk_of(value: Tensor, like: Tensor) -> Tensor:
    """The rows of a whole tensor that are this worker's, as those of `like` are."""
    if not hasattr(like, "to_local"):
        return value
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    given: Any = like
    shape, offset = compute_local_shape_and_global_offset(
        given.shape, given.device_mesh, given.placements
    )
    return value[offset[0] : offset[0] + shape[0]]
