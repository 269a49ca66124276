"""A split in tokens, as flat arrays: made once, mapped into memory by whoever learns it."""

from __future__ import annotations

from dataclasses import dataclass

from l2kd_ray.stages.base import Context, Scores, Stage
from l2kd_ray.stages.decode import Decode
from l2kd_ray.stages.start import Tokenizer
from l2kd_ray.tasks import TaskData


@dataclass(frozen=True, eq=False)
class Tokens(Stage):
    """The examples of a split, or those with a teacher's answers, through the tokenizer; uncut."""

    kind = "tokens"
    tokenizer: Tokenizer
    source: TaskData | Decode

    @property
    def task(self) -> str:
        return self.source.task

    @property
    def rows(self) -> int:
        data = self.source.data if isinstance(self.source, Decode) else self.source
        return data.rows

    def run(self, context: Context) -> Scores:
        from l2kd_ray.models.corpus import Encoded
        from l2kd_ray.models.sequences import SequenceFormat

        text = SequenceFormat.load(context.files_of(self.tokenizer))
        if isinstance(self.source, Decode):
            examples = self.source.examples(context.files_of(self.source))
        else:
            examples = self.source.examples()
        encoded = Encoded.of(examples, text)
        encoded.save(context.out)
        return {"examples": len(encoded), "tokens": len(encoded.flat)}
