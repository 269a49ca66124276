"""Batched generation with a key-value cache: finished rows leave, softmax over the top k only.

On a CPU a row leaves with its last token. To look for it, the host waits for the device; so on
others it looks once in `LOOK` tokens, and what a row was given after its end is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from l2kd_ray.core.memory import in_parts
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.decoder import BLOCK, Decoder, closed_up
from l2kd_ray.families.language.model.sequences import TokenIds

DECODING_BATCH, LARGE_BATCH = 64, 512
"""Rows that are decoded together on a CPU, and on a device to which more rows are no more work."""
LOOK = 16


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
    """Ancestral sampling from the k most probable tokens, or from all of them.

    Each row has its own stream of uniform numbers, so that a row's sample does not depend on the
    rows beside it. uniforms: [rows, steps] in [0, 1), on the model's device.
    """

    k: int | None
    temperature: float
    uniforms: Tensor

    @classmethod
    def seeded(
        cls,
        k: int | None,
        temperature: float,
        streams: Sequence[np.random.Generator],
        steps: int,
        device: torch.device | str,
    ) -> TopK:
        draws = [stream.random(steps) for stream in streams]
        return cls(k, temperature, torch.from_numpy(np.stack(draws)).to(device))

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        largest, tokens = (logits, None) if self.k is None else best(logits, self.k)
        cumulative = (largest.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        draw = self.uniforms[rows, step].unsqueeze(-1)
        # The draw is scaled by the sum, since the last cumulative value may round to less than 1.
        index = (cumulative <= draw * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        index = index.clamp(max=largest.shape[-1] - 1)
        return (index if tokens is None else tokens.gather(-1, index)).squeeze(-1)


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
    batch: int | None = None,
) -> list[TokenIds]:
    """Continue each prompt until eos (kept), `max_new_tokens`, or the model's context.

    Prompts of similar length share a batch.
    """
    model.eval()
    generated: list[TokenIds] = [[] for _ in prompts]
    if max_new_tokens < 1:
        return generated
    alone = not model.is_shared_out
    few = model.device.type == "cpu" or not alone
    size = batch or (DECODING_BATCH if few else LARGE_BATCH)

    def work(rows: Sequence[int]) -> list[tuple[int, TokenIds]]:
        return _continue(model, prompts, rows, sampler, max_new_tokens, eos)

    parts = in_parts(work, by_length(prompts), size, again=alone)
    for row, tokens in chain.from_iterable(parts):
        generated[row] = tokens
    return generated


def by_length(prompts: Sequence[TokenIds]) -> list[int]:
    """The prompts' indices in order of length.

    Raises: ValueError for an empty prompt, which cannot be continued.
    """
    if not all(prompts):
        raise ValueError(f"prompt {list(map(len, prompts)).index(0)} is empty")
    return sorted(range(len(prompts)), key=lambda row: len(prompts[row]))


def _continue(
    model: CausalLM,
    prompts: Sequence[TokenIds],
    batch: Sequence[int],
    sampler: Sampler,
    max_new_tokens: int,
    eos: int,
) -> list[tuple[int, TokenIds]]:
    """The prompts' numbers in `batch`, each with its continuation."""
    decoder = Decoder.of(model, [prompts[row] for row in batch])
    rows = torch.tensor(batch).to(decoder.device)
    every = 1 if decoder.device.type == "cpu" else LOOK
    going = [_Row(row, min(model.context - len(prompts[row]), max_new_tokens), []) for row in batch]
    every_row, waiting = [*going], list[Tensor]()
    for step in range(max_new_tokens):
        tokens = sampler(decoder.logits, rows, step)
        waiting.append(tokens)
        # No row goes on beyond its room, where the model's context may end.
        if len(waiting) == min(every, max(1, min(row.room for row in going))):
            read = torch.stack(waiting, dim=1).tolist()  # waits for the device
            waiting.clear()
            goes = [row.take(new, eos) for row, new in zip(going, read, strict=True)]
            if not any(goes):
                break
            if not all(goes):
                order = closed_up(torch.tensor(goes))
                going = [going[index] for index in order.tolist()]
                there = decoder.select(order)
                rows, tokens = rows[there], tokens[there]
        decoder.feed(tokens)
    return [(row.number, row.tokens) for row in every_row]


@dataclass
class _Row:
    """A prompt that is being continued: its number, and how many tokens it has room for."""

    number: int
    room: int
    tokens: TokenIds

    def take(self, new: TokenIds, eos: int) -> bool:
        """Append tokens up to eos; True if the row goes on."""
        ended = eos in new
        self.tokens += new[: new.index(eos) + 1] if ended else new
        self.room -= len(new)
        return not ended and self.room > 0
