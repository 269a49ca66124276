"""Seq-KD's targets: the teacher's own answers to the training questions of its task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from l2kd_ray.config import Decoding
from l2kd_ray.stages.answers import answers
from l2kd_ray.stages.base import Context, Scores, Stage
from l2kd_ray.tasks import Example, TaskData, write_squad
from l2kd_ray.tasks.readers import squad


@dataclass(frozen=True, eq=False)
class Decode(Stage):
    """The training examples of a task with a teacher's answers, as a `distil` file.

    The file is SQuAD-like and named as the original names it, so that other tools read it. Where
    the teacher answers nothing, the given answer stays. `seed` is None where nothing is drawn.
    """

    kind = "decode"
    distributable = True
    teacher: Stage
    data: TaskData
    decoding: Decoding
    max_new_tokens: int
    seed: int | None

    @property
    def task(self) -> str:
        return self.data.task

    @property
    def file(self) -> str:
        return f"{self.data.task}_to_squad-distil-v2.0.json"

    def run(self, context: Context) -> Scores:
        from l2kd_ray.models.causal_lm import CausalLM
        from l2kd_ray.models.sequences import SequenceFormat

        folder = context.files_of(self.teacher)
        text, model = SequenceFormat.load(folder), CausalLM.load(folder).to(context.device)
        examples = self.data.examples()
        stream = (self.seed or 0, "decode", self.data.task)
        how = (self.decoding, self.max_new_tokens, stream)
        decoded = context.shared_out(lambda share: answers(model, text, share, *how), examples)
        targets = [
            replace(example, answers=(answer or example.answers[0],))
            for example, answer in zip(examples, decoded, strict=True)
        ]
        write_squad(context.out / self.file, targets)
        same = [a.answers[0] == b.answers[0] for a, b in zip(targets, examples, strict=True)]
        return {"rows": len(same), "empty": decoded.count(""), "same": 100 * sum(same) / len(same)}

    def examples(self, folder: Path) -> list[Example]:
        """The examples with decoded answers, from this stage's files."""
        return squad.read(str(folder / self.file), {})
