"""Batched generation with a key-value cache: finished rows leave, softmax over the top k alone."""

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
from l2kd_ray.families.language.model.sequences import Tokens

BATCH = 64


class Sampler(Protocol):
    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """The next token [b] of rows [b], given their logits [b, V]; after V there may be -inf."""


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """The most probable token, the first of equals."""
    blocks = _blocks(logits)
    block = blocks.amax(-1).argmax(-1, keepdim=True)
    within = blocks.take_along_dim(block.unsqueeze(-1), dim=1).argmax(-1)
    return (block * BLOCK + within).squeeze(-1)


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
        largest, tokens = best(logits, self.k)
        cumulative = (largest.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        draw = self.uniforms[rows.cpu(), step].to(logits.device).unsqueeze(-1)
        place = (cumulative <= draw * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        return tokens.gather(-1, place.clamp(max=largest.shape[-1] - 1)).squeeze(-1)


def best(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of [b, V] and their places, both [b, k]: `topk`, twice as fast.

    They lie in the k blocks with the largest maxima, and a maximum is taken of many numbers at
    once where topk looks at one by one.
    """
    blocks = _blocks(logits)
    chosen = blocks.amax(-1).topk(min(k, blocks.shape[1]), dim=-1).indices
    within = blocks.take_along_dim(chosen.unsqueeze(-1), dim=1).flatten(1)
    largest, place = within.topk(min(k, logits.shape[-1]), dim=-1)
    return largest, chosen.gather(-1, place // BLOCK) * BLOCK + place % BLOCK


def _blocks(logits: Tensor) -> Tensor:
    """[b, V] as [b, blocks, BLOCK]; what is missing of the last block is -inf."""
    if missing := -logits.shape[-1] % BLOCK:
        logits = F.pad(logits, (0, missing), value=-torch.inf)
    blocks: Tensor = logits.unflatten(-1, (-1, BLOCK))
    return blocks


@torch.inference_mode()
def generate(
    model: CausalLM,
    prompts: Sequence[Tokens],
    sampler: Sampler,
    *,
    max_new_tokens: int,
    eos: int,
    batch: int = BATCH,
    dtype: torch.dtype | None = None,
) -> list[Tokens]:
    """Continue each prompt until eos (kept), `max_new_tokens`, or the model's context.

    Prompts of like length share a batch. `dtype` (bfloat16, say) is that of a copy to decode with.
    """
    model = prepared(model, dtype)
    generated: list[Tokens] = [[] for _ in prompts]
    for rows in batches(prompts, batch):
        _continue(model, prompts, rows, sampler, max_new_tokens, eos, generated)
    return generated


def prepared(model: CausalLM, dtype: torch.dtype | None) -> CausalLM:
    """The model for decoding, or a copy of it in `dtype`."""
    return (copy.deepcopy(model).to(dtype) if dtype else model).eval()


def batches(prompts: Sequence[Tokens], size: int) -> Iterator[list[int]]:
    """The prompts in order of length, `size` at a time.

    Raises: ValueError on an empty prompt: there is nothing to continue.
    """
    if not all(prompts):
        raise ValueError(f"prompt {list(map(len, prompts)).index(0)} is empty")
    by_length = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    for start in range(0, len(prompts), size):
        yield by_length[start : start + size]


def _continue(
    model: CausalLM,
    prompts: Sequence[Tokens],
    batch: Sequence[int],
    sampler: Sampler,
    max_new_tokens: int,
    eos: int,
    generated: list[Tokens],
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
