"""Low-rank adaptation (Hu et al. 2022) by `peft`: attached for one training, then merged.

A stage therefore begins and ends with a plain model, and its readers need no `peft`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2kd_ray.families.language.model.causal_lm import CausalLM

_NAME = "default"


def attach(model: CausalLM, settings: Any, trained_tokens: Sequence[int], seed: int) -> Any:
    """Freeze the model except for low-rank updates and the embeddings of some tokens.

    Returns the argument of `merge`. Raises: ValueError if `peft` does not know which layers of the
    architecture to adapt, or an embedding is among them.
    """
    from peft import LoraConfig, LoraModel

    torch.manual_seed(seed)
    named = settings.targets
    embeddings = _embeddings(model)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=[*named] if isinstance(named, tuple) else named,
        task_type="CAUSAL_LM",
    )
    adapted = LoraModel(model.lm, config, _NAME)
    if _embeddings(model) != embeddings:  # the loss reads the output layer's weight itself
        raise ValueError(f"train.lora.target_modules may not name embeddings: {settings.targets}")
    train_tokens(model, trained_tokens)
    return adapted


def train_tokens(model: CausalLM, tokens: Sequence[int]) -> None:
    """Train the embeddings of some tokens beside the adapter.

    Those of new tokens (`<ans>`, task tokens) start at a mean and must be learned.
    """
    for layer in _embeddings(model):
        _train_rows(layer.weight, tokens)


def layers(model: CausalLM) -> dict[str, Any]:
    """The adapted layers of a model, by name."""
    return {name: one for name, one in model.named_modules() if hasattr(one, "lora_A")}


def factors(model: CausalLM) -> dict[str, Any]:
    """The factors of the updates: `<layer>.A` [r, d_in] and `<layer>.B` [d_out, r]."""
    return {
        f"{name}.{factor}": weights[_NAME].weight
        for name, layer in layers(model).items()
        for factor, weights in (("A", layer.lora_A), ("B", layer.lora_B))
    }


@torch.no_grad()
def resume(model: CausalLM, base: CausalLM, known: Mapping[str, Tensor]) -> None:
    """Set the adapted layers' weights to those of `base`, and the updates to known factors."""
    for name, layer in layers(model).items():
        layer.base_layer.weight.copy_(base.get_submodule(name).weight)
    for name, weight in factors(model).items():
        weight.copy_(known[name])


def quantize(model: CausalLM, folder: Path) -> None:
    """Load the model of a folder again, with its layers' weights in 4 bits (needs bitsandbytes)."""
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model.lm = CausalLM.load(folder, quantization_config=how).lm


@torch.no_grad()
def take_over(model: CausalLM, trained: CausalLM) -> None:
    """Set the updates and the embeddings of an adapted model to those of a trained one."""
    known = factors(trained)
    for name, weight in factors(model).items():
        weight.copy_(known[name])
    for layer, other in zip(_embeddings(model), _embeddings(trained), strict=True):
        layer.weight.copy_(other.weight)


@torch.no_grad()
def norm(model: CausalLM) -> float:
    """The Frobenius norm of all updates together."""
    squares = [layer.get_delta_weight(_NAME).square().sum() for layer in layers(model).values()]
    return float(torch.stack(squares).sum().sqrt())


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
    weight.requires_grad_(True).register_hook(lambda grad: grad * chosen.to(grad))
    # For the chunks of a model that is shared out, which do not inherit the hook.
    weight.learned = chosen
    weight.decays = False
