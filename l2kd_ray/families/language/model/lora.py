"""Low-rank adaptation (Hu et al. 2022) by `peft`: attached for one training, then merged.

A stage therefore begins and ends with a plain model, and its readers need no `peft`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2kd_ray.families.language.model.causal_lm import CausalLM


def attach(model: CausalLM, settings: Any, trained_tokens: Sequence[int], seed: int) -> Any:
    """Freeze the model except for low-rank updates and the embeddings of some tokens.

    Returns the argument of `merge`. Raises: ValueError if `peft` does not know which layers of the
    architecture to adapt, or an embedding is among them.
    """
    from peft import LoraConfig, LoraModel

    torch.manual_seed(seed)
    embeddings = _embeddings(model)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets) if settings.targets else None,
        task_type="CAUSAL_LM",
    )
    adapted = LoraModel(model.lm, config, "default")
    if _embeddings(model) != embeddings:  # the loss reads the output layer's weight itself
        raise ValueError(f"train.lora.targets may not name embeddings: {settings.targets}")
    # The embeddings of new tokens (`<ans>`, task tokens) start at a mean and must be learned.
    for layer in embeddings:
        _train_rows(layer.weight, trained_tokens)
    return adapted


def merge(model: CausalLM, adapted: Any) -> None:
    """Add the updates to the weights, and remove the adapters."""
    model.lm = adapted.merge_and_unload()
    model.requires_grad_(True)


def _embeddings(model: CausalLM) -> list[Any]:
    return [model.lm.get_input_embeddings(), model.lm.get_output_embeddings()]


def _train_rows(weight: Any, rows: Sequence[int]) -> None:
    """Let gradients, but no decay, reach only some rows of an embedding (once if tied)."""
    # A tied output layer is the same tensor, which has its hook already.
    if weight.requires_grad:
        return
    chosen = torch.zeros(len(weight), 1)
    chosen[list(rows)] = 1.0

    def keep(grad: Tensor) -> Tensor:
        return grad * chosen.to(grad)

    weight.requires_grad_(True).register_hook(keep)
    weight.decays = False
