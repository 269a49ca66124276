"""Incremental decoding of a batch: a cache that grows in blocks, logits in whole blocks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from l2kd_ray.distill.transfer import to_device
from l2kd_ray.families.language.model.causal_lm import CausalLM, EncoderDecoder
from l2kd_ray.families.language.model.sequences import TokenIds

# A new name of the argument, which earlier versions of transformers do not know.
warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)

Pair = tuple[Tensor, Tensor]

_CHUNK = 16  # prompts a CPU reads at once: less padding, and activations stay in its cache
BLOCK = 64  # numbers of a row that are compared at once; columns by which a cache grows
_FEW = 8  # rows up to which the transposed product is faster


def closed_up(going: Tensor) -> Tensor:
    """The rows [n] that continue (of `going` [b], on the CPU), moved as little as possible.

    Each keeps its index, or moves from the end to an index that became free. So a cache moves no
    more rows than have finished.
    """
    order = torch.arange(int(going.sum()))
    order[~going[: len(order)]] = going[len(order) :].nonzero().squeeze(-1) + len(order)
    return order


class Decoder:
    """The decoding state of a batch: its cache, and the `logits` of each row's next token.

    Rows are padded on the left, so that all end in one column. logits: [b, W] in whole blocks: V
    columns, then -inf.
    """

    @staticmethod
    def of(model: CausalLM, prompts: Sequence[TokenIds]) -> Decoder:
        return (SourceDecoder if isinstance(model, EncoderDecoder) else Decoder)(model, prompts)

    def __init__(self, model: CausalLM, prompts: Sequence[TokenIds]) -> None:
        self.model = model
        self.device = model.device
        size = _CHUNK if self.device.type == "cpu" else len(prompts)
        parts = [self._read(prompts[i : i + size]) for i in range(0, len(prompts), size)]
        self.padding = self._tensor([max(map(len, prompts)) - len(prompt) for prompt in prompts])
        self.layers = [GrowingLayer() for _ in parts[0][0]]
        for layer in self.layers:
            layer.hold([layers.pop(0).shown for layers, _ in parts])
        self.logits = _logits(model, torch.cat([hidden for _, hidden in parts]))

    def _tensor(self, numbers: Any) -> Tensor:
        return to_device([torch.tensor(numbers)], self.device)[0]

    def _read(self, prompts: Sequence[TokenIds]) -> tuple[list[GrowingLayer], Tensor]:
        """The cache of some prompts, and their last hidden states [b, d]."""
        layers = [GrowingLayer() for _ in range(self.model.lm.config.num_hidden_layers)]
        return layers, self._hidden(*self._padded(prompts), layers)

    def _padded(self, prompts: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
        """The prompts [b, n], padded on the left, and their padding [b]."""
        padding = [max(map(len, prompts)) - len(prompt) for prompt in prompts]
        rows = [[0] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)]
        return self._tensor(rows), self._tensor(padding)

    def _hidden(self, input_ids: Tensor, padding: Tensor, layers: Sequence[GrowingLayer]) -> Tensor:
        """The last hidden states [b, d] after reading the tokens [b, n]."""
        new = input_ids.shape[1]
        column = torch.arange(layers[0].length + new, device=self.device)
        position = column - padding.unsqueeze(-1)
        output = self.model.lm.base_model(
            input_ids=input_ids,
            attention_mask=position >= 0,
            position_ids=position[:, -new:].clamp(min=0),
            past_key_values=Cache(layers=[*layers]),
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    def feed(self, tokens: Tensor) -> None:
        """Append one token [b] to each row and compute the next logits."""
        hidden = self._hidden(tokens.unsqueeze(-1), self.padding, self.layers)
        self.logits = _logits(self.model, hidden)

    def select(self, order: Tensor) -> Tensor:
        """Keep the rows `order` [n], given on the CPU; returns it on the device."""
        moved = (order != torch.arange(len(order))).nonzero().squeeze(-1)
        order, origin, target = to_device((order, order[moved], moved), self.device)
        for layer in self.layers:
            layer.move(origin, target)
            layer.show(len(order), layer.length)
        self.padding = self.padding[order]
        return order


class SourceDecoder(Decoder):
    """The decoding state of an encoder-decoder, whose encoder reads the prompts.

    Its `layers` are those of what is written, then those of the prompts.
    """

    model: EncoderDecoder

    def _read(self, prompts: Sequence[TokenIds]) -> tuple[list[GrowingLayer], Tensor]:
        tokens, padding = self._padded(prompts)
        width, shift = tokens.shape[1], padding.unsqueeze(-1)
        column = torch.arange(width, device=self.device)
        mask, ahead, back = column >= shift, (column + shift) % width, (column - shift) % width
        # The encoder counts positions from column 0 on, so it reads rows padded on the right.
        encoded = self.model.encoded(tokens.take_along_dim(ahead, 1), mask.take_along_dim(ahead, 1))
        encoded = encoded.take_along_dim(back.unsqueeze(-1), 1)
        start = tokens.new_full((len(prompts), 1), self.model.start)
        caches = [Cache(layer_class_to_replicate=GrowingLayer) for _ in range(2)]
        states = self.model.decoded(start, encoded, mask, EncoderDecoderCache(*caches))
        layers: list[Any] = [layer for cache in caches for layer in cache.layers]
        return layers, states[:, -1]

    def _hidden(self, input_ids: Tensor, padding: Tensor, layers: Sequence[GrowingLayer]) -> Tensor:
        count = len(layers) // 2
        written, given = Cache(layers=[*layers[:count]]), Cache(layers=[*layers[count:]])
        mask = torch.arange(layers[count].length, device=self.device) >= padding.unsqueeze(-1)
        # Only their shape is read: their keys and values are in the cache.
        encoded = mask.unsqueeze(-1)
        cache = EncoderDecoderCache(written, given)
        return self.model.decoded(input_ids, encoded, mask, cache)[:, -1]


def _logits(model: CausalLM, hidden: Tensor) -> Tensor:
    """[b, W]: logits of hidden states [b, d].

    On a CPU, writing rows of 50,257 numbers takes 1.5 times as long as rows of whole blocks,
    because they begin anywhere in a cache line; and MKL's float32 product of few rows takes 1.5 to
    5 times as long as its transpose.
    """
    head, size = model.head, model.vocabulary
    logits = hidden.new_empty(len(hidden), size + -size % BLOCK)
    logits[:, size:] = -torch.inf
    if type(head) is not nn.Linear or head.bias is not None:
        logits[:, :size] = head(hidden)
    elif len(hidden) <= _FEW and hidden.dtype == torch.float32:
        logits[:, :size] = (head.weight @ hidden.t()).t()
    else:
        torch.mm(hidden, head.weight.t(), out=logits[:, :size])
    return logits


class GrowingLayer(DynamicLayer):
    """A cache layer's keys and values [b, heads, n, d]: views of buffers with room to grow.

    Concatenation would copy everything at every step, and indexing for every row that finishes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = self.length = 0
        self.buffers: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        start, end = self.length, self.length + key_states.shape[-2]
        if not self.buffers:
            self.buffers = key_states, value_states
        if end > self.buffers[0].shape[-2]:
            self.hold([self.shown])
        # The first call has just made the buffers from these states.
        if start:
            for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[: len(states), :, start:end] = states
        self.show(len(key_states), end)
        return self.shown

    @property
    def shown(self) -> Pair:
        keys, values = (buffer[: self.rows, :, : self.length] for buffer in self.buffers)
        return keys, values

    def show(self, rows: int, length: int) -> None:
        self.rows, self.length = rows, length
        self.keys, self.values = self.shown
        self.is_initialized = True

    def hold(self, parts: Sequence[Pair]) -> None:
        """Replace the buffers by the rows of all parts, with new room to grow."""
        keys, values = zip(*parts, strict=True)
        self.buffers = _roomy(keys), _roomy(values)
        self.show(sum(map(len, keys)), max(part.shape[-2] for part in keys))

    def move(self, origin: Tensor, target: Tensor) -> None:
        """Copy rows from `origin` to `target`."""
        for buffer in self.buffers:
            buffer[target, :, : self.length] = buffer[origin, :, : self.length]


def _roomy(parts: Sequence[Tensor]) -> Tensor:
    """Rows [b, heads, n, d] stacked; shorter ones start with zeros; one block of room is added."""
    _, heads, _, width = parts[0].shape
    end = max(part.shape[-2] for part in parts)
    buffer = parts[0].new_zeros(sum(map(len, parts)), heads, end + BLOCK, width)
    row = 0
    for part in parts:
        buffer[row : row + len(part), :, end - part.shape[-2] : end] = part
        row += len(part)
    return buffer
