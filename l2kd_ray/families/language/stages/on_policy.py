"""A student that learns from its own words: how it writes them, and itself as its teacher.

Imported without torch: these are fields of stages. `writing` writes, `teachers` has the teachers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from l2kd_ray.families.language.model.sequences import TokenIds, TrainingSequence

ANSWER = "{answer}"
"""Stands for the given answer in the template of a demonstration."""


@dataclass(frozen=True)
class Sampling:
    """Answers that the student writes during its training, at the steps that learn from them.

    `share` of the new samples have such an answer in place of the given one; None: a share that
    grows with the student's loss on dev (DistiLLM, Ko et al. 2024, arXiv 2402.03898). Answers for
    `renew_every` steps are written at once, by the student as it is before the first of them.
    `top_k` None draws from the whole vocabulary; at 1 `temperature` is None.
    """

    share: float | None
    max_new_tokens: int
    temperature: float | None
    top_k: int | None
    renew_every: int


@dataclass(frozen=True)
class OwnTeacher:
    """The student as its own teacher (SDFT, Shenfeld et al. 2026, arXiv 2601.19897).

    `weights`: those before the task (`base`), a moving average that takes `rate` of the student's
    before each step (`ema`), or the student's own (`live`). `demonstration`: a template that shows
    it the given answer. The first `skip_tokens` of an answer are not learned.
    """

    weights: Literal["base", "ema", "live"]
    rate: float | None = None
    demonstration: str | None = None
    skip_tokens: int = 0


@dataclass(frozen=True)
class Demonstration:
    """The given answer within a template's tokens, shown to a teacher that reads `longest` tokens.

    It stands between the question and `<ans>`.
    """

    before: TokenIds
    after: TokenIds
    longest: int

    def tokens(self, answer: TokenIds, taken: int) -> TokenIds:
        """The demonstration of an answer beside `taken` other tokens.

        The answer is cut at its end to fit; if not even the template fits there is none.
        """
        room = self.longest - taken - len(self.before) - len(self.after)
        return [] if room < 0 else [*self.before, *answer[:room], *self.after]

    def shown(self, sequence: TrainingSequence, answer: TokenIds) -> TrainingSequence:
        """A QA sequence as the teacher reads it."""
        from l2kd_ray.families.language.model.sequences import TrainingSequence

        inserted = self.tokens(answer, len(sequence.tokens))
        end = sequence.source - 1  # of the question; `<ans>` follows
        tokens = [*sequence.tokens[:end], *inserted, *sequence.tokens[end:]]
        return TrainingSequence(tokens, sequence.source + len(inserted))
