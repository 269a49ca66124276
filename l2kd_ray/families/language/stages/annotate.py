"""Teacher outputs as a stage, computed once for all trainings that share the teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace

from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.families.language.stages.start import Tokenizer, initial_of
from l2kd_ray.families.language.stages.tokens import LossPart, Tokens
from l2kd_ray.families.settings import Precision

DEFAULT_SEQUENCE_LENGTH = 512
"""Assumed tokens of a sequence in estimates if `train.max_length` is not set."""


@dataclass(frozen=True, eq=False)
class Annotate(Stage):
    """A teacher's last hidden states at the supervised positions of all rows, in half precision.

    They serve every temperature, weight, order and epoch, and every student that shares the
    teacher: hidden states before the output layer give the whole distribution.
    With `top_k` only the `top_k` most likely tokens are stored. `tokenizer`: the students', where
    the teacher has another; then positions are those of the teacher's tokens, and its tokenizer and
    config are kept, too. Files: see `annotations`.
    """

    kind = "annotate"
    version = 2  # it says how long its rows were
    distributable = True
    default_bytes = 2e8
    teacher: Stage
    tokens: Tokens
    max_length: int | None
    parts: tuple[LossPart, ...]
    precision: Precision
    top_k: int | None = None
    tokenizer: Tokenizer | None = None

    @property
    def amount(self) -> float:
        return float(self.tokens.rows)

    @property
    def most_bytes(self) -> int | None:
        """Upper bound in bytes of the outputs, beside which the files hold the output layer; None
        if the model's width is unknown."""
        width, rows = initial_of(self.teacher).width, self.tokens.rows * len(self.parts)
        position = 6 * self.top_k + 4 if self.top_k else width and 2 * width
        return position and position * rows * (self.max_length or DEFAULT_SEQUENCE_LENGTH)

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.model.corpus import Corpus, Encoded
        from l2kd_ray.families.language.model.sequences import SequenceFormat
        from l2kd_ray.families.language.model.translation import Translation
        from l2kd_ray.families.language.stages.annotations import write
        from l2kd_ray.families.language.stages.curriculum import SequenceRow, sequence
        from l2kd_ray.families.language.stages.reading import opened
        from l2kd_ray.families.language.stages.teachers import Live

        own, model = opened(self.teacher, context)
        text = own
        if self.tokenizer is not None:
            text = SequenceFormat.load(context.files_of(self.tokenizer))
        if self.top_k is not None and self.top_k >= model.vocabulary:
            raise ValueError(f"kd.top_k={self.top_k}: the vocabulary has {model.vocabulary} tokens")
        longest = min(self.max_length or model.context, model.context)
        encoded = Encoded.load(context.files_of(self.tokens))
        samples = Corpus(encoded, self.tokens.task, text.room(self.tokens.task, longest))
        rows = [
            SequenceRow(sequence(text, sample, part), part, index)
            for index, sample in enumerate(samples)
            for part in self.parts
        ]
        if self.tokenizer is not None:
            translation = Translation.load(text, context.files_of(self.teacher))
            rows = [replace(row, shown=translation.of(row.sequence)[0]) for row in rows]
            own.save(context.out)
            model.lm.config.save_pretrained(context.out)
        half = self.precision == "bfloat16"
        return {"positions": write(rows, Live(model), context, half=half, keep=self.top_k)}
