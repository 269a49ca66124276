"""Batched generation with a key-value cache: finished rows leave, softmax over the top k alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from l2kd_ray.models.causal_lm import CausalLM
from l2kd_ray.models.sequences import Tokens

BATCH = 64


class Sampler(Protocol):
    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """The next token [b] of rows [b], given their logits [b, V]."""


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """The most probable token."""
    return logits.argmax(dim=-1)


@dataclass(frozen=True)
class TopK:
    """Ancestral sampling from the k most probable tokens.

    Each row has a stream of uniforms of its own, so that what a row draws does not depend on the
    rows beside it. uniforms: [rows, steps] in [0, 1).
    """

    k: int
    temperature: float
    uniforms: Tensor

    @classmethod
    def seeded(
        cls, k: int, temperature: float, streams: Sequence[np.random.Generator], steps: int
    ) -> TopK:
        draws = [stream.random(steps) for stream in streams]
        return cls(k, temperature, torch.from_numpy(np.stack(draws)))

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        best, tokens = logits.topk(min(self.k, logits.shape[-1]), dim=-1)
        cumulative = (best.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        draw = self.uniforms[rows.cpu(), step].to(logits.device).unsqueeze(-1)
        place = (cumulative <= draw * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        return tokens.gather(-1, place.clamp(max=best.shape[-1] - 1)).squeeze(-1)


@torch.inference_mode()
def generate(
    model: CausalLM,
    prompts: Sequence[Tokens],
    sampler: Sampler,
    *,
    max_new_tokens: int,
    eos: int,
    batch: int = BATCH,
) -> list[Tokens]:
    """Continue each prompt until eos (kept), `max_new_tokens`, or the model's context.

    Prompts of like length share a batch.
    """
    model.eval()
    generated: list[Tokens] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    for start in range(0, len(prompts), batch):
        rows = by_length[start : start + batch]
        _continue(model, prompts, rows, sampler, max_new_tokens, eos, generated)
    return generated


def _continue(
    model: CausalLM,
    prompts: Sequence[Tokens],
    batch: Sequence[int],
    sampler: Sampler,
    max_new_tokens: int,
    eos: int,
    generated: list[Tokens],
) -> None:
    from transformers import DynamicCache

    device = next(model.parameters()).device
    width = max(len(prompts[row]) for row in batch)
    padding = [width - len(prompts[row]) for row in batch]
    input_ids = torch.tensor(
        [[eos] * pad + prompts[row] for pad, row in zip(padding, batch, strict=True)], device=device
    )
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding], device=device)
    rows = torch.tensor(list(batch), device=device)
    room = torch.tensor([model.context - len(prompts[row]) for row in batch], device=device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.lm.config)
    for step in range(max_new_tokens):
        hidden = _forward(model, input_ids, mask, position, cache)
        tokens = sampler(model.head(hidden), rows, step)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            generated[row].append(token)
        going = ((tokens != eos) & (room > step + 1)).nonzero().squeeze(-1)
        if not len(going) or step + 1 == max_new_tokens:
            return
        if len(going) < len(rows):
            cache.batch_select_indices(going)
            rows, tokens, room = rows[going], tokens[going], room[going]
            mask, position = mask[going], position[going]
        input_ids = tokens.unsqueeze(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
        position = position[:, -1:] + 1


def _forward(
    model: CausalLM, input_ids: Tensor, mask: Tensor, position: Tensor, cache: Any
) -> Tensor:
    """The last position's hidden state [b, d]; `cache` grows by the input."""
    output = model.lm.base_model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
    )
    hidden: Tensor = output.last_hidden_state[:, -1]
    return hidden
