"""Teacher outputs as a stage, computed once for all trainings that share the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.families.language.stages.start import Initial
from l2kd_ray.families.language.stages.tokens import LossPart, Tokens
from l2kd_ray.families.settings import Precision

DEFAULT_SEQUENCE_LENGTH = 512
"""Assumed tokens of a sequence in estimates if `train.max_length` is not set."""


@dataclass(frozen=True, eq=False)
class Annotate(Stage):
    """A teacher's last hidden states at the supervised positions of all rows, in half precision.

    They serve every temperature, weight, order and epoch, and every student that shares the
    teacher: hidden states before the output layer give the whole distribution.
    With `top_k` only the `top_k` most likely tokens are stored. Files: see `annotations`.
    """

    kind = "annotate"
    default_bytes = 2e8
    teacher: Stage
    tokens: Tokens
    max_length: int | None
    parts: tuple[LossPart, ...]
    precision: Precision
    top_k: int | None = None

    @property
    def amount(self) -> float:
        return float(self.tokens.rows)

    @property
    def most_bytes(self) -> int | None:
        """Upper bound in bytes of this stage's files; None if the model's width is unknown."""
        width, rows = self.initial.width, self.tokens.rows * len(self.parts)
        position = 6 * self.top_k + 4 if self.top_k else width and 2 * width
        return position and position * rows * (self.max_length or DEFAULT_SEQUENCE_LENGTH)

    @property
    def initial(self) -> Initial:
        """The untrained model that the teacher's training started from."""
        stage: Any = self.teacher
        while not isinstance(stage, Initial):
            stage = stage.start
        return stage

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.model.causal_lm import CausalLM
        from l2kd_ray.families.language.model.corpus import Corpus, Encoded
        from l2kd_ray.families.language.model.sequences import SequenceFormat
        from l2kd_ray.families.language.stages.annotations import write
        from l2kd_ray.families.language.stages.curriculum import SequenceRow, sequence
        from l2kd_ray.families.language.stages.teachers import Live

        folder = context.files_of(self.teacher)
        text, live = SequenceFormat.load(folder), Live(CausalLM.load(folder))
        live.to(context.device)
        if self.top_k is not None and self.top_k >= live.vocabulary:
            raise ValueError(f"kd.top_k={self.top_k}: the vocabulary has {live.vocabulary} tokens")
        longest = min(self.max_length or live.model.context, live.model.context)
        encoded = Encoded.load(context.files_of(self.tokens))
        samples = Corpus(encoded, self.tokens.task, text.room(self.tokens.task, longest))
        rows = [
            SequenceRow(sequence(text, sample, part), part, index)
            for index, sample in enumerate(samples)
            for part in self.parts
        ]
        half = self.precision == "bfloat16"
        return {"positions": write(rows, live, context, half=half, keep=self.top_k)}
