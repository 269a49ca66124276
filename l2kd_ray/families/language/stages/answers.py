"""A model's answers to the questions of a task, for evaluation and for Seq-KD's targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from l2kd_ray.core.randomness import generator

if TYPE_CHECKING:
    from l2kd_ray.core.stage import Context
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.sequences import SequenceFormat
    from l2kd_ray.tasks import Example


@dataclass(frozen=True)
class Decoding:
    """Settings of decoding; fields that the strategy does not read are None."""

    strategy: Literal["greedy", "beam", "sample"]
    beams: int | None = None
    top_k: int | None = None
    temperature: float | None = None
    precision: str | None = None
    """The type of the weights that decode; None: float32."""

    @property
    def draws(self) -> bool:
        return self.strategy == "sample"


def answers(
    model: CausalLM,
    text: SequenceFormat,
    examples: Sequence[Example],
    decoding: Decoding,
    max_new_tokens: int,
    stream: tuple[int, str, str],
    context: Context,
) -> list[str]:
    """The decoded answer to each example; the workers share the examples out among them.

    `stream` (seed, name, where) names the random draws of `sample`; each example has its own.
    """
    from l2kd_ray.families.language.model.beam import beam
    from l2kd_ray.families.language.model.generation import TopK, generate, greedy

    longest, room = rooms(model, max_new_tokens)

    def answered(share: Sequence[Example]) -> list[str]:
        prompts = text.test_prompts(share, longest)
        if decoding.strategy == "beam":
            decoded = beam(model, prompts, decoding.beams or 1, max_new_tokens=room, eos=text.eos)
        else:
            draws = [generator(*stream, example.id) for example in share]
            top_k, temperature = decoding.top_k or 1, decoding.temperature or 1.0
            drawn = (top_k, temperature, draws, room, model.device)
            sampler = TopK.seeded(*drawn) if decoding.draws else greedy
            decoded = generate(model, prompts, sampler, max_new_tokens=room, eos=text.eos)
        return [text.decode(answer) for answer in decoded]

    return context.shared_out(answered, examples, model.go_along)


def rooms(model: CausalLM, max_new_tokens: int) -> tuple[int, int]:
    """The largest numbers of tokens of a prompt and of an answer: half of the context or more is
    the prompt's."""
    answer = min(max_new_tokens, model.context // 2)
    return model.context - answer, answer
