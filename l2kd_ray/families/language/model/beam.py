"""Beam search, by transformers: a teacher decodes once, so its speed matters little."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from l2kd_ray.families.language.model.causal_lm import CausalLM, EncoderDecoder
from l2kd_ray.families.language.model.generation import DECODING_BATCH, by_length
from l2kd_ray.families.language.model.sequences import TokenIds


@torch.inference_mode()
def beam(
    model: CausalLM,
    prompts: Sequence[TokenIds],
    beams: int,
    *,
    max_new_tokens: int,
    eos: int,
    batch: int = DECODING_BATCH,
) -> list[TokenIds]:
    """The continuation of each prompt with the best mean log-probability a token.

    It ends with eos (kept, and counted in its length), after `max_new_tokens`, or where the longest
    prompt beside it meets the model's context. `batch` counts beams.
    """
    from transformers import GenerationConfig

    model.eval()
    device, encodes = model.device, isinstance(model, EncoderDecoder)
    found: list[TokenIds] = [[] for _ in prompts]
    order, size = by_length(prompts), max(1, batch // beams)
    for start in range(0, len(prompts), size) if max_new_tokens > 0 else ():
        rows = order[start : start + size]
        width = max(len(prompts[row]) for row in rows)
        room = min(max_new_tokens, model.context - width)
        if room < 1:
            continue
        # On the left, so that all prompts end in one column. An encoder counts its positions from
        # column 0 on, and of some models (BART) whatever the mask says.
        padding = [[eos] * (width - len(prompts[row])) for row in rows]
        mask = [[0] * len(pad) + [1] * (width - len(pad)) for pad in padding]
        input_ids = [pad + prompts[row] for pad, row in zip(padding, rows, strict=True)]
        if encodes:
            mask = [row[::-1] for row in mask]
            input_ids = [prompts[row] + pad for pad, row in zip(padding, rows, strict=True)]
        how = GenerationConfig(
            num_beams=beams,
            max_new_tokens=room,
            do_sample=False,
            early_stopping=False,
            eos_token_id=eos,
            pad_token_id=eos,
            decoder_start_token_id=model.start if isinstance(model, EncoderDecoder) else None,
        )
        # A checkpoint's own (a penalty, a forced last token) would fill in what `how` leaves out.
        own, model.lm.generation_config = model.lm.generation_config, how
        try:
            written = model.lm.generate(
                torch.tensor(input_ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=how,
            )
        finally:
            model.lm.generation_config = own
        read = 1 if encodes else width
        for row, tokens in zip(rows, written[:, read:].tolist(), strict=True):
            found[row] = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
    return found
