"""Seq-KD's targets: the teacher's answers to the training questions of its task."""

from __future__ import annotations

from dataclasses import dataclass, replace

from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.stages.answers import Decoding, answers
from l2kd_ray.tasks import Example, write_squad
from l2kd_ray.tasks.readers import squad


@dataclass(frozen=True, eq=False)
class Decode(Stage):
    """The training examples of a task with a teacher's answers, as a `distil` file.

    The file is SQuAD-like and named as in the original code, so that other tools can read it. If
    the teacher's answer is empty, the given answer is kept. `seed` is None if nothing is drawn.
    """

    kind = "decode"
    distributable = True
    default_seconds = 300.0
    teacher: Stage
    source: Examples
    decoding: Decoding
    max_new_tokens: int
    seed: int | None

    @property
    def task(self) -> str:
        return self.source.task

    @property
    def rows(self) -> int:
        return self.source.rows

    @property
    def amount(self) -> float:
        return float(self.rows)

    @property
    def file(self) -> str:
        return f"{self.task}_to_squad-distil-v2.0.json"

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.stages.reading import opened

        text, model = opened(self.teacher, context, self.decoding.precision)
        examples = self.source.load(context)
        stream = (self.seed or 0, "decode", self.task)
        how = self.decoding, self.max_new_tokens, stream
        decoded = answers(model, text, examples, *how, context)
        targets = [
            replace(example, answers=(answer or example.answers[0],))
            for example, answer in zip(examples, decoded, strict=True)
        ]
        write_squad(context.out / self.file, targets)
        same = [a.answers[0] == b.answers[0] for a, b in zip(targets, examples, strict=True)]
        return {"rows": len(same), "empty": decoded.count(""), "same": 100 * sum(same) / len(same)}

    def load(self, context: Context) -> list[Example]:
        """The examples with decoded answers, from this stage's files."""
        rows = squad.read(str(context.files_of(self) / self.file), {})
        return [row for row in rows if isinstance(row, Example)]
