"""Models shared out among workers: parameters, gradients and moments (FSDP2, ZeRO stage 3).

torch's `fully_shard` keeps a chunk of each parameter's first dimension on each worker, and puts a
layer together while it computes. The workers must run the same forward passes in one sequence.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from l2kd_ray.core.stage import Sharding

M = TypeVar("M", bound=nn.Module)


def place(model: M, how: Sharding | None, device: str) -> M:
    """The model on the device, to be trained; with `how`, and several workers, a chunk of it.

    Then the model that was given is left without its weights until `put_together`.
    """
    if how is None or _alone():
        return model.to(device)
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

    offloads = how.cpu_offload and torch.device(device).type != "cpu"
    offload = CPUOffloadPolicy() if offloads else OffloadPolicy()
    options: Any = {"mesh": _mesh(device), "offload_policy": offload}
    # A copy of the structure alone: it holds the very parameters, until they are cut.
    sharded = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    for layer in _layers(sharded, how):
        _cut(layer, reshard_after_forward=how.reshard_after_forward, **options)
    # What is in no layer (the embeddings) stays whole from the forward pass to the end of the
    # backward pass: the fused loss reads the output layer's weight after the forward pass.
    _cut(sharded, reshard_after_forward=False, **options)
    for whole_one, part in zip(model.parameters(), sharded.parameters(), strict=True):
        _inherit(part, whole_one)
    return sharded


def _inherit(part: Any, parameter: nn.Parameter) -> None:
    """Give a chunk the attributes of its parameter; of `learned` rows alone it keeps gradients."""
    vars(part).update(vars(parameter))
    if (learned := getattr(parameter, "learned", None)) is not None:
        rows = chunk_of(learned, part)
        part.register_post_accumulate_grad_hook(
            lambda one: chunk(one.grad).mul_(rows.to(chunk(one.grad)))
        )


def _cut(module: nn.Module, **options: Any) -> None:
    """Share out a module; what of its parameters is still whole moves to the device to be cut."""
    from torch.distributed.fsdp import fully_shard

    parameters = list(module.parameters())
    fully_shard(module, **options)
    for parameter in parameters:
        # Another model holds the whole ones, too: on the device they would fill it up.
        if not hasattr(parameter, "to_local"):
            parameter.data = parameter.data.new_empty(0)


def place_layers(
    model: nn.Module,
    part: nn.Module,
    how: Sharding | None,
    device: str,
    idle: Callable[[], object],
) -> InStep | None:
    """Move a model to the device, to be run without gradients; with `how`, and several workers, a
    chunk of each layer of a part of it, and the rest whole.

    `part`: what every forward pass runs. `idle`: a forward pass of the smallest size. Returns what
    keeps the workers in step; None where each has the whole model.
    """
    inside = set(part.modules())
    every = [] if how is None or _alone() else _layers(model, how)
    layers = [layer for layer in every if layer in inside]
    for layer in layers:
        _cut(layer, mesh=_mesh(device), reshard_after_forward=True)
    model.to(device)
    return InStep(layers[0], idle) if layers else None


class InStep:
    """Keeps workers that share out a model in step: all make as many forward passes.

    All must take part when a layer is put together. So each says before a pass that it makes one,
    and a worker that has nothing left to compute makes passes of its own while others do.
    """

    def __init__(self, first_layer: nn.Module, idle: Callable[[], object]) -> None:
        self._idle, self._works = idle, True
        first_layer.register_forward_pre_hook(self._begin, prepend=True)

    def _begin(self, *_: Any) -> None:
        if self._works:
            self._someone_works()

    def _someone_works(self) -> bool:
        count = torch.tensor(int(self._works))  # of the CPU: no device is waited for
        dist.all_reduce(count)
        return bool(count)

    def finish(self) -> None:
        """Make passes until no worker has work left; all call it."""
        self._works = False
        while self._someone_works():
            self._idle()
        self._works = True


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def _mesh(device: str) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(torch.device(device).type, (dist.get_world_size(),))


def _layers(model: nn.Module, how: Sharding) -> list[nn.Module]:
    names = how.layers or getattr(model, "layer_names", ())
    return [one for one in model.modules() if type(one).__name__ in names]


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
