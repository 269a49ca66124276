"""Evaluation of a classifier: the label of the largest logit, or the number that it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l2kd_ray.config import TaskKind
from l2kd_ray.stages.base import Context
from l2kd_ray.stages.evaluate import Evaluate
from l2kd_ray.tasks import Example


@dataclass(frozen=True, eq=False)
class EvaluateClassifier(Evaluate):
    """`task_kind` says which of an example's texts are read."""

    task_kind: TaskKind = "classify"

    def answers(self, context: Context, examples: Sequence[Example]) -> list[str]:
        from l2kd_ray.stages.classifier import Labelled, load_classifier
        from l2kd_ray.stages.classify import head_of, logits

        model, labels = load_classifier(context.files_of(self.model))
        model.to(context.device).freeze()
        said = logits(model, Labelled(self.data, self.task_kind), context.device)
        return labels.say(head_of(model, self.data.task), said)
