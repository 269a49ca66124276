"""Replay: the student writes samples of its former tasks before it learns a new one (LAMOL)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l2kd_ray.stages.base import Context, Scores, Stage, generator

if TYPE_CHECKING:
    from l2kd_ray.models.sequences import Sample

SAMPLES = "samples.jsonl"


@dataclass(frozen=True, eq=False)
class Replay(Stage):
    """`per_task` pseudo-samples of each of `tasks`, by top-k sampling from the task's prompt.

    Kept if they hold `<ans>` exactly once; dropped ones are not replaced (as LAMOL does).
    `temperature` and `seed` are None where k is 1, for nothing is drawn then.
    """

    kind = "replay"
    model: Stage
    tasks: tuple[str, ...]
    per_task: int
    top_k: int
    temperature: float | None
    max_length: int | None
    seed: int | None

    def run(self, context: Context) -> Scores:
        from l2kd_ray.models.causal_lm import CausalLM
        from l2kd_ray.models.generation import TopK, generate
        from l2kd_ray.models.sequences import SequenceFormat

        folder = context.files_of(self.model)
        text, model = SequenceFormat.load(folder), CausalLM.load(folder).to(context.device)
        longest = min(self.max_length or model.context, model.context)
        starts = {task: text.prompt(task) for task in self.tasks}
        steps = longest - max(map(len, starts.values())) - 1  # room for the eos of an unended one
        wanted = [task for task in self.tasks for _ in range(self.per_task)]
        streams = [
            generator(self.seed or 0, "replay", task, number)
            for task in self.tasks
            for number in range(self.per_task)
        ]
        sampler = TopK.seeded(self.top_k, self.temperature or 1.0, streams, steps)
        prompts = [starts[task] for task in wanted]
        written = generate(model, prompts, sampler, max_new_tokens=steps, eos=text.eos)
        kept = 0
        with (context.out / SAMPLES).open("w", encoding="utf-8") as file:
            for task, tokens in zip(wanted, written, strict=True):
                sample = text.parse(task, tokens)
                line: dict[str, object] = {"task": task, "ended": tokens[-1:] == [text.eos]}
                if sample is None:
                    line |= {"kept": False, "text": text.decode(tokens), "tokens": tokens}
                else:
                    kept += 1
                    line |= {
                        "kept": True,
                        "question": text.decode(sample.question),
                        "answer": text.decode(sample.answer),
                        "question_tokens": sample.question,
                        "answer_tokens": sample.answer,
                    }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return {"written": len(wanted), "kept": kept, "valid": 100 * kept / max(len(wanted), 1)}


def read_samples(folder: Path) -> list[Sample]:
    """The kept samples of a replay stage's files."""
    return list(_kept(folder))


def _kept(folder: Path) -> Iterator[Sample]:
    from l2kd_ray.models.sequences import Sample

    with (folder / SAMPLES).open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            if line["kept"]:
                yield Sample(line["task"], line["question_tokens"], line["answer_tokens"])
