"""The weights that a stage has trained, and whether two trainings left the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store


def weights(stage: Stage, store: Store, file: str = "model.safetensors") -> dict[str, Tensor]:
    """The tensors of a file of the stage, which is run if it is not in the store."""
    obtain(stage, store)
    return dict(load_file(store.fetch(stage.kind, stage.key) / file))


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
