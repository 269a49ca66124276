"""Language models: loading, saving, and hidden states at selected positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from l2kd_ray.core.shard import InStep, place_layers
from l2kd_ray.core.stage import Sharding
from l2kd_ray.distill.transfer import to_device
from l2kd_ray.families.language.model.masks import ask_nothing
from l2kd_ray.models.architecture import UNLIMITED, config_of, position_limit
from l2kd_ray.models.loading import load_config, load_model
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.models.vocabulary import vocabulary_size

ask_nothing()


class CausalLM(nn.Module):
    """A transformers causal LM in two parts: its body, and the output layer on selected positions.

    In a small model the output layer is most of the work, and most positions carry no loss.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm
        self._again = False
        """Whether activations are computed again in the backward pass."""
        self._in_step: InStep | None = None

    @staticmethod
    def load(folder: Path, precision: str | None = None, **more: Any) -> CausalLM:
        """Load a model from a folder that `save` wrote; in float32, or in a `precision`.

        `more`: arguments of `from_pretrained`.
        """
        from transformers import AutoConfig

        auto, own = _classes(AutoConfig.from_pretrained(folder, local_files_only=True))
        dtype = precision or torch.float32
        more |= {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
        return own(auto.from_pretrained(folder, **more))

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder: config.json, model.safetensors."""
        self.lm.save_pretrained(folder)

    def forward(
        self, input_ids: Tensor, positions: Tensor, sources: Sequence[int] | None = None
    ) -> Tensor:
        """The last hidden states [P, d] at flat `positions` [P] of `input_ids` [R, n].

        Rows are padded on the right: under causal attention no real token sees the padding, so
        no mask is needed. `sources`: how many tokens of each row are given (default: the first),
        which are no others to a causal LM.
        """
        # A layer that is computed again in the backward pass would find another kernel there.
        with nullcontext() if self._again else _attention(input_ids):
            return self._states(input_ids, positions, sources or [1] * len(input_ids))

    def _states(self, input_ids: Tensor, positions: Tensor, sources: Sequence[int]) -> Tensor:
        states = self.lm.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        hidden: Tensor = states.flatten(0, 1)[positions]
        return hidden

    @property
    def head(self) -> nn.Module:
        layer: nn.Module = self.lm.get_output_embeddings()
        return layer

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def vocabulary(self) -> int:
        """The number of tokens that the model predicts among."""
        return int(self.lm.get_output_embeddings().weight.shape[0])

    @property
    def context(self) -> int:
        """The longest sequence that the model takes, in tokens."""
        return position_limit(self.lm.config) or UNLIMITED

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The classes of its layers, by transformers' own list."""
        return tuple(self.lm._no_split_modules or ())

    def checkpoint_activations(self) -> None:
        """Compute the layers' activations again in the backward pass instead of keeping them."""
        self.lm.gradient_checkpointing_enable({"use_reentrant": False})
        self._again = True

    @torch.no_grad()
    def average_with(self, other: CausalLM, share: float) -> None:
        """Replace the weights by an average: `share` of another model's, the rest of its own."""
        theirs = dict(other.to(self.device).named_parameters())
        for name, parameter in self.named_parameters():
            parameter.lerp_(theirs[name], share)

    def freeze(self) -> CausalLM:
        """Switch to a teacher's state: no dropout, no gradients."""
        return self.eval().requires_grad_(False)

    def place(self, how: Sharding | None, device: str) -> None:
        """Move to the device to be read; with `how` several workers share out the layers.

        Then all must make as many forward passes: one that has made its own calls `go_along`.
        """
        self._in_step = place_layers(self, self.shared_part, how, device, self._smallest_pass)

    @property
    def shared_part(self) -> nn.Module:
        """The part that every forward pass runs: the layers that workers share out by `place`."""
        return self

    @property
    def is_shared_out(self) -> bool:
        """True if all workers must run it together, by `place`."""
        return self._in_step is not None

    def go_along(self) -> None:
        """Make forward passes while other workers have some to make."""
        if self._in_step is not None:
            self._in_step.finish()

    @torch.inference_mode()  # as decoding: what one mode has put together the other cannot use
    def _smallest_pass(self) -> None:
        zeros = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        self(zeros, zeros[0])


class EncoderDecoder(CausalLM):
    """An encoder-decoder such as T5: its encoder reads what is given of a row, and its decoder
    predicts the rest.

    So each token is predicted from all before it, as by a causal LM.
    """

    def _states(self, input_ids: Tensor, positions: Tensor, sources: Sequence[int]) -> Tensor:
        width = input_ids.shape[1]
        longest, steps = max(sources), width - min(sources) + 1
        (given,) = to_device([torch.tensor(sources)], input_ids.device)
        column = torch.arange(width, device=input_ids.device)
        mask = column[:longest] < given[:, None]
        # The decoder reads its start, then what is not given.
        read = (given[:, None] - 1 + torch.arange(steps, device=input_ids.device)).clamp(
            max=width - 1
        )
        tokens = input_ids.gather(1, read)
        tokens[:, 0] = self.start
        states = self.decoded(tokens, self.encoded(input_ids[:, :longest], mask), mask)
        row = positions // width
        step = positions % width - given[row] + 1
        return states.flatten(0, 1)[row * steps + step]

    @property
    def shared_part(self) -> nn.Module:
        """The decoder: a decoded token does not run the encoder, which each worker has whole."""
        decoder: nn.Module = self.lm.get_decoder()
        return decoder

    @property
    def start(self) -> int:
        """The token that the decoder reads first."""
        return int(self.lm.config.decoder_start_token_id)

    def encoded(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """The encoder's states [R, m, d] of what is given [R, m]; `mask` is False at padding."""
        states: Tensor = self.lm.get_encoder()(
            input_ids=input_ids, attention_mask=mask
        ).last_hidden_state
        return states

    def decoded(self, tokens: Tensor, encoded: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        """The decoder's last hidden states [R, n, d], as the output layer reads them."""
        output = self.lm.get_decoder()(
            input_ids=tokens,
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        states: Tensor = output.last_hidden_state
        config = self.lm.config
        # T5 with tied embeddings, but not its version 1.1.
        scaled = getattr(config, "scale_decoder_outputs", False)
        return states * config.d_model**-0.5 if scaled else states


def _classes(config: Any) -> tuple[Any, type[CausalLM]]:
    """The classes of a config's model: transformers' automatic one, and the one of this module."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM, EncoderDecoder
    return AutoModelForCausalLM, CausalLM


SHORT = 128
"""Row length in tokens up to which plain attention is faster than the fused kernel on CPUs."""


def _attention(input_ids: Tensor) -> AbstractContextManager[None]:
    """The attention kernel for rows [R, n]: torch's fused one, except for short rows on CPUs.

    There the backward pass of the fused kernel in bfloat16 takes three to six times as long as
    plain matrix products.
    """
    if input_ids.device.type == "cpu" and input_ids.shape[1] <= SHORT:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def build(arch: str, overrides: Mapping[str, Any], tokenizer: Any, seed: int) -> CausalLM:
    """A model from scratch whose weights are drawn from `seed`.

    Raises: ValueError as `outline` does.
    """
    torch.manual_seed(seed)
    size, eos = vocabulary_size(tokenizer), tokenizer.eos_token_id
    return _from_config(arch, overrides, vocab_size=size, eos_token_id=eos)


def outline(arch: str, overrides: Mapping[str, Any]) -> CausalLM:
    """The model of an architecture without its weights.

    Raises: ValueError: unknown architecture, a field that its config does not have, or sizes that
        do not fit together.
    """
    with torch.device("meta"):
        return _from_config(arch, overrides, eos_token_id=0)


def _from_config(
    arch: str, fields: Mapping[str, Any], *, eos_token_id: int, **more: int
) -> CausalLM:
    from transformers.models.auto import modeling_auto as known

    names = (
        *("gpt2", "llama", "qwen2", "t5"),
        *known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    config = config_of(arch, fields, names, "language model")
    tokens = ["bos_token_id", "eos_token_id"]
    if config.is_encoder_decoder:
        tokens += ["pad_token_id", "decoder_start_token_id"]
    config = type(config)(**{**fields, **more, **dict.fromkeys(tokens, eos_token_id)})
    auto, own = _classes(config)
    return own(auto.from_config(config, dtype=torch.float32))


def load_pretrained(source: Pretrained) -> CausalLM:
    """Load a model from a hub id or folder. Raises: InputError as `load_model` does."""
    auto, own = _classes(load_config(source))
    return own(load_model(auto, source))


@torch.no_grad()
def add_vocabulary(model: CausalLM, size: int, new: Sequence[int]) -> None:
    """Resize the embeddings to `size` tokens; the `new` ids start at the mean of the old.

    Randomly initialised rows make GPT-2 emit special tokens from the start. Rows that belong to no
    token are removed, so that models of one tokenizer, however padded, predict among the same
    tokens.
    """
    lm = model.lm
    if size != lm.get_input_embeddings().num_embeddings:
        # The mean is taken below, over the old rows only.
        lm.resize_token_embeddings(size, mean_resizing=False)
    if not new:
        return
    layers = [lm.get_input_embeddings()]
    # Tied embeddings are one tensor, which must be set once.
    if lm.get_output_embeddings().weight is not layers[0].weight:
        layers.append(lm.get_output_embeddings())
    for layer in layers:
        layer.weight[list(new)] = layer.weight[: min(new)].mean(dim=0)
