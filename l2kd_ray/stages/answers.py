"""Answers of a model to the questions of a task: what evaluation scores and Seq-KD teaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from l2kd_ray.config import Decoding
from l2kd_ray.stages.base import generator

if TYPE_CHECKING:
    from l2kd_ray.models.causal_lm import CausalLM
    from l2kd_ray.models.sequences import SequenceFormat
    from l2kd_ray.tasks import Example


def answers(
    model: CausalLM,
    text: SequenceFormat,
    examples: Sequence[Example],
    decoding: Decoding,
    max_new_tokens: int,
    stream: tuple[int, str, str],
) -> list[str]:
    """The decoded answer to each example.

    `stream` (seed, name, place) names the random draws of `sample`; each example has its own.
    """
    from l2kd_ray.models.generation import TopK, generate, greedy

    room = min(max_new_tokens, model.context // 2)
    prompts = text.test_prompts(examples, model.context - room)
    if decoding.strategy == "beam":
        from l2kd_ray.models.beam import beam

        decoded = beam(model, prompts, decoding.beams, max_new_tokens=room, eos=text.eos)
    else:
        draws = [generator(*stream, example.id) for example in examples]
        sampled = decoding.strategy == "sample"
        sampler = (
            TopK.seeded(decoding.top_k, decoding.temperature, draws, room) if sampled else greedy
        )
        decoded = generate(model, prompts, sampler, max_new_tokens=room, eos=text.eos)
    return [text.decode(answer) for answer in decoded]
