"""Batched generation with a key-value cache: finished rows leave, softmax over the top k only."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.decoder import BLOCK, Decoder, closed_up
from l2kd_ray.families.language.model.sequences import TokenIds

DECODING_BATCH = 64
"""Rows that are decoded together."""


class Sampler(Protocol):
    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """The next token [b] of rows [b], from their logits [b, V]; columns after V may be -inf."""


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """The most probable token; the first one among equals."""
    blocks = _blocks(logits)
    block = blocks.amax(-1).argmax(-1, keepdim=True)
    within = blocks.take_along_dim(block.unsqueeze(-1), dim=1).argmax(-1)
    return (block * BLOCK + within).squeeze(-1)


@dataclass(frozen=True)
class TopK:
    """Ancestral sampling from the k most probable tokens.

    Each row has its own stream of uniform numbers, so that a row's sample does not depend on the
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
        largest, tokens = best(logits, self.k)
        cumulative = (largest.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        draw = self.uniforms[rows.cpu(), step].to(logits.device).unsqueeze(-1)
        # The draw is scaled by the sum, since the last cumulative value may round to less than 1.
        index = (cumulative <= draw * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        return tokens.gather(-1, index.clamp(max=largest.shape[-1] - 1)).squeeze(-1)


def best(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of [b, V] and their indices, both [b, k]; twice as fast as `topk`.

    They lie in the k blocks with the largest maxima, and a maximum compares many numbers at once
    where topk compares them one by one.
    """
    blocks = _blocks(logits)
    chosen = blocks.amax(-1).topk(min(k, blocks.shape[1]), dim=-1).indices
    within = blocks.take_along_dim(chosen.unsqueeze(-1), dim=1).flatten(1)
    largest, index = within.topk(min(k, logits.shape[-1]), dim=-1)
    return largest, chosen.gather(-1, index // BLOCK) * BLOCK + index % BLOCK


def _blocks(logits: Tensor) -> Tensor:
    """[b, V] as [b, blocks, BLOCK]; the last block is filled up with -inf."""
    if missing := -logits.shape[-1] % BLOCK:
        logits = F.pad(logits, (0, missing), value=-torch.inf)
    blocks: Tensor = logits.unflatten(-1, (-1, BLOCK))
    return blocks


@torch.inference_mode()
def generate(
    model: CausalLM,
    prompts: Sequence[TokenIds],
    sampler: Sampler,
    *,
    max_new_tokens: int,
    eos: int,
    batch: int = DECODING_BATCH,
    dtype: torch.dtype | None = None,
) -> list[TokenIds]:
    """Continue each prompt until eos (kept), `max_new_tokens`, or the model's context.

    Prompts of similar length share a batch. `dtype` (e.g. bfloat16): decode with a copy of that
    type.
    """
    model = prepared(model, dtype)
    generated: list[TokenIds] = [[] for _ in prompts]
    for rows in batches(prompts, batch):
        _continue(model, prompts, rows, sampler, max_new_tokens, eos, generated)
    return generated


def prepared(model: CausalLM, dtype: torch.dtype | None) -> CausalLM:
    """The model in evaluation mode; a copy of it if another `dtype` is requested."""
    return (copy.deepcopy(model).to(dtype) if dtype else model).eval()


def batches(prompts: Sequence[TokenIds], size: int) -> Iterator[list[int]]:
    """The prompts' indices in order of length, `size` at a time.

    Raises: ValueError for an empty prompt, which cannot be continued.
    """
    if not all(prompts):
        raise ValueError(f"prompt {list(map(len, prompts)).index(0)} is empty")
    by_length = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    for start in range(0, len(prompts), size):
        yield by_length[start : start + size]


def _continue(
    model: CausalLM,
    prompts: Sequence[TokenIds],
    batch: Sequence[int],
    sampler: Sampler,
    max_new_tokens: int,
    eos: int,
    generated: list[TokenIds],
) -> None:
    decoder = Decoder(model, [prompts[row] for row in batch])
    rows = torch.tensor(batch, device=decoder.device)
    room = torch.tensor([model.context - len(prompts[row]) for row in batch], device=rows.device)
    room = room.clamp(max=max_new_tokens)
    for step in range(max_new_tokens):
        tokens = sampler(decoder.logits, rows, step)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            generated[row].append(token)
        going = (tokens != eos) & (room > step + 1)
        if not going.all():
            order = closed_up(going)
            decoder.select(order)
            rows, tokens, room = rows[order], tokens[order], room[order]
        if not len(rows):
            return
        decoder.feed(tokens)
