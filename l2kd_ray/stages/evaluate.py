"""Evaluation: one model on one task's split, answers decoded greedily, a score an example."""

from __future__ import annotations

import json
from dataclasses import dataclass

from l2kd_ray.config import Metric
from l2kd_ray.stages.base import Context, Scores, Stage
from l2kd_ray.tasks import TaskData, score

PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True, eq=False)
class Evaluate(Stage):
    """The model's greedy answers to a split, and their score (0 to 100)."""

    kind = "evaluate"
    model: Stage
    data: TaskData
    metric: Metric
    max_new_tokens: int

    def run(self, context: Context) -> Scores:
        from l2kd_ray.models.causal_lm import CausalLM
        from l2kd_ray.models.generation import generate, greedy
        from l2kd_ray.models.sequences import SequenceFormat

        folder = context.files_of(self.model)
        text, model = SequenceFormat.load(folder), CausalLM.load(folder).to(context.device)
        examples = self.data.examples()
        room = min(self.max_new_tokens, model.context // 2)
        prompts = text.test_prompts(examples, model.context - room)
        answers = generate(model, prompts, greedy, max_new_tokens=room, eos=text.eos)
        predictions = [text.decode(answer) for answer in answers]
        total, each = score(self.metric, predictions, examples)
        with (context.out / PREDICTIONS).open("w", encoding="utf-8") as file:
            for example, prediction, value in zip(examples, predictions, each, strict=True):
                line = {"id": example.id, "prediction": prediction, "score": value}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return {self.metric: total}
