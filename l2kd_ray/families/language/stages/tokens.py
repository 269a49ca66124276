"""A tokenized split as flat arrays, made once and mapped into memory by trainings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.stages.decode import Decode
from l2kd_ray.families.language.stages.start import Tokenizer

LossPart = Literal["qa", "lm"]
"""The two rows of a sample: question answering, or the whole sample as language."""


@dataclass(frozen=True, eq=False)
class Tokens(Stage):
    """The tokenized examples of a split, or of its copy with a teacher's answers; not truncated."""

    kind = "tokens"
    prepares = True
    default_seconds = 20.0
    tokenizer: Tokenizer
    source: Examples | Decode

    @property
    def task(self) -> str:
        return self.source.task

    @property
    def rows(self) -> int:
        return self.source.rows

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.model.corpus import Encoded
        from l2kd_ray.families.language.model.sequences import SequenceFormat

        text = SequenceFormat.load(context.files_of(self.tokenizer))
        encoded = Encoded.of(self.source.load(context), text)
        encoded.save(context.out)
        return {"examples": len(encoded), "tokens": len(encoded.flat)}
