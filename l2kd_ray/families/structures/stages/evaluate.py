"""Evaluation of a tagger or parser: its best structure, as one label per word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l2kd_ray.core.stage import Context, Scores
from l2kd_ray.families.cut import cut_scores
from l2kd_ray.families.evaluate import Evaluate
from l2kd_ray.tasks import Example
from l2kd_ray.tasks.tagging import words


@dataclass(frozen=True, eq=False)
class EvaluateStructured(Evaluate):
    """Evaluation of a tagger or parser; an answer is its labels joined by spaces."""

    def answers(self, context: Context, examples: Sequence[Example]) -> tuple[list[str], Scores]:
        from l2kd_ray.families.structures.stages.learn import load, tag

        model = load(self.model, context)
        sentences = [words(example.context) for example in examples]
        cut = cut_scores(model.features.excess(sentences))
        return tag(model, sentences, self.task, context.device), cut
